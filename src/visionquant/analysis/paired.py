"""Two precisions on the same images: how many points apart, how sure, and within the margin of equivalence or not.

Only discordant images, which one of the two alone gets right, tell. That there is no difference is tested exactly
(McNemar: each of them is a fair coin); the difference has Tango's score interval, and equivalence within a margin is
two one-sided tests by the same score. Each kind is corrected by Holm's method over a family. Equivalence comes first: a
difference that is real and smaller than the margin is SAME.

Sources: Q. McNemar, Psychometrika 12 (1947) 153; T. Tango, Statistics in Medicine 17 (1998) 891; D. J. Schuirmann,
J. Pharmacokinet. Biopharm. 15 (1987) 657; S. Holm, Scand. J. Statist. 6 (1979) 65.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, stats

from visionquant.analysis import verdicts

Word = Literal["SAME", "LOWER", "HIGHER", "UNDECIDED"]
MOST_IMAGES = 10**7
EDGE = 1 - 1e-9  # a difference is a share between -1 and 1


@dataclass(frozen=True)
class Contrast:
    """A precision against FP32 on ``n`` images, of which only one of the two gets some right.

    ``p`` is McNemar's, ``p_equivalence`` that of a difference outside the margin; both adjusted once decided.
    """

    n: int
    only_base: int
    only_other: int
    p: float
    p_equivalence: float

    @property
    def points(self) -> float:
        """The change of accuracy against FP32; below zero is lower."""
        return 100 * (self.only_other - self.only_base) / self.n

    def interval(self, confidence: float) -> tuple[float, float]:
        """Tango's score interval of the change, in points."""
        z = float(stats.norm.ppf((1 + confidence) / 2))
        ends = []
        for at in (z, -z):
            found = optimize.brentq(lambda share, at=at: self._score(share) - at, -EDGE, EDGE)
            ends.append(100 * float(found))
        return ends[0], ends[1]

    def _score(self, share: float) -> float:
        return score(self.n, self.only_base, self.only_other, share)

    def word(self, level: float) -> Word:
        """What the two p say at ``level``; UNDECIDED: these images don't tell."""
        if self.p_equivalence <= level:
            return "SAME"
        if self.p > level:
            return "UNDECIDED"
        return "LOWER" if self.only_base > self.only_other else "HIGHER"

    def images_needed(self, level: float, margin_points: float) -> int | None:
        """About how many such images would decide at ``level``; None above ten million."""
        change, discordant = abs(self.points) / 100, (self.only_base + self.only_other) / self.n
        variance, room = max(discordant - change**2, 1 / self.n), margin_points / 100 - change
        needed = []
        if change > 0:
            needed.append(variance * (stats.norm.ppf(1 - level / 2) / change) ** 2)
        if room > 0:
            needed.append(variance * (stats.norm.ppf(1 - level) / room) ** 2)
        least = min(needed, default=math.inf)
        return math.ceil(least) if least <= MOST_IMAGES else None


def score(n: int, only_base: int, only_other: int, share: float) -> float:
    """Tango's statistic of the hypothesis that (other - base) / n is ``share``; standard normal if it is true."""
    b, c = only_other, only_base
    gap = b - c - n * share
    linear = -b - c + (2 * n - b + c) * share
    root = math.sqrt(max(0.0, linear**2 + 8 * n * c * share * (1 - share)))
    q = (root - linear) / (4 * n)
    variance = n * (2 * q + share * (1 - share))
    return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0


def contrast(base: ArrayLike, other: ArrayLike, margin_points: float) -> Contrast:
    """Of which images FP32, and another precision, are right."""
    a, b = np.asarray(base, bool), np.asarray(other, bool)
    return counted(len(a), int(np.sum(a & ~b)), int(np.sum(~a & b)), margin_points)


def counted(n: int, only_base: int, only_other: int, margin_points: float) -> Contrast:
    """The same by counts: of ``n`` images those that one of the two alone gets right."""
    discordant, margin = only_base + only_other, margin_points / 100
    p = float(stats.binomtest(only_base, discordant).pvalue) if discordant else 1.0
    below, above = (score(n, only_base, only_other, end) for end in (-margin, margin))
    return Contrast(n, only_base, only_other, p, float(max(stats.norm.sf(below), stats.norm.cdf(above))))


def adjusted(contrasts: Sequence[Contrast | None]) -> list[Contrast | None]:
    """The contrasts of a family, both p corrected (Holm) over all of them."""
    found = pd.DataFrame(
        [(one.p, one.p_equivalence) if one else (np.nan, np.nan) for one in contrasts], columns=["p", "p_equivalence"]
    ).astype(float)
    holm = found.apply(verdicts.holm).to_numpy()
    return [one and Contrast(one.n, one.only_base, one.only_other, *p) for one, p in zip(contrasts, holm, strict=True)]
