"""The drift sentinel: what is noise, what is a machine that moved, and what becomes of a comparison then."""

import math

import numpy as np
import pytest

from visionquant import drift, intervals
from visionquant.samples import Sentinel


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
    assert not drift.moved([], 0.05)


def test_between_two_cells_only_more_than_noise_counts() -> None:
    assert drift.between(steady(1.0), steady(1.04), 0.05) == 0.0
    assert drift.between(steady(1.0), steady(1.1), 0.05) == pytest.approx(math.log(1.1))
    assert drift.between(steady(1.1), steady(1.0), 0.05) == pytest.approx(math.log(1.1))
    assert drift.between([], steady(1.0), 0.05) == 0.0


def test_the_half_width_is_that_of_the_t_interval() -> None:
    found = intervals.half_width([[1.0], [1.02], [0.98]], 0.95)
    logs = np.log([1.0, 1.02, 0.98])
    assert found == pytest.approx(math.expm1(4.302652730 * logs.std(ddof=1) / math.sqrt(3)))
    assert intervals.half_width([[1.0]], 0.95) is None
