"""Verdicts: the tests behind them against scipy, the correction by hand, and their error rates on simulated studies."""

import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from visionquant.analysis import estimators, verdicts

RNG = np.random.default_rng(7)
STUDIES = 1000
CONTRASTS = 20
Side = list[list[float]]


def side(count: int, spread: float, factor: float = 1.0) -> Side:
    """One median a process, lognormal around ``factor``."""
    return [[float(factor * math.exp(shift))] for shift in RNG.normal(0.0, spread, count)]


def decided(bases: list[Side], others: list[Side], margin: float = 0.02) -> pd.DataFrame:
    """Verdicts with their grounds, of one family."""
    contrasts = estimators.contrasts(estimators.logs(bases), estimators.logs(others)).assign(drift=0.0, all=1)
    found = verdicts.decide(contrasts, ["all"], 0.95, margin)
    return found.assign(why=verdicts.grounds(contrasts, found, 0.95, margin))


def judged(base: Side, other: Side) -> Any:
    return next(decided([base], [other]).itertuples())


def simulated(count: int, spread: float, factor: float, margin: float) -> pd.DataFrame:
    """A thousand studies of twenty contrasts, each corrected by itself: a row a study, a column a contrast."""
    a, b = (RNG.normal(0.0, spread, (STUDIES * CONTRASTS, count)) for _ in range(2))
    sides = (
        pd.DataFrame({"value": 1.0, "k": count, "mean": one.mean(axis=1), "var": one.var(axis=1, ddof=1)})
        for one in (a + math.log(factor), b)
    )
    contrasts = estimators.contrasts(*sides).assign(drift=0.0, study=np.repeat(np.arange(STUDIES), CONTRASTS))
    words = verdicts.decide(contrasts, ["study"], 0.95, margin).verdict
    return pd.DataFrame(words.to_numpy().reshape(STUDIES, CONTRASTS))


def test_the_difference_is_welchs_test_on_logs() -> None:
    a, b = side(5, 0.03, 1.1), side(4, 0.01)
    expected = stats.ttest_ind(np.log(np.ravel(a)), np.log(np.ravel(b)), equal_var=False)
    assert judged(a, b).p_difference == pytest.approx(expected.pvalue)


def test_equivalence_is_two_one_sided_tests() -> None:
    a, b = side(8, 0.004), side(8, 0.004)
    logs, bound = [np.log(np.ravel(one)) for one in (a, b)], math.log(1.02)
    below = stats.ttest_ind(logs[0] + bound, logs[1], equal_var=False, alternative="greater").pvalue
    above = stats.ttest_ind(logs[0] - bound, logs[1], equal_var=False, alternative="less").pvalue
    found = judged(a, b)
    assert found.p_equivalence == pytest.approx(max(below, above))
    assert found.verdict == "SAME"


def test_holm_by_hand() -> None:
    assert list(verdicts.holm(pd.Series([0.01, 0.04, 0.03]))) == pytest.approx([0.03, 0.06, 0.06])
    assert list(verdicts.holm(pd.Series([0.5, np.nan, 0.9]))) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert list(verdicts.holm(pd.Series([], dtype=float))) == []


def test_each_word() -> None:
    assert judged(side(5, 0.005, 1.5), side(5, 0.005)).verdict == "FASTER"
    assert judged(side(5, 0.005), side(5, 0.005, 1.5)).verdict == "SLOWER"
    assert judged(side(10, 0.002, 1.005), side(10, 0.002)).verdict == "SAME"  # a real difference, and a small one
    unsure = judged([[1.0], [1.3], [0.8]], [[1.0], [1.1], [0.9]])
    assert unsure.verdict == "UNDECIDED"
    needed = re.fullmatch(r"undecided over 1 contrasts; about (\d+) processes a side would decide", unsure.why)
    assert needed is not None
    assert int(needed[1]) > 3


def test_one_process_carries_no_verdict_and_does_not_count_in_the_family() -> None:
    found = decided([[[1.0, 1.1]], side(5, 0.005, 2.0)], [[[2.0]], side(5, 0.005)])
    assert list(found.verdict) == ["UNDECIDED", "FASTER"]
    assert set(found.members) == {1}
    assert found.why[0] == "undecided: one process a side"


def test_the_number_needed_decides_when_it_is_there() -> None:
    needed = verdicts.processes_needed(0.05, 0.05, 0.0, 3, 0.05, math.log(1.02))
    assert needed is not None
    for count, enough in ((needed, True), (needed - 1, False)):
        t = 0.05 / (0.05 * math.sqrt(2 / count))
        assert bool(2 * stats.t.sf(t, 2 * count - 2) <= 0.05) is enough
    assert verdicts.processes_needed(5.0, 0.02, 0.0, 3, 0.05, math.log(1.02)) is None


@pytest.mark.parametrize("count", [3, 5, 10, 20])
def test_studies_without_any_difference_seldom_find_one(count: int) -> None:
    """At most 5 % of simulated studies of 20 contrasts call anything FASTER or SLOWER that is the same."""
    wrong = simulated(count, 0.02, 1.0, 0.0001).isin(["FASTER", "SLOWER"]).any(axis=1).mean()
    assert wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / STUDIES)


@pytest.mark.parametrize("count", [5, 10])
def test_what_differs_by_more_than_the_margin_is_seldom_called_the_same(count: int) -> None:
    wrong = simulated(count, 0.01, 1.0201, 0.02).eq("SAME").any(axis=1).mean()
    assert wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / STUDIES)
