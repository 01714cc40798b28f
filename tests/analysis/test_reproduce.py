"""A claim's reproduction on made-up sets: supported, refuted, not comparable, not measured, with the interval."""

from pathlib import Path

import made
import pytest

from visionquant.analysis.claims import trial
from visionquant.analysis.claims.trial import Tried
from visionquant.analysis.evidence import Evidence


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
    assert word(card, "conclusion/universal") == "supported"
    assert word(card, "conclusion/consistent") == "refuted"
    assert word(card, "groups/edge/int8") == "refuted"
    assert word(processor, "conclusion/universal") == "refuted"
    assert "SLOWER 16" in processor["conclusion/universal"].reproductions[0].why


def test_times_of_another_machine_are_not_compared(processor: dict[str, Tried]) -> None:
    for name in ("latency/dinov2-large-2023/fp32", "latency/dinov2-large-2023/fp16-speedup", "groups/edge/int8"):
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


def test_without_records_nothing_is_supported_but_what_a_test_runs(tmp_path: Path) -> None:
    from visionquant.analysis import evidence

    found = tried(evidence.open_study(made.project(tmp_path).root))
    words = {name: one.reproduction for name, one in found.items() if not one.claim.entry.outcome}
    assert set(words.values()) == {"not measured"}
    assert word(found, "listings/int8-conversion") == "refuted"
