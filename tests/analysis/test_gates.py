"""Two gates: a placebo that is as fast as FP32 is let through, first rounds unlike last ones are not."""

from pathlib import Path

import made
import numpy as np
import pytest

from visionquant.analysis import gates
from visionquant.analysis.study import MachineSet, Study, gather
from visionquant.records.record import Record
from visionquant.settings import params

MODELS = ("deit-tiny-ultra-efficient", "dino-vits16-production", "mobilevit-xxs-edge", "mobilevit-small-edge",
          "deit-small-distilled-224")  # fmt: skip
PRECISIONS = ("fp32", "fp16", "int8", "nf4")
ROUNDS = 10


def records(
    seed: int, spread: float, placebo: float = 1.0, unsteady: float = 0.002, later: float = 1.0
) -> list[Record]:
    """Twenty cells of ten rounds whose logs scatter by ``spread``; the placebo takes ``placebo`` times FP32's time.

    ``unsteady`` is how much placebo and precision scatter beside FP32; ``later``: how long the last five rounds take.
    """
    random = np.random.default_rng(seed)
    found = []
    for model in MODELS:
        for precision in PRECISIONS:
            machine = 100 * np.exp(random.normal(0, spread, (ROUNDS, 1))) * later ** (np.arange(ROUNDS) >= 5)[:, None]
            arms = (machine * np.exp(random.normal(0, unsteady, (ROUNDS, 4))) for _ in range(2))
            own, second = (arm.tolist() for arm in arms)
            base = np.repeat(machine, 4, axis=1).tolist()
            other = (placebo * np.array(second)).tolist()
            cell = made.cell(1, base if precision == "fp32" else own, base, other, blocks=2)
            found.append(made.record(model, precision, [cell]))
    return found


def study(root: Path, found: list[Record]) -> Study:
    project = made.project(root)
    for one in found:
        made.write(project.record(one.model, one.precision), one)
    return gather(project, params.load(project))


def test_a_placebo_as_fast_as_fp32_passes(tmp_path: Path) -> None:
    opened = study(tmp_path, records(1, 0.05))
    found = gates.placebo_gate(opened, opened.local)
    assert found.passed
    assert (found.cells, found.outside, found.not_resolved) == (20, 0, 0)
    assert found.ratio == pytest.approx(1.0, abs=0.002)
    assert found.text.startswith("Placebo passed: FP32 over itself is 1.00")
    row = opened.row("local", MODELS[0], "int8", 1, "placebo")
    assert row.verdict == "within"


def test_a_placebo_that_is_slower_takes_the_verdicts_of_its_cells(tmp_path: Path) -> None:
    found = records(1, 0.01, placebo=1.05)
    for number, one in enumerate(found):
        halved = [made.cell(1, [[50.0] * 4] * 10, [[100.0] * 4] * 10, [[105.0] * 4] * 10, blocks=2)]
        if one.precision == "fp16":
            found[number] = made.record(one.model, "fp16", halved)
    opened = study(tmp_path, found)
    gate = gates.placebo_gate(opened, opened.local)
    assert not gate.passed
    assert gate.outside == 20
    assert gate.text.startswith("Placebo FAILED: FP32 over itself is 0.95")
    row = opened.row("local", MODELS[0], "fp16", 1, "speedup")
    assert row.value == pytest.approx(2 * 1.05**0.5)
    assert (row.verdict, row.reason) == ("UNDECIDED", "undecided: the placebo lies outside 2 %")
    assert opened.row("local", MODELS[0], "fp16", 1, "throughput_change").verdict == "UNDECIDED"
    base = opened.row("local", MODELS[0], "fp32", 1, "speedup")
    assert (base.value, base.verdict, base.reason) == (1.0, "", "")


def test_a_placebo_that_is_not_resolved_is_counted_and_keeps_the_verdict(tmp_path: Path) -> None:
    wobble = [[100.0 * 1.05**sign] * 2 for sign in (-1, 0, 1)]
    cell = made.cell(1, [[25.0] * 2] * 3, [[100.0] * 2] * 3, wobble)
    opened = study(tmp_path, [made.record(MODELS[0], "fp16", [cell])])
    row = opened.row("local", MODELS[0], "fp16", 1, "placebo")
    assert row.verdict == "not resolved"
    assert opened.row("local", MODELS[0], "fp16", 1, "speedup").verdict == "FASTER"
    gate = gates.placebo_gate(opened, opened.local)
    assert (gate.cells, gate.not_resolved, gate.passed, gate.text) == (1, 1, False, "No placebo was measured.")


def test_halves_of_a_steady_set_agree(tmp_path: Path) -> None:
    opened = study(tmp_path, records(5, 0.01))
    found = gates.halves(opened, opened.local)
    assert found.passed
    assert (found.compared, found.different, found.bound) == (20, 0, 3)  # of 20 cells at 5 %
    assert "First rounds against last: absolute times hold; 0 of 20 cells differ" in found.text


def test_a_machine_that_changed_between_the_halves_is_found_and_ratios_are_not_touched(tmp_path: Path) -> None:
    opened = study(tmp_path, records(4, 0.005, later=1.1))
    found = gates.halves(opened, opened.local)
    assert not found.passed
    assert found.different == 20
    assert "absolute times moved; 20 of 20 cells differ" in found.text
    assert gates.placebo_gate(opened, opened.local).passed


def test_the_gate_of_halves_holds_over_many_sets(tmp_path: Path) -> None:
    """Of simulated sets of an unchanged machine one in twenty may fail by the bound, and few by the verdict."""
    opened = study(tmp_path, [])
    outcomes = []
    for seed in range(40):
        held = {one.pair: one for one in records(seed, 0.01)}
        outcomes.append(gates.halves(opened, MachineSet("local", held)))
    assert sum(one.different > 0 for one in outcomes) <= 6  # 5 % of 40 is 2; more than 6 has a chance of 0.3 %
    assert sum(not one.passed for one in outcomes) <= 9


def test_too_few_cells_and_cells_before_rounds_decide_nothing(tmp_path: Path) -> None:
    before = made.record(MODELS[0], "nf4", [made.cell(1, [[5.0] * 3] * 4)])
    opened = study(tmp_path, [*records(1, 0.01)[:8], before])
    found = gates.halves(opened, opened.local)
    assert (found.different, found.compared, found.passed) == (0, 7, False)
    assert found.text == "First rounds against last: 7 cells can be compared, 20 are needed."
