"""Is a precision faster than FP32? FASTER, SLOWER, SAME or UNDECIDED, and how sure.

The unit is the round. Effect and error are those of the number beside the verdict. A difference is tested by a t test,
equivalence within a margin by two one-sided t tests of the same error; each kind is corrected by Holm's method over a
named family of contrasts (all of one set at one batch size), so that the chance of any false FASTER or SLOWER in a
family is at most 1 - confidence. Equivalence is asked first: a difference that is real and smaller than the margin is
SAME. What the rounds at hand can't carry is UNDECIDED, with the number that would.

Sources: D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657; S. Holm, Scand. J. Statist. 6 (1979) 65.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

Word = Literal["FASTER", "SLOWER", "SAME", "UNDECIDED"]
MOST_ROUNDS = 1000
TINY = 1e-12  # equal samples are beyond doubt: a standard error is never quite zero


def decide(contrasts: pd.DataFrame, family: Sequence[str], confidence: float, margin: float) -> pd.DataFrame:
    """A verdict on each row: ``verdict``, both Holm-adjusted p values, and ``members``, the contrasts of its family.

    ``contrasts`` have ``effect`` (log, above 0 is faster), ``error``, ``df`` and ``n`` rounds. One without an error, or
    of one round, is UNDECIDED and no member of its family: the rows that agree in all columns of ``family``, corrected
    together to ``confidence``. The ``margin`` of equivalence is a share: 0.02 calls speedups between 1/1.02 and 1.02
    the same.
    """
    alpha, effect = 1 - confidence, contrasts.effect.abs()
    error = contrasts.error.clip(lower=TINY).mask(contrasts.n < 2)
    raw = {
        "p_difference": 2 * stats.t.sf(effect / error, contrasts.df),
        "p_equivalence": stats.t.sf((math.log1p(margin) - effect) / error, contrasts.df),
    }
    groups = contrasts.assign(**raw, error=error).groupby(list(family), sort=False)
    found = pd.DataFrame({name: groups[name].transform(holm) for name in raw}, contrasts.index)
    same, different = found.p_equivalence <= alpha, found.p_difference <= alpha
    words = np.select([same, different & (contrasts.effect > 0), different], ["SAME", "FASTER", "SLOWER"], "UNDECIDED")
    return found.assign(verdict=words, members=groups["error"].transform("count"))


def grounds(contrasts: pd.DataFrame, decided: pd.DataFrame, confidence: float, margin: float) -> list[str]:
    """One phrase for each row of :func:`decide`: its p, or how many rounds would decide."""
    phrases = []
    for row in contrasts.join(decided).to_dict("records"):
        members = row["members"]
        if math.isnan(row["p_difference"]):
            phrases.append("undecided: one round")
        elif row["verdict"] == "UNDECIDED":
            alpha, bound = (1 - confidence) / members, math.log1p(margin)
            borrowed = row["df"] - (row["n"] - 1)
            needed = rounds_needed(row["effect"], row["error"], int(row["n"]), alpha, bound, borrowed)
            wanted = f"about {needed} rounds would decide" if needed else "no sensible number would"
            phrases.append(f"undecided over {members} contrasts; {wanted}")
        else:
            p = row["p_equivalence" if row["verdict"] == "SAME" else "p_difference"]
            phrases.append(f"p {p:.2g} after Holm over {members} contrasts")
    return phrases


def holm(p: pd.Series) -> pd.Series:
    """Holm's step-down adjusted p values; NaN stays NaN and counts for nothing."""
    ordered = p.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).clip(upper=1).cummax().reindex(p.index)


def rounds_needed(effect: float, error: float, n: int, alpha: float, bound: float, borrowed: float = 0.0) -> int | None:
    """The fewest rounds, more than ``n``, that would decide such an effect at ``alpha``; None above 1000.

    ``error`` is that of ``n`` rounds, and falls with the root of their number; ``borrowed`` degrees of freedom come to
    those of the rounds.
    """
    counts = np.arange(n + 1, MOST_ROUNDS + 1)
    errors = max(error, TINY) * np.sqrt(n / counts)
    different = abs(effect) / errors >= stats.t.ppf(1 - alpha / 2, counts - 1 + borrowed)
    equivalent = (bound - abs(effect)) / errors >= stats.t.ppf(1 - alpha, counts - 1 + borrowed)
    enough = np.flatnonzero(different | equivalent)
    return int(counts[enough[0]]) if len(enough) else None
