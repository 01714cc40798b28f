"""Every published number is a claim, each is judged by its formula, and none is decorative."""

import csv
import dataclasses
import io
import re
from collections import Counter
from decimal import Decimal

import made
import pytest
import tiny
import yaml

from visionquant.analysis import story
from visionquant.analysis import study as evidence
from visionquant.analysis.claims import claim, tables, trial
from visionquant.analysis.claims.claim import Ledger
from visionquant.analysis.claims.judge import Judgement
from visionquant.analysis.claims.tables import Tables
from visionquant.analysis.study import Evidence
from visionquant.core.errors import StudyError

TABLES = ("latency", "memory", "throughput")
# Counted by hand in the supplement, so that none goes missing from the file.
SECTIONS = {
    "methodology": 17, "models": 16, "latency": 96, "memory": 60, "throughput": 36, "statistics": 16, "groups": 16,
    "guide": 8, "hardware": 7, "costs": 16, "edge": 5, "accuracy": 4, "roadmap": 2, "reproducibility": 6,
    "conclusion": 11,
}  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Evidence:
    return evidence.open_study(tiny.ROOT)


@pytest.fixture(scope="module")
def opened(study: Evidence) -> tuple[Ledger, Tables]:
    return trial.opened(study)


@pytest.fixture(scope="module")
def judged(opened: tuple[Ledger, Tables]) -> dict[str, Judgement]:
    ledger, texts = opened
    return dict(zip([one.id for one in ledger.claims], trial.internal(ledger, texts), strict=True))


def test_every_section_has_as_many_claims_as_it_says(opened: tuple[Ledger, Tables]) -> None:
    ledger, _ = opened
    counted = Counter(one.entry.section for one in ledger.claims)
    assert counted == {section.id: section.claims for section in ledger.sections}
    assert counted == SECTIONS
    assert sum(counted[name] for name in TABLES) == 192


def test_every_printed_number_is_one_claim(opened: tuple[Ledger, Tables]) -> None:
    """Of the tables and of every other file of printed figures, each cell once."""
    ledger, texts = opened
    places = Counter((one.entry.table, one.row, one.entry.column) for one in ledger.claims if one.entry.table)
    assert max(places.values()) == 1
    figures = {
        place
        for place in texts.cells
        if place[0] in TABLES
        or (place[0], place[2])
        in {("statistics", "value"), ("groups", "value"), ("ownership", "published"), ("edge", "published"),
            ("validation", "expected"), ("models", "parameters_millions")}
        or (place[0] == "costs")
    }  # fmt: skip
    assert figures - set(places) == set()


def test_no_number_of_a_table_is_copied_into_the_claims() -> None:
    raw = yaml.safe_load((tiny.ROOT / claim.FILE).read_text())
    assert [one["id"] for one in raw["claims"] if "printed" in one and "table" in one] == []


@pytest.mark.parametrize(("name", "word"), [
    ("latency/vit-huge-patch14-2020/fp16-speedup", "follows"),
    ("latency/vit-huge-patch14-2020/fp32", "underdetermined"),
    ("memory/vit-huge-patch14-2020/fp32", "follows"),
    ("memory/vit-huge-patch14-2020/int4", "contradicted"),
    ("throughput/dinov2-large-2023/fp16-improvement", "follows"),
    ("statistics/fp16-speedup/mean", "follows"),
    ("statistics/fp16-speedup/std", "contradicted"),
    ("statistics/fp16-speedup/p95", "follows"),
    ("statistics/fp16-memory/mean", "underdetermined"),
    ("statistics/fp16-memory/std", "contradicted"),
    ("groups/edge/max", "follows"),
    ("groups/edge/int8-speed", "contradicted"),
    ("groups/edge/int8-memory", "underdetermined"),
    ("groups/edge/rule", "contradicted"),
    ("costs/p3.8xlarge/fp16-instances", "follows"),
    ("costs/p3.8xlarge/monthly", "underdetermined"),
    ("edge/memory", "underdetermined"),
    ("costs/roi", "contradicted"),
    ("costs/g4dn.xlarge/annual", "follows"),
    ("conclusion/universal-speed", "contradicted"),
    ("conclusion/universal-memory", "follows"),
    ("conclusion/int8", "follows"),
    ("experiments", "follows"),
    ("int4-is-nf4", "contradicted"),
])  # fmt: skip
def test_known_verdicts(judged: dict[str, Judgement], name: str, word: str) -> None:
    assert judged[name].internal == word, judged[name].why


def test_the_reading_that_fits_is_named(judged: dict[str, Judgement]) -> None:
    assert judged["statistics/fp16-speedup/p95"].why.startswith("lower: 2.12")
    assert judged["groups/foundation/speedup"].why.startswith("300M or more: 1.74")


def test_a_judgement_names_its_inputs(judged: dict[str, Judgement]) -> None:
    assert dict(judged["latency/vit-huge-patch14-2020/fp16-speedup"].inputs) == {
        "latency.csv vit-huge-patch14-2020 fp16_speedup": "2.50",
        "latency.csv vit-huge-patch14-2020 fp32_ms": "25.59",
        "latency.csv vit-huge-patch14-2020 fp16_ms": "10.24",
    }


def test_changing_a_number_changes_exactly_the_claims_that_use_it(
    opened: tuple[Ledger, Tables], judged: dict[str, Judgement], study: Evidence
) -> None:
    """A mutation of every cell of the three tables: the claims that change are those that name the cell.

    182 of 192 turn a figure, a gap or a verdict. The other ten are INT4 latencies of models without a throughput row:
    nothing that is printed uses them but sentences on all models, which one figure does not turn.
    """
    ledger, texts = opened
    own = {(one.entry.table, one.row, one.entry.column): one.id for one in ledger.claims}
    quiet = []
    for place, text in texts.cells.items():
        if place[0] not in TABLES:
            continue
        mutated = dataclasses.replace(texts, cells={**texts.cells, place: str(Decimal(text) * 3 + 1)})
        found = dict(zip(judged, trial.internal(claim.load(study.project, mutated), mutated), strict=True))
        changed = {name for name in judged if found[name] != judged[name]}
        named = f"{place[0]}.csv {place[1]} {place[2]}"
        assert changed == {name for name, one in judged.items() if named in dict(one.inputs)}, place
        assert own[place] in changed
        if not any(_figures(found[name]) != _figures(judged[name]) for name in changed):
            quiet.append(place)
    assert {(table, column) for table, _, column in quiet} == {("latency", "int4_ms")}
    assert len(quiet) == 10


def _figures(one: Judgement) -> tuple[object, ...]:
    return one.internal, one.recomputed, one.low, one.high, one.gap


def test_contradictions_come_strongest_first(study: Evidence) -> None:
    found = trial.hold(study).contradictions()
    gaps = [one.judgement.gap for one in found if one.judgement.gap is not None]
    assert gaps == sorted(gaps, reverse=True)
    assert found[0].claim.id == "costs/roi"
    assert all(one.judgement.gap is None for one in found[len(gaps) :])


def test_the_ledger_is_a_row_a_claim_in_fixed_columns(study: Evidence) -> None:
    tried = trial.hold(study)
    rows = list(csv.DictReader(io.StringIO(trial.text(tried.tried))))
    assert tuple(rows[0]) == trial.COLUMNS
    assert len(rows) == len(tried.tried) == len({row["id"] for row in rows})
    assert {row["internal"] for row in rows} == {"follows", "contradicted", "underdetermined"}


def test_the_story_counts_what_the_trial_counts(study: Evidence) -> None:
    tried = trial.hold(study)
    holds, fails, untested = story.tell(tried)
    assert f"{tried.counted('internal')['follows']} follow" in holds.sentence
    assert str(tried.counted("internal")["contradicted"]) in fails.sentence
    assert str(tried.counted("reproduction")["not comparable"]) in untested.sentence
    assert re.match("Return on investment", fails.cases[0][0])


def edited(tmp_path: object, old: str, new: str) -> Evidence:
    project = made.project(tmp_path)  # type: ignore[arg-type]
    path = project.supplement / "claims.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return evidence.open_study(project.root)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("formula: size(models.parameters_millions)", "formula: sum(models.parameters_millions)", "no function sum"),
    ("section: methodology", "section: metodology", "no section metodology"),
    ("- id: ubuntu", "- id: gpu", "gpu stands there twice"),
    ("kind: not checkable", "kind: doubtful", r"data/supplement/claims\.yaml"),
    ("column: fp32_ms", "column: fp31_ms", "speaks of row vit-huge-patch14-2020, column fp31_ms"),
    ("measures: parameters", "measures: wishes", "measures wishes"),
    ("measures: parameters", "measures: cell/speedup", "measures cell/speedup"),
    ("formula: all(latency.fp16_speedup > 1)", "formula: all(latency.fp16_speedup)", "truths were expected"),
    ("sections:", "sections: [", "not YAML"),
])  # fmt: skip
def test_a_broken_file_is_one_line(tmp_path: object, old: str, new: str, message: str) -> None:
    study = edited(tmp_path, old, new)
    with pytest.raises(StudyError, match=message) as caught:
        trial.hold(study)
    assert "\n" not in str(caught.value)


def test_tables_say_what_is_no_number(study: Evidence) -> None:
    texts = trial.opened(study)[1]
    with pytest.raises(StudyError, match="is no number"):
        texts.printed("setup", "gpu", "value")
    assert tables.head_millions({"hidden_size": 768}) == pytest.approx(0.769)


def test_without_counts_a_claim_is_left_open(tmp_path: object) -> None:
    import shutil

    project = made.project(tmp_path)  # type: ignore[arg-type]
    shutil.rmtree(project.architectures / "vit-huge-patch14-2020")
    tried = {one.claim.id: one for one in trial.hold(evidence.open_study(project.root)).tried}
    found = tried["memory/vit-huge-patch14-2020/fp32"].judgement
    assert (found.internal, found.why) == (
        "underdetermined",
        "no counts of vit-huge-patch14-2020 are committed",
    )
    assert tried["memory/dinov2-large-2023/fp32"].judgement.internal == "follows"


@pytest.mark.parametrize("name", ["statistics.csv", "latency.csv", "claims.yaml"])
def test_a_file_that_is_no_text_is_one_line(tmp_path: object, name: str) -> None:
    project = made.project(tmp_path)  # type: ignore[arg-type]
    study = evidence.open_study(project.root)
    (project.supplement / name).write_bytes(b"\xff\xfe\x00model\n")
    with pytest.raises(StudyError, match=name.replace(".", r"\.")) as caught:
        trial.hold(study)
    assert "\n" not in str(caught.value)
