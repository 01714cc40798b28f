"""Every formula against an independent implementation, and its promise against simulated data."""

import math
from typing import Any

import made
import numpy as np
import pytest
from scipy import stats

from visionquant.analysis import estimators
from visionquant.analysis.estimators import Rounds
from visionquant.analysis.published import Printed
from visionquant.settings.params import StatisticsChoice

RNG = np.random.default_rng(20260101)
SIMULATED = 1000


def rounds(count: int, spread: float, size: int = 30) -> list[list[float]]:
    """``count`` rounds, their medians lognormal around 100, ``spread`` the standard deviation of the log."""
    shifts = RNG.normal(0.0, spread, count)
    return [list(100 * math.exp(shift) * np.exp(RNG.normal(0.0, 0.01, size))) for shift in shifts]


def median(side: Rounds) -> Any:
    """The only row of the medians of one side."""
    return next(estimators.medians(estimators.logs([side]), 0.95).itertuples())


def test_the_interval_of_a_median_is_scipys_t_interval_on_log_medians() -> None:
    data = rounds(5, 0.05)
    logs = np.log([np.median(one) for one in data])
    low, high = stats.t.interval(0.95, 4, loc=logs.mean(), scale=stats.sem(logs))
    found = median(data)
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert found.value == pytest.approx(np.median(np.concatenate(data)))
    assert found.n == 5


@pytest.mark.parametrize("count", [3, 5, 10, 20])
def test_intervals_of_a_median_cover_what_they_promise(count: int) -> None:
    found = estimators.medians(estimators.logs(rounds(count, 0.03, size=9) for _ in range(SIMULATED)), 0.95)
    assert 0.93 <= ((found.low <= 100.0) & (found.high >= 100.0)).mean() <= 0.97


def test_one_round_has_a_median_and_no_interval() -> None:
    found = median([[1.0, 2.0, 3.0]])
    assert (found.value, found.n, found.reason) == (2.0, 1, "one round: no interval")
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(median([]).value)


def test_nothing_is_dropped() -> None:
    data = [[1.0] * 9 + [1000.0], [1.0] * 10]
    record = made.record("vit-base-224-production", "fp32", [made.cell(1, data)])
    choice = StatisticsChoice(confidence=0.95, percentiles=(90,), equivalence_margin=0.02, accuracy_margin=1.0)
    found = {one.quantity: one for one in estimators.of_cell(record, record.cells[0], None, "", choice)}
    assert found["latency_mean"].value == pytest.approx((19 + 1000) / 20)
    assert (found["latency_outliers"].value, found["latency_outliers"].n) == (1.0, 20)


@pytest.mark.parametrize(("percent", "needed"), [(50, 6), (90, 36), (95, 72), (99, 368)])
def test_a_percentile_is_refused_until_the_sample_carries_it(percent: int, needed: int) -> None:
    assert estimators.samples_needed(percent, 0.95) == needed
    refused = estimators.percentile(list(range(needed - 1)), percent, 0.95)
    assert refused.value is None
    assert f"p{percent} needs {needed} samples, the cell has {needed - 1}" in refused.reason
    carried = estimators.percentile(list(range(needed)), percent, 0.95)
    assert carried.value == pytest.approx(np.percentile(range(needed), percent))


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_order_statistic_intervals_cover_the_percentile(percent: int) -> None:
    truth, hits, size = stats.norm.ppf(percent / 100), 0, 500
    for _ in range(SIMULATED):
        found = estimators.percentile(RNG.normal(size=size), percent, 0.95)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    assert hits / SIMULATED >= 0.94  # conservative by construction, for ranks are whole numbers


def test_a_summary_names_every_definition() -> None:
    values = [0.88, 0.92, 0.95, 0.96, 0.98, 1.01, 1.15, 2.5]
    found = estimators.summary(values)
    assert found["std_n"] == pytest.approx(np.std(values))
    assert found["std_n-1"] == pytest.approx(np.std(values, ddof=1))
    assert found["p95_lower"] == 1.15
    assert found["p95_higher"] == 2.5
    assert {name for name in found if name.startswith("p95_")} == {f"p95_{m}" for m in estimators.PERCENTILE_METHODS}
    assert estimators.summary([]) == {}
    assert "std_n-1" not in estimators.summary([1.0])


def test_the_definition_that_gives_a_printed_figure_is_found() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert estimators.reproducing("std", Printed("1.12"), values) == ["std_n"]
    assert estimators.reproducing("std", Printed("1.29"), values) == ["std_n-1"]
    assert estimators.reproducing("std", Printed("1.20"), values) == []
