"""Is a precision faster than FP32? FASTER, SLOWER, SAME or UNDECIDED, and how sure.

The unit is the process: both sides are the logarithms of their process medians. A difference is tested by Welch's t
test, equivalence within a margin by two one-sided t tests of the same standard error; each kind is corrected by Holm's
method over a named family of contrasts (all of one set at one batch size), so that the chance of any false FASTER or
SLOWER in a family is at most 1 - confidence. Equivalence is asked first: a difference that is real and smaller than the
margin is SAME. What the processes at hand can't carry is UNDECIDED, with the number that would.

Where the two sides were not interleaved, and the reference kernel or the set's A/A run says that the machine moves
meanwhile (``drift``), so much of the effect may be the machine's: the difference has to hold for an effect smaller by
that, equivalence for one larger.

Sources: B. L. Welch, Biometrika 34 (1947) 28; D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657;
S. Holm, Scand. J. Statist. 6 (1979) 65.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

Word = Literal["FASTER", "SLOWER", "SAME", "UNDECIDED"]
MOST_PROCESSES = 1000
TINY = 1e-12  # equal samples are beyond doubt: a standard error is never quite zero


def decide(contrasts: pd.DataFrame, family: Sequence[str], confidence: float, margin: float) -> pd.DataFrame:
    """A verdict on each row: ``verdict``, both Holm-adjusted p values, and ``members``, the contrasts of its family.

    ``contrasts`` are rows of ``estimators.contrasts`` with ``drift`` (log); one without an error is UNDECIDED, and no
    member of its family: the rows that agree in all columns of ``family``, corrected together to ``confidence``. The
    ``margin`` of equivalence is a share: 0.02 calls speedups between 1/1.02 and 1.02 the same.
    """
    alpha, bound = 1 - confidence, math.log1p(margin)
    effect, error, moved = contrasts.effect.abs(), contrasts.error.clip(lower=TINY), contrasts.drift
    raw = {
        "p_difference": 2 * stats.t.sf((effect - moved).clip(lower=0) / error, contrasts.df),
        "p_equivalence": stats.t.sf((bound - effect - moved) / error, contrasts.df),
    }
    groups = contrasts.assign(**raw).groupby(list(family), sort=False)
    found = pd.DataFrame({name: groups[name].transform(holm) for name in raw}, contrasts.index)
    same, different = found.p_equivalence <= alpha, found.p_difference <= alpha
    words = np.select([same, different & (contrasts.effect > 0), different], ["SAME", "FASTER", "SLOWER"], "UNDECIDED")
    return found.assign(verdict=words, members=groups["error"].transform("count"))


def grounds(contrasts: pd.DataFrame, decided: pd.DataFrame, confidence: float, margin: float) -> list[str]:
    """One phrase for each row of :func:`decide`: its p, or how many processes would decide."""
    phrases = []
    for row in contrasts.join(decided).to_dict("records"):
        drift, members = row["drift"], row["members"]
        moved = "; how far the machine moved in between was not recorded" if math.isinf(drift) else ""
        if 0 < drift < math.inf:
            moved = f"; the machine may have moved by {100 * math.expm1(drift):.1f} % in between"
        if math.isnan(row["error"]):
            phrases.append("undecided: one process a side")
        elif row["verdict"] == "UNDECIDED":
            alpha, bound = (1 - confidence) / members, math.log1p(margin)
            needed = processes_needed(row["spread"], row["effect"], drift, int(row["n"]), alpha, bound)
            wanted = f"about {needed} processes a side would decide" if needed else "no sensible number would"
            phrases.append(f"undecided over {members} contrasts; {wanted}{moved}")
        else:
            p = row["p_equivalence" if row["verdict"] == "SAME" else "p_difference"]
            phrases.append(f"p {p:.2g} after Holm over {members} contrasts{moved}")
    return phrases


def holm(p: pd.Series) -> pd.Series:
    """Holm's step-down adjusted p values; NaN stays NaN and counts for nothing."""
    ordered = p.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).clip(upper=1).cummax().reindex(p.index)


def processes_needed(spread: float, effect: float, drift: float, n: int, alpha: float, bound: float) -> int | None:
    """The fewest processes a side, more than ``n``, that would decide effect and spread as seen at ``alpha``.

    None above 1000.
    """
    counts = np.arange(n + 1, MOST_PROCESSES + 1)
    error = max(spread, TINY) * np.sqrt(2 / counts)
    different = max(0.0, abs(effect) - drift) / error >= stats.t.ppf(1 - alpha / 2, 2 * counts - 2)
    equivalent = (bound - abs(effect) - drift) / error >= stats.t.ppf(1 - alpha, 2 * counts - 2)
    enough = np.flatnonzero(different | equivalent)
    return int(counts[enough[0]]) if len(enough) else None
