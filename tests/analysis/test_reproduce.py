"""A claim's reproduction on made-up sets: supported, refuted, not comparable, not measured, with the interval."""

from pathlib import Path

import made
import pytest

from visionquant.analysis.claims import claim, formula, ledger
from visionquant.analysis.claims.ledger import CheckedClaim
from visionquant.analysis.claims.reproduction import Evidence
from visionquant.analysis.study import Study, gather
from visionquant.core.paths import Project
from visionquant.settings import params as parameters


def gathered(project: Project) -> Study:
    return gather(project, parameters.load(project))


def checked(study: Study) -> dict[str, CheckedClaim]:
    return {one.claim.id: one for one in ledger.check_claims(study).claims}


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CheckedClaim]:
    """On the published card: FP16 twice as fast, INT8 and NF4 slower, an image in about 7.57 ms."""
    root = tmp_path_factory.mktemp("card")
    return checked(made.study(root, {"fp32": 1.0, "fp16": 0.5, "int8": 3.0, "nf4": 3.0}, made.CARD, 7.5))


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CheckedClaim]:
    root = tmp_path_factory.mktemp("cpu")
    return checked(made.study(root, {"fp32": 1.0, "fp16": 2.0, "int8": 0.5, "nf4": 0.5}))


def word(found: dict[str, CheckedClaim], name: str) -> str:
    return found[name].reproduction


def test_times_on_the_published_card_are_checked_with_their_interval(card: dict[str, CheckedClaim]) -> None:
    assert word(card, "latency/vit-base-384-production/fp32") == "undecided"  # 8.07 published, 5 % allowed
    assert word(card, "latency/dinov2-large-2023/fp32") == "refuted"
    assert word(card, "latency/dinov2-large-2023/fp16-speedup") == "supported"  # 1.96 published, 2.00
    assert word(card, "latency/dinov2-base-2023/fp16-speedup") == "refuted"
    one = card["latency/dinov2-large-2023/fp16-speedup"].reproductions[0]
    assert one.low is not None
    assert one.high is not None
    assert one.low < 2.0 < one.high


def test_sentences_are_checked_by_verdicts(card: dict[str, CheckedClaim], processor: dict[str, CheckedClaim]) -> None:
    assert word(card, "conclusion/universal-speed") == "supported"
    assert word(card, "conclusion/consistent-speed") == "refuted"
    assert word(card, "groups/edge/int8-speed") == "refuted"
    assert word(processor, "conclusion/universal-speed") == "refuted"
    assert "SLOWER 16" in processor["conclusion/universal-speed"].reproductions[0].why


def test_times_of_another_machine_are_not_compared(processor: dict[str, CheckedClaim]) -> None:
    for name in ("latency/dinov2-large-2023/fp32", "latency/dinov2-large-2023/fp16-speedup", "groups/edge/int8-speed"):
        assert word(processor, name) == "not comparable"
    assert processor["latency/dinov2-large-2023/fp32"].reproductions[0].value is not None


def test_bytes_are_compared_on_every_machine(processor: dict[str, CheckedClaim]) -> None:
    assert word(processor, "memory/vit-huge-patch14-2020/int8") == "supported"
    assert word(processor, "memory/vit-huge-patch14-2020/int4") == "refuted"
    assert word(processor, "int4-is-nf4") == "refuted"
    assert word(processor, "models/vit-huge-patch14-2020") == "supported"
    assert word(processor, "conclusion/int8") == "supported"


def test_what_no_measurement_bears_on_says_so(processor: dict[str, CheckedClaim]) -> None:
    assert word(processor, "costs/roi") == "not measured"
    assert word(processor, "edge/power") == "not measured"
    assert processor["edge/power"].reproductions[0].why


def test_without_records_nothing_is_measured(tmp_path: Path) -> None:
    found = checked(gathered(made.project(tmp_path)))
    assert {one.reproduction for one in found.values()} == {"not measured"}


def test_a_rerun_that_gives_the_published_figures_refutes_nothing_that_follows(tmp_path: Path) -> None:
    """On the published card, every latency as printed, within a thousandth."""
    project = made.project(tmp_path)
    empty = gathered(project)
    for model in empty.params.study.models:
        for precision in empty.params.study.precisions:
            printed = [empty.published.cells["latency_median", model, name].value for name in ("fp32", precision)]
            base, times = (
                [[ms * each * (1 + i / 1e5) for i in range(20)] for each in (0.9999, 1.0, 1.0001)] for ms in printed
            )
            cell = made.cell(1, times, base, blocks=2, device_bytes=2**20, gpu=True)
            row = made.record(model, precision, [cell], made.CARD)
            made.write(project.record(model, precision), row)
    found = checked(gathered(project))
    sections = ("latency", "throughput", "statistics", "groups")
    members = [one for one in found.values() if one.claim.entry.section in sections]
    timed = [one for one in members if "memory" not in one.claim.id]
    follow = [one for one in timed if one.internal.word == "follows"]
    assert [one.claim.id for one in follow if one.reproduction == "refuted"] == []
    assert word(found, "groups/edge/max") == "supported"
    assert word(found, "statistics/fp16-speedup/p95") == "supported"
    assert sum(one.reproduction == "supported" for one in timed) > 100


def test_the_supplements_validation_is_judged_on_the_published_card_alone(tmp_path: Path) -> None:
    factors = {"fp32": 1.0, "fp16": 0.4, "int8": 2.0, "nf4": 2.0}
    words = {}
    for name, machine in (("cpu", made.CPU), ("card", made.CARD)):
        found = ledger.validation(made.study(tmp_path / name, factors, machine))
        words[name] = [one.word for _, one in found]
        assert found[0][0].row == "vit_huge_fp16_speedup"
    assert words["cpu"] == ["not comparable"] * 3
    assert words["card"] == ["supported", "refuted", "not measured"]  # what is allocated is lost in the blocks
    assert found[0][1].text.startswith("supported, measured 2.500 (2.48")


def test_speeds_before_rounds_leave_a_claim_undecided(tmp_path: Path) -> None:
    """On the published card each precision is twice as fast as FP32, but no arms took turns."""
    project = made.project(tmp_path)
    params = parameters.load(project)
    for model, precision in params.pairs():
        cell = made.cell(1, made.times(10.0 if precision == "fp32" else 5.0), device_bytes=2**20, gpu=True)
        made.write(project.record(model, precision), made.record(model, precision, [cell], made.CARD))
    found = checked(gathered(project))
    names = ("conclusion/universal-speed", "statistics/fp16-speedup/mean", "latency/dinov2-large-2023/fp16-speedup")
    assert [word(found, name) for name in names] == ["undecided"] * 3
    assert found[names[1]].reproductions[0].why.startswith("16 of 16 models have no interval")
    assert found[names[2]].reproductions[0].why == "before rounds: no interval, no verdict"


def test_an_interval_that_sticks_out_is_undecided(tmp_path: Path) -> None:
    """The median is the published one; the rounds are 20 % apart."""
    project = made.project(tmp_path)
    times = [[5.69 * each] * 20 for each in (0.9, 1.0, 1.1)]
    row = made.record("dinov2-base-2023", "fp32", [made.cell(1, times, device_bytes=2**20, gpu=True)], made.CARD)
    made.write(project.record("dinov2-base-2023", "fp32"), row)
    found = checked(gathered(project))["latency/dinov2-base-2023/fp32"].reproductions[0]
    assert (found.word, found.value) == ("undecided", pytest.approx(5.69))


class Metered(Evidence):
    """The published card with a counter that read one joule an image in FP32."""

    def _column(self, quantity: str, precision: str, models: tuple[str, ...]) -> dict[str, float]:
        assert quantity == "energy_per_image"
        left = {"fp32": (1.0, 1.0), "fp16": (0.61, 0.59)}[precision]
        return {model: left[i % 2] for i, model in enumerate(models)}


def test_a_range_over_models_is_no_confidence_interval(tmp_path: Path) -> None:
    """40 % are printed. 39 and 41 are saved, within the tolerance, but by one reading of each model."""
    study = made.study(tmp_path, {"fp32": 1.0, "fp16": 0.5, "int8": 3.0, "nf4": 3.0}, made.CARD, 7.5)
    claims = {
        one.id: one
        for one in claim.load_claims(study.project, formula.all_names(study.project, study.published, 8.125))[1]
    }
    found = Metered(study, study.measured, claims["edge/power"]).reproduce()
    assert (found.word, found.low, found.high) == ("undecided", None, None)
    assert found.value == pytest.approx(40.0)
    assert "39 to 41 % by model; one reading a cell: no interval" in found.why


def test_a_fault_of_the_code_is_no_fault_of_claims_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A KeyError ten calls deep goes through as it is."""

    def broken(self: Study, *key: object) -> None:
        raise KeyError("facts")

    study = made.study(tmp_path, {"fp32": 1.0, "fp16": 0.5, "int8": 3.0, "nf4": 3.0}, made.CARD, 7.5)
    monkeypatch.setattr(Study, "row", broken)
    with pytest.raises(KeyError, match="facts"):
        ledger.check_claims(study)
