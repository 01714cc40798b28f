"""A claim's reproduction on made-up sets: supported, refuted, not comparable, not measured, with the interval."""

from pathlib import Path

import made
import pytest

from visionquant.analysis.claims import trial
from visionquant.analysis.claims.trial import Tried
from visionquant.analysis.study import Evidence


def tried(study: Evidence) -> dict[str, Tried]:
    return {one.claim.id: one for one in trial.hold(study).tried}


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tried]:
    """On the published card: FP16 twice as fast, INT8 and NF4 slower, an image in about 7.57 ms."""
    root = tmp_path_factory.mktemp("card")
    return tried(made.study(root, {"fp32": 1.0, "fp16": 0.5, "int8": 3.0, "nf4": 3.0}, made.CARD, 7.5))


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tried]:
    root = tmp_path_factory.mktemp("cpu")
    return tried(made.study(root, {"fp32": 1.0, "fp16": 2.0, "int8": 0.5, "nf4": 0.5}))


def word(found: dict[str, Tried], name: str) -> str:
    return found[name].reproduction


def test_times_on_the_published_card_are_judged_with_their_interval(card: dict[str, Tried]) -> None:
    assert word(card, "latency/vit-base-384-production/fp32") == "undecided"  # 8.07 published, 5 % allowed
    assert word(card, "latency/dinov2-large-2023/fp32") == "refuted"
    assert word(card, "latency/dinov2-large-2023/fp16-speedup") == "supported"  # 1.96 published, 2.00
    assert word(card, "latency/dinov2-base-2023/fp16-speedup") == "refuted"
    one = card["latency/dinov2-large-2023/fp16-speedup"].reproductions[0]
    assert one.low is not None
    assert one.high is not None
    assert one.low < 2.0 < one.high


def test_sentences_are_judged_by_verdicts(card: dict[str, Tried], processor: dict[str, Tried]) -> None:
    assert word(card, "conclusion/universal-speed") == "supported"
    assert word(card, "conclusion/consistent-speed") == "refuted"
    assert word(card, "groups/edge/int8-speed") == "refuted"
    assert word(processor, "conclusion/universal-speed") == "refuted"
    assert "SLOWER 16" in processor["conclusion/universal-speed"].reproductions[0].why


def test_times_of_another_machine_are_not_compared(processor: dict[str, Tried]) -> None:
    for name in ("latency/dinov2-large-2023/fp32", "latency/dinov2-large-2023/fp16-speedup", "groups/edge/int8-speed"):
        assert word(processor, name) == "not comparable"
    assert processor["latency/dinov2-large-2023/fp32"].reproductions[0].value is not None


def test_bytes_are_compared_on_every_machine(processor: dict[str, Tried]) -> None:
    assert word(processor, "memory/vit-huge-patch14-2020/int8") == "supported"
    assert word(processor, "memory/vit-huge-patch14-2020/int4") == "refuted"
    assert word(processor, "int4-is-nf4") == "refuted"
    assert word(processor, "models/vit-huge-patch14-2020") == "supported"
    assert word(processor, "conclusion/int8") == "supported"


def test_what_no_measurement_bears_on_says_so(processor: dict[str, Tried]) -> None:
    assert word(processor, "costs/roi") == "not measured"
    assert word(processor, "edge/power") == "not measured"
    assert processor["edge/power"].reproductions[0].why


def test_without_records_nothing_is_measured(tmp_path: Path) -> None:
    from visionquant.analysis import study as evidence

    found = tried(evidence.open_study(made.project(tmp_path).root))
    assert {one.reproduction for one in found.values()} == {"not measured"}


def test_a_rerun_that_gives_the_published_figures_refutes_nothing_that_follows(tmp_path: Path) -> None:
    """On the published card, every latency as printed, within a thousandth."""
    from visionquant.analysis import study as evidence
    from visionquant.records import record

    project = made.project(tmp_path)
    empty = evidence.open_study(project.root)
    for model in empty.params.study.models:
        for precision in empty.params.study.precisions:
            ms = empty.published.value("latency_median", model, precision)
            assert ms is not None
            times = [[ms * process * (1 + i / 1e5) for i in range(20)] for process in (0.9999, 1.0, 1.0001)]
            row = made.record(model, precision, [made.cell(1, times, device_bytes=2**20, gpu=True)], made.CARD)
            record.write(project.record(model, precision), row)
    found = tried(evidence.open_study(project.root))
    sections = ("latency", "throughput", "statistics", "groups")
    members = [one for one in found.values() if one.claim.entry.section in sections]
    timed = [one for one in members if "memory" not in one.claim.id]
    follow = [one for one in timed if one.judgement.internal == "follows"]
    assert [one.claim.id for one in follow if one.reproduction == "refuted"] == []
    assert word(found, "groups/edge/max") == "supported"
    assert word(found, "statistics/fp16-speedup/p95") == "supported"
    assert sum(one.reproduction == "supported" for one in timed) > 100


def test_an_interval_that_sticks_out_is_undecided(tmp_path: Path) -> None:
    """The median is the published one; the processes are 20 % apart."""
    from visionquant.analysis import study as evidence
    from visionquant.records import record

    project = made.project(tmp_path)
    times = [[5.69 * process] * 20 for process in (0.9, 1.0, 1.1)]
    row = made.record("dinov2-base-2023", "fp32", [made.cell(1, times, device_bytes=2**20, gpu=True)], made.CARD)
    record.write(project.record("dinov2-base-2023", "fp32"), row)
    found = tried(evidence.open_study(project.root))["latency/dinov2-base-2023/fp32"].reproductions[0]
    assert (found.word, found.value) == ("undecided", pytest.approx(5.69))
