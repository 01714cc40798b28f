"""Every published number is a claim, each is checked by its formula, and none is decorative."""

import csv
import dataclasses
import io
import re
from collections import Counter
from decimal import Decimal

import made
import pytest
import yaml

from visionquant.analysis.claims import claim, formula, interval, ledger
from visionquant.analysis.claims.claim import Claim, SectionRow
from visionquant.analysis.claims.formula import Names
from visionquant.analysis.claims.ledger import InternalCheck, Ledger, check_internally
from visionquant.analysis.published import Printed
from visionquant.analysis.study import Study, gather
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.report.pages import claims_page
from visionquant.settings import params as parameters

TABLES = ("latency", "memory", "throughput")
# Counted by hand in the supplement, so that none goes missing from the file.
SECTIONS = {
    "methodology": 17, "models": 16, "latency": 96, "memory": 60, "throughput": 36, "statistics": 16, "groups": 16,
    "guide": 8, "hardware": 7, "costs": 16, "edge": 5, "accuracy": 4, "roadmap": 2, "reproducibility": 6,
    "conclusion": 11,
}  # fmt: skip


def gathered(project: Project) -> Study:
    return gather(project, parameters.load(project))


@pytest.fixture(scope="module")
def study() -> Study:
    return gathered(Project(made.ROOT))


@pytest.fixture(scope="module")
def names(study: Study) -> Names:
    return opened(study)


def opened(study: Study) -> Names:
    return formula.all_names(study.project, study.published, study.params.report.workspace_mib)


@pytest.fixture(scope="module")
def loaded(study: Study, names: Names) -> tuple[tuple[SectionRow, ...], tuple[Claim, ...]]:
    return claim.load_claims(study.project, names)


@pytest.fixture(scope="module")
def checks(study: Study, names: Names) -> dict[str, InternalCheck]:
    return checked(study, names)


@pytest.fixture(scope="module")
def whole(study: Study) -> Ledger:
    return ledger.check_claims(study)


def checked(study: Study, names: Names) -> dict[str, InternalCheck]:
    return {one.id: check_internally(one, names) for one in claim.load_claims(study.project, names)[1]}


def test_every_section_has_as_many_claims_as_it_says(
    loaded: tuple[tuple[SectionRow, ...], tuple[Claim, ...]],
) -> None:
    sections, claims = loaded
    counted = Counter(one.entry.section for one in claims)
    assert counted == {section.id: section.claims for section in sections}
    assert counted == SECTIONS
    assert sum(counted[name] for name in TABLES) == 192


def test_every_printed_number_is_one_claim(
    loaded: tuple[tuple[SectionRow, ...], tuple[Claim, ...]], names: Names
) -> None:
    """Of the tables and of every other file of printed figures, each cell once."""
    places = Counter((one.entry.table, one.row, one.entry.column) for one in loaded[1] if one.entry.table)
    assert max(places.values()) == 1
    figures = {
        place
        for place in names.texts
        if place[0] in TABLES
        or (place[0], place[2])
        in {("statistics", "value"), ("groups", "value"), ("ownership", "published"), ("edge", "published"),
            ("validation", "expected"), ("models", "parameters_millions")}
        or (place[0] == "costs")
    }  # fmt: skip
    assert figures - set(places) == set()


def test_no_number_of_a_table_is_copied_into_the_claims() -> None:
    raw = yaml.safe_load((made.ROOT / claim.FILE).read_text())
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
def test_known_verdicts(checks: dict[str, InternalCheck], name: str, word: str) -> None:
    assert checks[name].word == word, checks[name].why


def test_the_reading_that_fits_is_named(checks: dict[str, InternalCheck]) -> None:
    assert checks["statistics/fp16-speedup/p95"].why.startswith("lower: 2.12")
    assert checks["groups/foundation/speedup"].why.startswith("300M or more: 1.74")


def test_a_check_names_its_inputs(checks: dict[str, InternalCheck]) -> None:
    model = "vit-huge-patch14-2020"
    assert dict(checks[f"latency/{model}/fp16-speedup"].inputs) == {
        ("latency", model, "fp16_speedup"): "2.50",
        ("latency", model, "fp32_ms"): "25.59",
        ("latency", model, "fp16_ms"): "10.24",
    }


def test_changing_a_number_changes_exactly_the_claims_that_use_it(
    study: Study, names: Names, checks: dict[str, InternalCheck]
) -> None:
    """A mutation of every cell of the three tables: the claims that change are those that name the cell.

    182 of 192 turn a figure, a gap or a verdict. The other ten are INT4 latencies of models without a throughput row:
    nothing that is printed uses them but sentences on all models, which one figure does not turn.
    """
    claims = claim.load_claims(study.project, names)[1]
    own = {(one.entry.table, one.row, one.entry.column): one for one in claims}
    quiet = []
    for place, text in names.texts.items():
        if place[0] not in TABLES:
            continue
        (table, row, column), printed = place, Printed(str(Decimal(text) * 3 + 1))
        figure = interval.rounded(printed.value, printed.half)
        numbers = {**names.numbers, (table, column): {**names.numbers[table, column], row: figure}}
        mutated = dataclasses.replace(names, texts={**names.texts, place: printed.text}, numbers=numbers)
        after = {one.id: check_internally(one, mutated) for one in claims if one is not own[place]}
        mine = dataclasses.replace(own[place], printed=printed, figure=figure)
        after[mine.id] = check_internally(mine, mutated)
        changed = {name for name in checks if after[name] != checks[name]}
        assert changed == {name for name, one in checks.items() if place in dict(one.inputs)}, place
        assert mine.id in changed
        if not any(_figures(after[name]) != _figures(checks[name]) for name in changed):
            quiet.append(place)
    assert {(table, column) for table, _, column in quiet} == {("latency", "int4_ms")}
    assert len(quiet) == 10


def _figures(one: InternalCheck) -> tuple[object, ...]:
    return one.word, one.value, one.low, one.high, one.gap


def test_contradictions_come_strongest_first(whole: Ledger) -> None:
    found = whole.contradictions()
    gaps = [one.internal.gap for one in found if one.internal.gap is not None]
    assert gaps == sorted(gaps, reverse=True)
    assert found[0].claim.id == "costs/roi"
    assert all(one.internal.gap is None for one in found[len(gaps) :])


def test_the_ledger_is_a_row_a_claim_in_fixed_columns(study: Study, whole: Ledger) -> None:
    (path, text), *others = ledger.contents(study, whole).items()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert (path.name, others) == ("claims.csv", [])
    columns = "id section kind published recomputed low high internal reproduction why"
    assert list(rows[0]) == columns.split()
    assert len(rows) == len(whole.claims) == len({row["id"] for row in rows})
    assert {row["internal"] for row in rows} == {"follows", "contradicted", "underdetermined"}


def test_the_story_counts_what_the_ledger_counts(whole: Ledger) -> None:
    holds, fails, untested = claims_page.story(whole)
    assert f"{whole.counted('internal')['follows']} follow" in holds.sentence
    assert str(whole.counted("internal")["contradicted"]) in fails.sentence
    assert str(whole.counted("reproduction")["not comparable"]) in untested.sentence
    assert re.match("Return on investment", fails.cases[0][0])


def edited(tmp_path: object, old: str, new: str) -> Study:
    project = made.project(tmp_path)  # type: ignore[arg-type]
    path = project.supplement / "claims.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return gathered(project)


SPEED, SIZE = "formula: all(latency.fp16_speedup > 1)", "formula: size(models.parameters_millions)"


@pytest.mark.parametrize(("old", "new", "message"), [
    (SIZE, "formula: sum(models.parameters_millions)", "no function sum"),
    ("section: methodology", "section: metodology", "no section metodology"),
    ("- id: ubuntu", "- id: gpu", "gpu stands there twice"),
    ("kind: not checkable", "kind: doubtful", r"data/supplement/claims\.yaml"),
    ("column: fp32_ms", "column: fp31_ms", "speaks of row vit-huge-patch14-2020, column fp31_ms"),
    ("table: models", "table: modells", r"modells\.csv: claims\.yaml speaks of row any"),
    ("only: [iterations]", "only: [gpu]", r"setup\.csv: gpu: 'NVIDIA RTX 4070 Ti SUPER \(16GB VRAM\)' is no number"),
    ("{what: parameters}", "{what: wishes}", "models/vit-huge-patch14-2020 measures wishes: unknown; known: cell, mem"),
    ("{what: parameters}", "{what: cell, quantity: speedup}", "measures cell: precision: missing required argument"),
    ("precision: nf4", "precission: nf4", "measures published_bytes: precision: missing required argument"),
    ("precision: nf4", "precision: nf5", "measures published_bytes: precision: input should be 'fp32', 'fp16', 'i"),
    ("{what: parameters}", "parameters", "measures: input should be a valid dictionary, found 'parameters'"),
    (SPEED, "formula: mean(latency.fp16_speedup)", "universal-speed: .* gives no truth, which a sentence needs"),
    (SIZE, "formula: models.parameters_millions + 0", "model-count: .* gives a column, no figure"),
    (SPEED, "formula: all(latency.fp16_speedup)", "truths were expected"),
    ("sections:", "sections: [", "not YAML"),
])  # fmt: skip
def test_a_broken_file_is_one_line(tmp_path: object, old: str, new: str, message: str) -> None:
    study = edited(tmp_path, old, new)
    with pytest.raises(StudyError, match=message) as caught:
        ledger.check_claims(study)
    assert "\n" not in str(caught.value)


def test_a_head_of_a_thousand_classes_is_counted() -> None:
    assert formula.head_millions({"hidden_size": 768}) == pytest.approx(0.769)


def test_without_counts_a_claim_is_left_open(tmp_path: object) -> None:
    import shutil

    project = made.project(tmp_path)  # type: ignore[arg-type]
    shutil.rmtree(project.architectures / "vit-huge-patch14-2020")
    study = gathered(project)
    checks = checked(study, opened(study))
    found = checks["memory/vit-huge-patch14-2020/fp32"]
    assert (found.word, found.why) == ("underdetermined", "no counts of vit-huge-patch14-2020 are committed")
    assert checks["memory/dinov2-large-2023/fp32"].word == "follows"


@pytest.mark.parametrize("name", ["statistics.csv", "latency.csv", "claims.yaml"])
def test_a_file_that_is_no_text_is_one_line(tmp_path: object, name: str) -> None:
    project = made.project(tmp_path)  # type: ignore[arg-type]
    (project.supplement / name).write_bytes(b"\xff\xfe\x00model\n")
    with pytest.raises(StudyError, match=name.replace(".", r"\.")) as caught:
        ledger.check_claims(gathered(project))
    assert "\n" not in str(caught.value)
