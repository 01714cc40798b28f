"""Speed against FP32 from blocks in which the arms took turns: a ratio, its error, and what one more run will show.

A block gives the log of FP32's time over the arm's; FP32's is the geometric mean of its slot and the placebo's. A round
gives the median over its blocks, a cell the mean over its rounds. Its error is the larger of two: *between* rounds,
from the spread of their values, and *within* them, from the spread of their blocks. The t interval has the degrees of
freedom of the rounds either way: with those of the blocks, where three rounds agree by chance, one of five simulated
studies found a difference that was none.

Few rounds tell little of their own spread, but the other models of a set were measured under the same precision. So a
cell's variance is moderated: that of its family counts as ``BORROWED`` degrees of freedom beside its own, fewer where
the family is small. The weight is fixed, so that it does not itself depend on few rounds, and small: simulated studies
keep what was promised where spreads within a family differ by a factor of 2.5 either way (one standard deviation). At
three rounds of 17 models the first of 68 contrasts is decided at 6.7 times its error; alone it would be at 36.9.

Rounds that lie close in time share a state of the machine to which the precisions answer unlike each other, so they are
not independent. As far as this goes, only one round in ``APART_MIN`` minutes counts as one of its own: to the variance
of the mean comes that of the drift times (1 / those - 1 / all). The drift is ``DRIFT``, or twice the variance between
the rounds at hand where that is less. Both constants were chosen before any set was recorded: between rounds a ratio
varied by 1.6 % where FP32 against itself varied by 0.6 %, half of that variance is taken for drift, and what moved on
the recorded machine had moved within two minutes. tests/analysis/test_coverage.py simulates what follows for intervals
and verdicts.

Sources: moderated variances, G. K. Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004) 3, with a given weight of the prior;
Student's t interval on the log scale, e.g. Hahn and Meeker, Statistical Intervals (1991), section 4.2, and
4.7 for the prediction; the error of a median of normal values is sqrt(pi / 2) that of their mean; H. Levene's test, in
the form of Brown and Forsythe, JASA 69 (1974) 364.
"""

from collections.abc import Iterable
from datetime import datetime
from statistics import median

import numpy as np
import pandas as pd
from scipy import stats

from visionquant.records.cell import BASELINE, PLACEBO, Cell

DRIFT = 0.012  # standard deviation (log) of what a ratio drifts by
APART_MIN = 5.0
BORROWED = 4.0  # degrees of freedom of a family's variance in that of each of its cells, at most
EQUAL = 0.05  # the level of the test for equal variances
NO_BLOCK, ONE_BLOCK = "no undisturbed block", "one round of one block: no interval"
ONE_ROUND = "one round: the interval speaks of its minutes alone"
TIMES, WINDOWS = ["fp32", "placebo", "own"], ["fp32_window", "placebo_window", "own_window"]


def turns(cells: Iterable[tuple[Cell, str]]) -> pd.DataFrame:
    """A row a block of each cell in which FP32, the placebo and the cell's precision were undisturbed.

    ``cell`` is its place in ``cells``, ``minute`` when its round began; logs of the median pass of each arm (``TIMES``)
    and of the seconds an image in its window (``WINDOWS``, NaN where it has none).
    """
    rows = []
    for number, (cell, precision) in enumerate(cells):
        for place, each in enumerate(cell.rounds):
            minute = datetime.fromisoformat(each.started_at).timestamp() / 60 if each.started_at else np.nan
            for slots in each.blocks(BASELINE, PLACEBO, precision):
                if all(slot.wall_ms for slot in slots):
                    windows = (slot.window.seconds / slot.window.images if slot.window else np.nan for slot in slots)
                    rows.append((number, place, minute, *(median(slot.wall_ms) for slot in slots), *windows))
    found = pd.DataFrame(rows, columns=["cell", "round", "minute", *TIMES, *WINDOWS], dtype=float)
    found[[*TIMES, *WINDOWS]] = np.log(found[[*TIMES, *WINDOWS]])
    return found


def over_fp32(turned: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Of each block the log of FP32's time over the precision's, by ``TIMES`` or ``WINDOWS``."""
    fp32, placebo, own = (turned[name] for name in columns)
    return (fp32 + placebo) / 2 - own


def rounds_of(turned: pd.DataFrame, value: pd.Series) -> pd.DataFrame:
    """A row a cell and round: median and variance of its blocks' values, their number, and its minute."""
    known = turned.assign(value=value).dropna(subset="value").groupby(["cell", "round"])
    found = known.agg(
        value=("value", "median"), var=("value", "var"), blocks=("value", "count"), minute=("minute", "first")
    )
    return found.reset_index()


def over_rounds(rounds: pd.DataFrame, drift: float = DRIFT) -> pd.DataFrame:
    """A row a cell from its rounds (:func:`rounds_of`): ``effect``, its ``error`` and ``df``, ``n`` rounds.

    Also ``var``, the variance between rounds, and ``unseen``, what ``drift`` adds to that of their mean. One round has
    the error within it, and the degrees of freedom of its blocks; one block has none (NaN).
    """
    more = rounds.blocks - 1
    median_error = np.where(more > 1, np.pi / 2, 1.0) / rounds.blocks
    parts = rounds.assign(more=more, squares=more * rounds["var"].fillna(0.0), share=median_error).groupby("cell")
    n, total = parts.size(), parts[["more", "squares", "share"]].sum()
    between, within = parts.value.var() / n, total.squares / total.more.where(total.more > 0) * total.share / n**2
    variance = pd.concat([between, within], axis=1).max(axis=1)
    span = (parts.minute.max() - parts.minute.min()).fillna(0.0)
    drifted = np.minimum(drift**2, 2 * n * variance.fillna(0.0))
    unseen = drifted * (1 / np.minimum(n, 1 + span / APART_MIN) - 1 / n)
    found = pd.DataFrame({"effect": parts.value.mean(), "n": n, "var": n * between, "unseen": unseen})
    return found.assign(error=(variance + unseen) ** 0.5, df=(n - 1).where(n > 1, total.more))


def moderated(found: pd.DataFrame, family: pd.Series) -> pd.DataFrame:
    """The rows of :func:`over_rounds` with the ``error`` and ``df`` that follow if each also learns from its family.

    The variance of a cell's rounds becomes the mean of its own and that of its family, weighed by degrees of freedom;
    those of the family are ``BORROWED``, or as good as so many that are known from the other cells. One round stays.
    """
    many = found[found.n > 1]
    spread = (many.error**2 - many.unseen) * many.n
    sums = pd.DataFrame({"df": many.df, "squares": spread * many.df}).groupby(family.reindex(many.index))
    total, squares = sums.df.transform("sum"), sums.squares.transform("sum")
    others = total - many.df
    borrowed = BORROWED * others / (BORROWED + others)
    variance = (borrowed * squares / total + many.df * spread) / (borrowed + many.df)
    error = (variance / many.n + many.unseen) ** 0.5
    return found.assign(error=error.combine_first(found.error), df=(many.df + borrowed).combine_first(found.df))


def contrasts(rounds: pd.DataFrame, family: pd.Series, drift: float = DRIFT) -> pd.DataFrame:
    """A row a cell of ``family``, whose index is that of the cells, with a variance moderated by that of its family.

    Columns as of :func:`over_rounds`, NaN for a cell without rounds.
    """
    return moderated(over_rounds(rounds, drift), family).reindex(family.index)


def pooled(rounds: pd.DataFrame, found: pd.DataFrame, family: pd.Series) -> pd.DataFrame:
    """The rows of :func:`over_rounds` with one variance between rounds for all cells of a family, beside their own.

    ``error`` is NaN, with the ``reason``, where fewer than two of them have two rounds, or where Levene's test at 5 %
    tells their variances apart. It decides no verdict: up to a fifth of simulated studies found a difference by it that
    was none.
    """
    parts = []
    for _, cells in found.groupby(family.reindex(found.index), sort=False):
        many = cells[cells.n > 1]
        values = [one.to_numpy() for _, one in rounds[rounds.cell.isin(many.index)].groupby("cell").value]
        with np.errstate(invalid="ignore"):  # rounds that are all equal
            p = stats.levene(*values).pvalue if len(values) > 1 else np.nan
        df = float((many.n - 1).sum())
        error = ((many["var"] * (many.n - 1)).sum() / df / cells.n + cells.unseen) ** 0.5 if df else np.nan
        reason = "" if not p <= EQUAL else f"variances differ between models (p {p:.2g})"
        reason = reason if len(values) > 1 else "fewer than two models have two rounds"
        parts.append(cells.assign(error=np.nan if reason else error, df=df, reason=reason))
    return pd.concat(parts).reindex(found.index) if parts else found.assign(reason="")


def interval(found: pd.DataFrame, confidence: float, runs: int = 1) -> pd.DataFrame:
    """Of rows of :func:`over_rounds` ``value`` (a ratio), ``low``, ``high``, ``n`` and what a reader must know.

    With ``runs`` 2 the bounds hold one more run of as many rounds: both its mean and this one's vary.
    """
    half = stats.t.ppf(0.5 + confidence / 2, found.df) * found.error * runs**0.5
    low, high = (np.exp(found.effect + sign * half) for sign in (-1, 1))
    why = found.reason.fillna("") if "reason" in found else pd.Series("", found.index)
    said = [why != "", found.n.isna(), half.isna(), found.n == 1]
    reason = np.select(said, [why, NO_BLOCK, ONE_BLOCK, ONE_ROUND], "")
    return pd.DataFrame({"value": np.exp(found.effect), "low": low, "high": high, "n": found.n, "reason": reason})
