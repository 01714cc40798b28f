"""Is a precision faster than FP32? FASTER, SLOWER, SAME or UNDECIDED, and how sure.

The unit is the process: both sides are the logarithms of their process medians. A difference is tested by Welch's t
test, equivalence within a margin by two one-sided t tests of the same standard error; each kind is corrected by Holm's
method over a named family of contrasts (all of one set at one batch size), so that the chance of any false FASTER or
SLOWER in a family is at most 1 - confidence. Equivalence is asked first: a difference that is real and smaller than the
margin is SAME. What the processes at hand can't carry is UNDECIDED, with the number that would.

Where the two sides were not measured in turns, and the reference kernel or the set's A/A run says that the machine
moves meanwhile, so much of the effect may be the machine's: the difference has to hold for an effect smaller by that,
equivalence for one larger.

Sources: B. L. Welch, Biometrika 34 (1947) 28; D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657;
S. Holm, Scand. J. Statist. 6 (1979) 65.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from visionquant.core.intervals import log_medians

Word = Literal["FASTER", "SLOWER", "SAME", "UNDECIDED"]
MOST_PROCESSES = 1000
TINY = 1e-12


@dataclass(frozen=True)
class Contrast:
    """Log process medians summed up: ``effect`` is log(speedup), ``error`` its standard error, ``df`` after Welch.

    ``spread`` is the standard deviation of one process's log median, pooled over both sides; ``n`` the processes of the
    smaller side; ``drift`` how far (log) the machine moved between the sides.
    """

    effect: float
    error: float
    df: float
    spread: float
    n: int
    drift: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """A word on one contrast of a family of so many; ``p_difference`` and ``p_equivalence`` are Holm-adjusted.

    ``alpha`` and ``bound`` (log of 1 + margin) are what the family was judged by.
    """

    word: Word
    p_difference: float | None
    p_equivalence: float | None
    family: int
    contrast: Contrast | None
    alpha: float
    bound: float

    @property
    def needed(self) -> int | None:
        """How many processes a side would decide what is UNDECIDED; None where it is decided or none would."""
        if self.word != "UNDECIDED" or self.contrast is None:
            return None
        return processes_needed(self.contrast, self.alpha / self.family, self.bound)

    @property
    def why(self) -> str:
        """One phrase for a tooltip."""
        if self.word == "UNDECIDED":
            if self.contrast is None:
                return "undecided: one process a side"
            wanted = f"about {self.needed} processes a side would decide" if self.needed else "no sensible number would"
            return f"undecided over {self.family} contrasts; {wanted}{self._moved}"
        p = self.p_equivalence if self.word == "SAME" else self.p_difference
        return f"p {p:.2g} after Holm over {self.family} contrasts{self._moved}"

    @property
    def _moved(self) -> str:
        moved = self.contrast.drift if self.contrast else 0.0
        if math.isinf(moved):
            return "; how far the machine moved in between was not recorded"
        return f"; the machine may have moved by {100 * math.expm1(moved):.1f} % in between" if moved > 0 else ""


def contrast(base: Sequence[Sequence[float]], other: Sequence[Sequence[float]], drift: float = 0.0) -> Contrast | None:
    """FP32's processes against another precision's, or None where a side has fewer than two."""
    a, b = (log_medians([one for one in side if len(one)]) for side in (base, other))
    if min(len(a), len(b)) < 2:
        return None
    va, vb = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    effect = float(a.mean() - b.mean())
    total = va + vb
    df = total**2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if total > 0 else float(len(a) + len(b) - 2)
    spread = math.sqrt((float(a.var(ddof=1)) + float(b.var(ddof=1))) / 2)
    return Contrast(effect, math.sqrt(total), df, spread, min(len(a), len(b)), drift)


def judge(contrasts: Sequence[Contrast | None], confidence: float, margin: float) -> list[Verdict]:
    """Verdicts of a family, in its order; what has no contrast is UNDECIDED and counts for nothing.

    Args:
        confidence: of the family, e.g. 0.95.
        margin: equivalence, as a share: 0.02 calls speedups between 1/1.02 and 1.02 the same.
    """
    held = [one for one in contrasts if one is not None]
    alpha, bound, family = 1 - confidence, math.log1p(margin), len(held)
    adjusted = iter(zip(holm(_p_difference(held)), holm(_p_equivalence(held, bound)), strict=True))
    verdicts = []
    for one in contrasts:
        if one is None:
            verdicts.append(Verdict("UNDECIDED", None, None, family, None, alpha, bound))
            continue
        different, equivalent = next(adjusted)
        word: Word = "UNDECIDED"
        if equivalent <= alpha:
            word = "SAME"
        elif different <= alpha:
            word = "FASTER" if one.effect > 0 else "SLOWER"
        verdicts.append(Verdict(word, different, equivalent, family, one, alpha, bound))
    return verdicts


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = highest
    return adjusted


def processes_needed(one: Contrast, alpha: float, bound: float) -> int | None:
    """The fewest processes a side, more than there are, that would decide effect and spread as seen at ``alpha``.

    None above 1000.
    """
    counts = np.arange(one.n + 1, MOST_PROCESSES + 1)
    error = np.maximum(one.spread, TINY) * np.sqrt(2 / counts)
    different = max(0.0, abs(one.effect) - one.drift) / error >= stats.t.ppf(1 - alpha / 2, 2 * counts - 2)
    equivalent = (bound - abs(one.effect) - one.drift) / error >= stats.t.ppf(1 - alpha, 2 * counts - 2)
    enough = np.flatnonzero(different | equivalent)
    return int(counts[enough[0]]) if len(enough) else None


def _p_difference(contrasts: Sequence[Contrast]) -> list[float]:
    effect, error, df, drift = _columns(contrasts)
    return [float(p) for p in 2 * stats.t.sf(np.maximum(0.0, np.abs(effect) - drift) / error, df)]


def _p_equivalence(contrasts: Sequence[Contrast], bound: float) -> list[float]:
    effect, error, df, drift = _columns(contrasts)
    return [float(p) for p in stats.t.sf((bound - np.abs(effect) - drift) / error, df)]


def _columns(contrasts: Sequence[Contrast]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Effects, standard errors (never quite zero: equal samples are beyond doubt), degrees of freedom, drift."""
    rows = np.asarray([(one.effect, max(one.error, TINY), one.df, one.drift) for one in contrasts], float)
    effect, error, df, drift = rows.reshape(-1, 4).T
    return effect, error, df, drift
