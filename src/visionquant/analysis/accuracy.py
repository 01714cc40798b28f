"""Accuracy of the trained networks: top-1 with its interval, the exact test against FP32, and calibration.

Top-1 carries a Wilson interval; two precisions name the same images, so they are compared by McNemar's exact test on
the images that only one of them names rightly; calibration error is over ten bins of equal width.
Sources: E. B. Wilson, JASA 22 (1927) 209; Q. McNemar, Psychometrika 12 (1947) 153; Guo et al., On Calibration of Modern
Neural Networks, ICML 2017.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from visionquant import scores
from visionquant.analysis.evidence import BASELINE, Evidence
from visionquant.scores import Named, Scores

BINS = 10
COLUMNS = ("model", "precision", "metric", "value", "low", "high", "n", "unit", "source", "why")


@dataclass(frozen=True)
class Share:
    """``count`` of ``n``, in percent with bounds."""

    count: int
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Contrast:
    """One precision against FP32 on the same images: images that only one of the two names rightly, and p."""

    only_base: int
    only_other: int
    p: float

    def word(self, level: float) -> str:
        """LOWER, HIGHER, or UNDECIDED: not told apart on these images."""
        if self.p >= level:
            return "UNDECIDED"
        return "LOWER" if self.only_base > self.only_other else "HIGHER"


@dataclass(frozen=True)
class Measured:
    """One precision of one network."""

    network: str
    precision: str
    top1: Share
    calibration: float
    contrast: Contrast | None
    word: str = ""


def share(right: Sequence[bool], confidence: float) -> Share:
    """The share of what is right, with its Wilson interval, in percent."""
    count, n = int(np.sum(right)), len(right)
    interval = stats.binomtest(count, n).proportion_ci(confidence, method="wilson")
    return Share(count, n, 100 * count / n, 100 * float(interval.low), 100 * float(interval.high))


def contrast(base: Sequence[bool], other: Sequence[bool]) -> Contrast:
    """McNemar's exact test: under no difference each discordant image is a fair coin."""
    a, b = np.asarray(base, bool), np.asarray(other, bool)
    only_base, only_other = int(np.sum(a & ~b)), int(np.sum(~a & b))
    n = only_base + only_other
    return Contrast(only_base, only_other, float(stats.binomtest(only_base, n).pvalue) if n else 1.0)


def calibration_error(right: Sequence[bool], confidence: Sequence[float]) -> float:
    """Expected calibration error in percent: |share right - mean confidence| over bins, weighted by their images."""
    hit, sure = np.asarray(right, float), np.asarray(confidence, float)
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(hit[bins == i].sum() - sure[bins == i].sum()) for i in range(BINS)]
    return 100 * float(np.sum(gaps)) / len(hit)


def right(one: Named, found: Scores) -> list[bool]:
    """Whether each image was named rightly."""
    return [a == b for a, b in zip(one.classes, found.labels, strict=True)]


def measured(found: Sequence[Scores], confidence: float) -> tuple[Measured, ...]:
    """Every precision of every network; the words are corrected (Holm) over all contrasts of the set."""
    rows = []
    for each in found:
        base = each.precisions.get(BASELINE)
        for name, one in each.precisions.items():
            mine = right(one, each)
            against = contrast(right(base, each), mine) if base is not None and name != BASELINE else None
            error = calibration_error(mine, one.confidence)
            rows.append(Measured(each.network, name, share(mine, confidence), error, against))
    levels = _holm([row.contrast.p for row in rows if row.contrast], 1 - confidence)
    told = iter(levels)
    return tuple(
        Measured(row.network, row.precision, row.top1, row.calibration, row.contrast, row.contrast.word(next(told)))
        if row.contrast
        else row
        for row in rows
    )


def _holm(ps: Sequence[float], alpha: float) -> list[float]:
    """The level that each p is held against; 0 for all after the first that fails (S. Holm, 1979)."""
    levels, open_ = [0.0] * len(ps), True
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        level = alpha / (len(ps) - rank)
        open_ = open_ and ps[index] < level
        levels[index] = level if open_ else 0.0
    return levels


def sets(evidence: Evidence) -> dict[str, tuple[Scores, ...]]:
    """Scores by source, this machine's first."""
    return scores.read_all(evidence.project)


def contents(evidence: Evidence) -> dict[Path, str]:
    """``reports/tables/accuracy.csv``: a row a network, precision, metric and source."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for source, found in sets(evidence).items():
        for row in measured(found, evidence.params.statistics.confidence):
            top1 = row.top1
            key = (row.network, row.precision)
            writer.writerow([*key, "top1", *map(_digits, (top1.value, top1.low, top1.high)), top1.n, "%", source, ""])
            writer.writerow([*key, "calibration_error", _digits(row.calibration), "", "", top1.n, "%", source, ""])
            if row.contrast:
                why = f"{row.word}: {row.contrast.only_base} right in FP32 alone, {row.contrast.only_other} here alone"
                writer.writerow([*key, "mcnemar_p", _digits(row.contrast.p), "", "", top1.n, "1", source, why])
    return {evidence.project.tables / "accuracy.csv": buffer.getvalue()}


def _digits(value: float) -> str:
    return repr(float(f"{value:.9g}"))
