"""Verdicts: the tests behind them against scipy, and the correction by hand; error rates are in test_coverage."""

import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from visionquant.analysis import verdicts

RNG = np.random.default_rng(7)


def values(count: int, spread: float, factor: float = 1.0) -> np.ndarray:
    """Log ratios of rounds, around the log of ``factor``."""
    return RNG.normal(math.log(factor), spread, count)


def decided(*rows: np.ndarray, margin: float = 0.02) -> pd.DataFrame:
    """Verdicts on the mean of each, with their grounds, of one family."""
    contrasts = pd.DataFrame({
        "effect": [row.mean() for row in rows],
        "error": [stats.sem(row) if len(row) > 1 else np.nan for row in rows],
        "df": [len(row) - 1.0 for row in rows],
        "n": [len(row) for row in rows],
        "all": 1,
    })  # fmt: skip
    found = verdicts.decide(contrasts, ["all"], 0.95, margin)
    return found.assign(why=verdicts.grounds(contrasts, found, 0.95, margin))


def judged(row: np.ndarray) -> Any:
    return next(decided(row).itertuples())


def test_the_difference_is_the_t_test_of_rounds() -> None:
    row = values(5, 0.03, 1.03)
    assert judged(row).p_difference == pytest.approx(stats.ttest_1samp(row, 0.0).pvalue)


def test_equivalence_is_two_one_sided_tests() -> None:
    row, bound = values(8, 0.004), math.log(1.02)
    below = stats.ttest_1samp(row, -bound, alternative="greater").pvalue
    above = stats.ttest_1samp(row, bound, alternative="less").pvalue
    found = judged(row)
    assert found.p_equivalence == pytest.approx(max(below, above))
    assert found.verdict == "SAME"


def test_holm_by_hand() -> None:
    assert list(verdicts.holm(pd.Series([0.01, 0.04, 0.03]))) == pytest.approx([0.03, 0.06, 0.06])
    assert list(verdicts.holm(pd.Series([0.5, np.nan, 0.9]))) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert list(verdicts.holm(pd.Series([], dtype=float))) == []


def test_each_word() -> None:
    assert judged(values(5, 0.005, 1.5)).verdict == "FASTER"
    assert judged(values(5, 0.005, 1 / 1.5)).verdict == "SLOWER"
    assert judged(values(20, 0.002, 1.005)).verdict == "SAME"  # a real difference, and a small one
    unsure = judged(np.log([1.0, 1.3, 0.9]))
    assert unsure.verdict == "UNDECIDED"
    needed = re.fullmatch(r"undecided over 1 contrasts; about (\d+) rounds would decide", unsure.why)
    assert needed is not None
    assert int(needed[1]) > 3


def test_one_round_carries_no_verdict_and_does_not_count_in_the_family() -> None:
    found = decided(values(1, 0.01, 2.0), values(5, 0.005, 2.0))
    assert list(found.verdict) == ["UNDECIDED", "FASTER"]
    assert set(found.members) == {1}
    assert found.why[0] == "undecided: one round"


def test_the_number_needed_decides_when_it_is_there() -> None:
    effect, spread = 0.05, 0.05
    needed = verdicts.rounds_needed(effect, spread / 3**0.5, 3, 0.05, math.log(1.02))
    assert needed is not None
    for count, enough in ((needed, True), (needed - 1, False)):
        assert bool(2 * stats.t.sf(effect / (spread / count**0.5), count - 1) <= 0.05) is enough
    assert verdicts.rounds_needed(0.02, 5.0, 3, 0.05, math.log(1.02)) is None
