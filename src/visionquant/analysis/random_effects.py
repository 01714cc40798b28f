"""A random-effects meta-analysis of log ratios: what machines have in common, and how far they differ.

The variance between machines is DerSimonian and Laird's. The interval of the mean is Hartung and Knapp's, with the t
distribution of the machines less one, and never narrower than the errors alone make it; that of one more machine is
Higgins'. Sources: R. DerSimonian and N. Laird, Control. Clin. Trials 7 (1986) 177; J. Hartung and G. Knapp, Statist.
Med. 20 (2001) 3875; J. P. T. Higgins et al., J. R. Statist. Soc. A 172 (2009) 137.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

FEWEST = 2  # machines; one alone says nothing of others


class RandomEffects(NamedTuple):
    """A ratio over ``n`` machines with its interval, and the interval of one more machine (None below three).

    ``tau`` is the standard deviation (log) between machines, ``i2`` the share of the variation that their errors don't
    explain, ``p`` that of Cochran's test of no difference between them.
    """

    ratio: float
    low: float
    high: float
    next_low: float | None
    next_high: float | None
    tau: float
    i2: float
    p: float
    n: int


def random_effects(logs: Sequence[float], errors: Sequence[float], confidence: float) -> RandomEffects:
    """The mean of log ratios, one a machine, with their standard errors (log, above zero).

    Raises:
        ValueError: fewer than ``FEWEST`` machines, or an error that is not above zero.
    """
    effects, variances, k = np.asarray(logs), np.square(errors), len(logs)
    if k < FEWEST or not np.all(variances > 0):
        raise ValueError(f"{FEWEST} machines with an error above zero are needed, not {k}")
    weights = 1 / variances
    q = float(weights @ np.square(effects - weights @ effects / weights.sum()))
    tau2 = max(0.0, (q - (k - 1)) / float(weights.sum() - np.square(weights).sum() / weights.sum()))
    weights = 1 / (variances + tau2)
    mean = float(weights @ effects / weights.sum())
    scale = max(1.0, float(weights @ np.square(effects - mean)) / (k - 1))
    error2 = scale / float(weights.sum())
    bounds = [mean + sign * _t(confidence, k - 1) * error2**0.5 for sign in (-1, 1)]
    more = [mean + sign * _t(confidence, k - 2) * (error2 + tau2) ** 0.5 for sign in (-1, 1)] if k > FEWEST else []
    next_low, next_high = map(float, np.exp(more)) if more else (None, None)
    i2 = max(0.0, 1 - (k - 1) / q) if q else 0.0
    low, high = map(float, np.exp(bounds))
    return RandomEffects(
        float(np.exp(mean)), low, high, next_low, next_high, tau2**0.5, i2, float(stats.chi2.sf(q, k - 1)), k
    )


def _t(confidence: float, df: int) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, df))
