"""The A/A gate: equal passes are let through, a machine that changed between them is not."""

from dataclasses import replace
from pathlib import Path

import made
import numpy as np
import pytest

from visionquant.analysis import comparison
from visionquant.analysis.study import MachineSet, Study, gather
from visionquant.core.errors import StudyError
from visionquant.records import record as records
from visionquant.records.archive import Records

MODELS = ("deit-tiny-ultra-efficient", "dino-vits16-production", "mobilevit-xxs-edge", "mobilevit-small-edge",
          "deit-small-distilled-224")  # fmt: skip
PRECISIONS = ("fp32", "fp16", "int8", "nf4")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made.study(tmp_path_factory.mktemp("study"), {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 3.0})


def passed(seed: int, spread: float, factor: float = 1.0) -> Records:
    """A pass over twenty cells, five processes each, whose log medians scatter by ``spread``."""
    random = np.random.default_rng(seed)
    found = {}
    for model in MODELS:
        for precision in PRECISIONS:
            times = [[100 * factor * float(np.exp(random.normal(0, spread)))] * 5 for _ in range(5)]
            found[model, precision] = made.record(model, precision, [made.cell(1, times)])
    return found


def outcome(study: Study, first: Records, second: Records) -> comparison.RepeatedRun:
    return comparison.repeated_run(study, MachineSet("local", {}, (first, second)))


def test_equal_passes_pass_and_the_noise_floor_is_that_of_the_spread(study: Study) -> None:
    found = outcome(study, passed(1, 0.01), passed(2, 0.01))
    assert found.passed
    assert found.different == 0
    assert found.bound == 3  # of 20 cells at 5 %
    assert len(found.cells) == 20
    assert len(found.floor) == 40
    assert float(np.median(found.floor)) == pytest.approx(2.776 * 0.01 / 5**0.5, rel=0.2)
    assert found.processes == (5,)


def test_a_machine_that_changed_between_the_passes_is_found(study: Study) -> None:
    found = outcome(study, passed(1, 0.005), passed(2, 0.005, factor=1.1))
    assert not found.passed
    assert found.different == 20
    assert "A/A FAILED: 20 of 20 compared cells called different" in found.lines[-1]


def test_the_gate_holds_over_many_studies(study: Study) -> None:
    """Of simulated A/A runs of an unchanged machine one in twenty may fail by the bound, and few by the verdict."""
    runs = [outcome(study, passed(2 * i, 0.01), passed(2 * i + 1, 0.01)) for i in range(60)]
    assert sum(one.different > 0 for one in runs) <= 8  # 5 % of 60 is 3; more than 8 has a chance of 0.3 %
    assert sum(not one.passed for one in runs) <= 12


def test_too_few_cells_decide_nothing(study: Study) -> None:
    few = {pair: record for pair, record in passed(1, 0.01).items() if pair[1] != "nf4"}
    found = outcome(study, few, few)
    assert (found.different, found.compared) == (0, 15)
    assert not found.passed


def test_a_set_without_an_aa_run_says_what_to_do(study: Study) -> None:
    with pytest.raises(StudyError, match="run `visionquant aa-test`"):
        comparison.repeated_run(study, study.measured)


def test_a_local_run_is_found_beside_the_records(tmp_path: Path) -> None:
    found = made.study(tmp_path, dict.fromkeys(PRECISIONS, 1.0))
    assert found.local.aa is None
    for side, records_ in (("first", passed(1, 0.01)), ("second", passed(2, 0.01))):
        for (model, precision), one in records_.items():
            records.write(found.project.local / "aa" / side / f"{model}-{precision}.json", one)
    again = gather(found.project, found.params)
    assert again.local.aa is not None
    assert len(again.local.aa[0]) == 20
    assert set(again.local.records) == set(found.local.records)  # the study's own are not touched


def test_what_moved_between_the_passes_counts_against_verdicts(tmp_path: Path) -> None:
    """FP16 at 0.9 of FP32's time is FASTER on a machine that stays, and UNDECIDED on one that moves by 20 %."""
    found = made.study(tmp_path, {"fp32": 1.0, "fp16": 0.9, "int8": 2.0, "nf4": 3.0})
    steady = MachineSet("local", found.measured.records, (passed(1, 0.001), passed(2, 0.001)))
    moving = MachineSet("local", found.measured.records, (passed(1, 0.001), passed(2, 0.001, factor=1.2)))
    assert steady.shift < 0.005
    assert moving.shift == pytest.approx(np.log(1.2), abs=0.005)
    before, after = (replace(found, sets=(one,)) for one in (steady, moving))
    key = ("local", MODELS[0], "fp16", 1, "speedup")
    assert before.row(*key).verdict == "FASTER"
    assert after.row(*key).verdict == "UNDECIDED"
    assert "may have moved by 20" in after.row(*key).reason
    assert after.row("local", MODELS[0], "nf4", 1, "speedup").verdict == "SLOWER"
