"""Verdicts: the tests behind them against scipy, the correction by hand, and their error rates on simulated studies."""

import math

import numpy as np
import pytest
from scipy import stats

from visionquant.analysis import verdicts
from visionquant.analysis.verdicts import Contrast

RNG = np.random.default_rng(7)
STUDIES = 1000
CONTRASTS = 20


def side(count: int, spread: float, factor: float = 1.0) -> list[list[float]]:
    """One median a process, lognormal around ``factor``."""
    return [[float(factor * math.exp(shift))] for shift in RNG.normal(0.0, spread, count)]


def judged(base: list[list[float]], other: list[list[float]], margin: float = 0.02) -> verdicts.Verdict:
    return verdicts.judge([verdicts.contrast(base, other)], 0.95, margin)[0]


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
    assert found.word == "SAME"


def test_holm_by_hand() -> None:
    assert verdicts.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert verdicts.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert verdicts.holm([]) == []


def test_each_word() -> None:
    assert judged(side(5, 0.005, 1.5), side(5, 0.005)).word == "FASTER"
    assert judged(side(5, 0.005), side(5, 0.005, 1.5)).word == "SLOWER"
    assert judged(side(10, 0.002, 1.005), side(10, 0.002)).word == "SAME"  # a real difference, and a small one
    unsure = judged([[1.0], [1.3], [0.8]], [[1.0], [1.1], [0.9]])
    assert unsure.word == "UNDECIDED"
    assert unsure.needed is not None
    assert unsure.needed > 3
    assert "processes a side would decide" in unsure.why


def test_one_process_carries_no_verdict_and_does_not_count_in_the_family() -> None:
    alone = verdicts.contrast([[1.0, 1.1]], [[2.0]])
    assert alone is None
    found = verdicts.judge([alone, verdicts.contrast(side(5, 0.005, 2.0), side(5, 0.005))], 0.95, 0.02)
    assert [one.word for one in found] == ["UNDECIDED", "FASTER"]
    assert {one.family for one in found} == {1}


def test_the_number_needed_decides_when_it_is_there() -> None:
    one = Contrast(effect=0.05, error=0.05 * math.sqrt(2 / 3), df=4.0, spread=0.05, n=3)
    needed = verdicts.processes_needed(one, 0.05, math.log(1.02))
    assert needed is not None
    for count, decided in ((needed, True), (needed - 1, False)):
        t = 0.05 / (0.05 * math.sqrt(2 / count))
        assert bool(2 * stats.t.sf(t, 2 * count - 2) <= 0.05) is decided
    assert verdicts.processes_needed(Contrast(0.02, 1.0, 4.0, 5.0, 3), 0.05, math.log(1.02)) is None


@pytest.mark.parametrize("count", [3, 5, 10, 20])
def test_studies_without_any_difference_seldom_find_one(count: int) -> None:
    """At most 5 % of simulated studies of 20 contrasts call anything FASTER or SLOWER that is the same."""
    wrong = 0
    for _ in range(STUDIES):
        family = [verdicts.contrast(side(count, 0.02), side(count, 0.02)) for _ in range(CONTRASTS)]
        wrong += any(one.word in ("FASTER", "SLOWER") for one in verdicts.judge(family, 0.95, 0.0001))
    assert wrong / STUDIES <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / STUDIES)


@pytest.mark.parametrize("count", [5, 10])
def test_what_differs_by_more_than_the_margin_is_seldom_called_the_same(count: int) -> None:
    wrong = 0
    for _ in range(STUDIES):
        family = [verdicts.contrast(side(count, 0.01, 1.0201), side(count, 0.01)) for _ in range(CONTRASTS)]
        wrong += any(one.word == "SAME" for one in verdicts.judge(family, 0.95, 0.02))
    assert wrong / STUDIES <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / STUDIES)
