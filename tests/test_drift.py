"""The drift sentinel: what is noise, what is a machine that moved, and what becomes of a comparison then."""

import math

import made
import numpy as np
import pytest

from visionquant.core import intervals
from visionquant.records import drift
from visionquant.records.cell import Cell, Launch, Sentinel


def steady(ms: float = 1.0, count: int = 3) -> list[Sentinel]:
    return [Sentinel(before_ms=ms, after_ms=ms)] * count


def test_noise_is_a_prediction_interval_of_one_more_reading() -> None:
    """Simulated readings of known spread stay within it nearly always, and it never claims to be below the floor."""
    random = np.random.default_rng(1)
    outside = 0
    for _ in range(4000):
        logs = random.normal(0, 0.03, 8)
        outside += abs(logs[7] - logs[:7].mean()) > drift.noise(np.exp(logs[:7]).tolist())
    assert outside / 4000 == pytest.approx(1 - drift.PROBABILITY, abs=0.002)
    assert drift.noise([1.0, 1.0, 1.0]) == drift.FLOOR
    assert drift.noise([1.0]) == drift.FLOOR


def test_a_machine_that_moved_is_told_from_a_steady_one() -> None:
    assert not drift.moved(steady(), 0.05)
    assert not drift.moved([*steady(), Sentinel(before_ms=1.0, after_ms=1.04)], 0.05)
    assert drift.moved([*steady(), Sentinel(before_ms=1.0, after_ms=1.06)], 0.05)
    assert drift.moved([*steady(), Sentinel(before_ms=0.9, after_ms=1.0)], 0.05)
    assert not drift.moved([Sentinel(before_ms=1.0, after_ms=2.0)] * 3, 0.05)  # warmer after work, every time
    assert not drift.moved([], 0.05)


def cell(ms: float, turns_with: tuple[str, ...] = ()) -> Cell:
    return made.cell(1, [[5.0]] * 3, sentinel_ms=ms, turns_with=turns_with)


def test_between_two_cells_only_more_than_noise_counts() -> None:
    assert drift.between(cell(1.0), cell(1.005)) == 0.0
    assert drift.between(cell(1.0), cell(1.1)) == pytest.approx(math.log(1.1))
    assert drift.between(cell(1.1), cell(1.0)) == pytest.approx(math.log(1.1))
    assert drift.between(Cell(batch_size=1, status="over_budget", reason=""), cell(1.0)) == 0.0


def test_the_noise_between_cells_is_that_of_two_medians() -> None:
    """Two cells of an unchanged machine are called moved in about one of twenty simulations."""
    random = np.random.default_rng(3)
    called = 0
    for _ in range(1500):
        readings = np.exp(random.normal(0, 0.02, 13))
        sides = [cell(1.0), cell(1.0)]
        for i, side in enumerate(sides):
            sentinels = [Sentinel(before_ms=ms, after_ms=ms) for ms in readings[7 + 3 * i : 10 + 3 * i]]
            replicates = tuple(
                one.model_copy(update={"sentinel": found})
                for one, found in zip(side.replicates, sentinels, strict=True)
            )
            sides[i] = side.model_copy(update={"calibration_ms": tuple(readings[:7]), "replicates": replicates})
        called += drift.between(*sides) > 0
    assert 0.02 < called / 1500 < 0.07


def test_turns_are_what_every_replicate_says() -> None:
    found = cell(1.0, ("int8", "nf4"))
    assert found.interleaved_with == {"int8", "nf4"}
    alone = found.replicates[0].model_copy(update={"turns_with": ("nf4",)})
    assert found.model_copy(update={"replicates": (*found.replicates, alone)}).interleaved_with == {"nf4"}
    assert Cell(batch_size=1, status="over_budget", reason="").interleaved_with == frozenset()


def test_the_half_width_is_that_of_the_t_interval() -> None:
    found = intervals.half_width(np.log([1.0, 1.02, 0.98]), 0.95)
    logs = np.log([1.0, 1.02, 0.98])
    assert found == pytest.approx(math.expm1(4.302652730 * logs.std(ddof=1) / math.sqrt(3)))
    assert intervals.half_width(np.log([1.0]), 0.95) is None


def on_a_card(card_ms: float, host_ms: float, busy_ms: float | None) -> Cell:
    """Passes of 5 ms beside a kernel and a row of launches; ``busy_ms`` of a profiled pass."""
    found = cell(card_ms)
    both = Sentinel(before_ms=card_ms, after_ms=card_ms, host=Sentinel(before_ms=host_ms, after_ms=host_ms))
    launch = None if busy_ms is None else Launch(gpu_busy_ms=busy_ms, kernels=9)
    replicates = tuple(one.model_copy(update={"sentinel": both}) for one in found.replicates)
    return found.model_copy(
        update={"replicates": replicates, "launch": launch, "host_calibration_ms": found.calibration_ms}
    )


@pytest.mark.parametrize(
    ("busy_ms", "kernels"),
    [(4.9, (drift.KERNEL,)), (1.0, (drift.HOST,)), (None, (drift.KERNEL, drift.HOST))],
)
def test_on_a_gpu_what_sets_the_pace_of_a_cell_speaks_for_it(busy_ms: float | None, kernels: tuple[str, ...]) -> None:
    found = on_a_card(1.0, 1.0, busy_ms)
    assert drift.kernels(found.replicates, found.launch) == kernels
    slower = {drift.KERNEL: on_a_card(1.2, 1.0, busy_ms), drift.HOST: on_a_card(1.0, 1.3, busy_ms)}
    for name, other in slower.items():
        moved = math.log(1.2 if name == drift.KERNEL else 1.3)
        assert drift.between(found, other) == pytest.approx(moved if name in kernels else 0.0)


def test_without_readings_of_the_host_the_reference_kernel_speaks() -> None:
    found = cell(1.0).model_copy(update={"launch": Launch(gpu_busy_ms=0.1, kernels=9)})
    assert drift.kernels(found.replicates, found.launch) == (drift.KERNEL,)
    assert drift.between(found, on_a_card(1.2, 9.0, 0.1)) == pytest.approx(math.log(1.2))
