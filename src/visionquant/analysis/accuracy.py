"""Accuracy of the trained networks: top-1 with its interval, the exact test against FP32, and calibration.

Top-1 carries a Wilson interval; two precisions name the same images, so they are compared by McNemar's exact test on
the images that only one of them names rightly; calibration error is over ten bins of equal width.
Sources: E. B. Wilson, JASA 22 (1927) 209; Q. McNemar, Psychometrika 12 (1947) 153; Guo et al., On Calibration of Modern
Neural Networks, ICML 2017.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from visionquant.analysis import verdicts
from visionquant.analysis.study import BASELINE, Evidence
from visionquant.records import labelled, predictions
from visionquant.records.labelled import Judged
from visionquant.records.predictions import Named as Answered
from visionquant.records.predictions import Scores

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


def right(one: Answered, found: Scores) -> list[bool]:
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
    told = _words([row.contrast for row in rows], confidence)
    return tuple(replace(row, word=word) for row, word in zip(rows, told, strict=True))


@dataclass(frozen=True)
class Named:
    """One precision of one model with pretrained weights; shares are None where it has no head.

    ``neighbours`` is the share of images that their neighbours name rightly, ``agreement`` the share where they name
    the same class as in FP32, in percent.
    """

    model: str
    precision: str
    top1: Share | None
    top5: Share | None
    contrast: Contrast | None
    neighbours: Share
    agreement: float
    cka: float
    word: str = ""


def named(found: Sequence[Judged], confidence: float) -> tuple[Named, ...]:
    """Every precision of every judged model; the words are corrected (Holm) over all contrasts."""
    rows = []
    for one in found:
        wanted = [one.targets[label] for label in one.labels] if one.targets else []
        base = one.precisions.get(BASELINE)
        for name, answers in one.precisions.items():
            first = [five[0] == label for five, label in zip(answers.top5, wanted, strict=bool(wanted))]
            five = [label in five for five, label in zip(answers.top5, wanted, strict=bool(wanted))]
            voted = [a == b for a, b in zip(answers.neighbours, one.labels, strict=True)]
            against = None
            if base is not None and name != BASELINE and wanted:
                against = contrast([best[0] == label for best, label in zip(base.top5, wanted, strict=True)], first)
            same = base.neighbours if base is not None else answers.neighbours
            rows.append(
                Named(
                    one.model,
                    name,
                    share(first, confidence) if wanted else None,
                    share(five, confidence) if wanted else None,
                    against,
                    share(voted, confidence),
                    100 * float(np.mean([a == b for a, b in zip(answers.neighbours, same, strict=True)])),
                    answers.cka,
                )
            )
    told = _words([row.contrast for row in rows], confidence)
    return tuple(replace(row, word=word) for row, word in zip(rows, told, strict=True))


def _words(contrasts: Sequence[Contrast | None], confidence: float) -> list[str]:
    """A word on each contrast, corrected (Holm) over all of them; empty where there is none."""
    adjusted = iter(verdicts.holm([one.p for one in contrasts if one]))
    return [replace(one, p=next(adjusted)).word(1 - confidence) if one else "" for one in contrasts]


def sets(evidence: Evidence) -> dict[str, tuple[Scores, ...]]:
    """Scores by source, this machine's first."""
    return predictions.read_all(evidence.project)


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
    judged = labelled.read(evidence.project)
    for one in named(judged.judged if judged else (), evidence.params.statistics.confidence):
        key = (one.model, one.precision)
        for metric, part in (("top1", one.top1), ("top5", one.top5), ("knn_top1", one.neighbours)):
            if part is not None:
                figures = map(_digits, (part.value, part.low, part.high))
                writer.writerow([*key, metric, *figures, part.n, "%", "local", "pretrained weights"])
        n = one.neighbours.n
        writer.writerow([*key, "knn_agreement", _digits(one.agreement), "", "", n, "%", "local", "pretrained weights"])
        writer.writerow([*key, "cka", _digits(one.cka), "", "", n, "1", "local", "pretrained weights"])
    return {evidence.project.tables / "accuracy.csv": buffer.getvalue()}


def _digits(value: float) -> str:
    return repr(float(f"{value:.9g}"))
