"""Accuracy on labelled images: top-1 with its interval, the exact test against FP32, and calibration.

Top-1 carries a Wilson interval; two precisions name the same images, so they are compared by McNemar's exact test on
the images that only one of them gets right, corrected (Holm) over a set's networks; calibration error is over ten bins
of equal width.
Sources: E. B. Wilson, JASA 22 (1927) 209; Q. McNemar, Psychometrika 12 (1947) 153; Guo et al., On Calibration of Modern
Neural Networks, ICML 2017.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from visionquant.analysis import verdicts
from visionquant.analysis.estimators import Estimate
from visionquant.records.machine_set import BASELINE
from visionquant.records.outcomes import LabelledResult, Scores

BINS = 10


@dataclass(frozen=True)
class Contrast:
    """One precision against FP32 on the same images: images that only one of the two gets right, and p."""

    only_base: int
    only_other: int
    p: float

    def word(self, level: float) -> str:
        """LOWER, HIGHER, or UNDECIDED: not told apart on these images."""
        if self.p >= level:
            return "UNDECIDED"
        return "LOWER" if self.only_base > self.only_other else "HIGHER"


# A precision of a network: both names, its figures, and the contrast against FP32, None where there is none.
Evaluated = tuple[str, str, list[Estimate], Contrast | None]


def share(right: ArrayLike, confidence: float, quantity: str = "top1") -> Estimate:
    """The share of what is right, with its Wilson interval, in percent."""
    count, n = int(np.sum(right)), int(np.size(right))
    interval = stats.binomtest(count, n).proportion_ci(confidence, method="wilson")
    return Estimate(quantity, 100 * count / n, 100 * float(interval.low), 100 * float(interval.high), n)


def contrast(base: ArrayLike, other: ArrayLike) -> Contrast:
    """McNemar's exact test: under no difference each discordant image is a fair coin."""
    a, b = np.asarray(base, bool), np.asarray(other, bool)
    only_base, only_other = int(np.sum(a & ~b)), int(np.sum(~a & b))
    n = only_base + only_other
    return Contrast(only_base, only_other, float(stats.binomtest(only_base, n).pvalue) if n else 1.0)


def words(contrasts: Sequence[Contrast | None], confidence: float) -> list[str]:
    """A word on each contrast, corrected (Holm) over all of them; empty where there is none."""
    adjusted = verdicts.holm(pd.Series([one.p if one else np.nan for one in contrasts], dtype=float))
    pairs = zip(contrasts, adjusted, strict=True)
    return [replace(one, p=float(p)).word(1 - confidence) if one else "" for one, p in pairs]


def calibration_error(right: ArrayLike, confidence: ArrayLike) -> float:
    """Expected calibration error in percent: |share right - mean confidence| over bins, weighted by their images."""
    hit, sure = np.asarray(right, float), np.asarray(confidence, float)
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, hit, BINS) - np.bincount(bins, sure, BINS)
    return 100 * float(np.abs(gaps).sum()) / len(hit)


def _against(right: dict[str, np.ndarray], name: str) -> Contrast | None:
    return contrast(right[BASELINE], right[name]) if {BASELINE, name} <= {*right} and name != BASELINE else None


def trained(scores: Iterable[Scores], confidence: float) -> Iterator[Evaluated]:
    """Every precision of every trained network."""
    for one in scores:
        right = {name: np.equal(answers.classes, one.labels) for name, answers in one.precisions.items()}
        for name, answers in one.precisions.items():
            error = Estimate("calibration_error", calibration_error(right[name], answers.confidence), n=len(one.labels))
            yield one.network, name, [share(right[name], confidence), error], _against(right, name)


def pretrained(judged: Iterable[LabelledResult], confidence: float) -> Iterator[Evaluated]:
    """Every precision of every model with pretrained weights; one without a head has no top-1, no top-5, no contrast.

    ``knn_top1`` is the share of images that their neighbours name right, ``knn_agreement`` the share where they name
    the same class as in FP32, in percent; ``cka`` is the alignment with FP32's features.
    """
    for one in judged:
        n, base = len(one.labels), one.precisions.get(BASELINE)
        wanted = np.array([one.targets[label] for label in one.labels] if one.targets else [])[:, None]
        hits = {name: np.equal(answers.top5, wanted) for name, answers in one.precisions.items() if one.targets}
        first = {name: hit[:, 0] for name, hit in hits.items()}
        for name, answers in one.precisions.items():
            same = np.equal(answers.neighbours, (base or answers).neighbours)
            found = [
                share(np.equal(answers.neighbours, one.labels), confidence, "knn_top1"),
                Estimate("knn_agreement", 100 * float(np.mean(same)), n=n),
                Estimate("cka", answers.cka, n=n),
            ]
            if name in hits:
                found += [share(first[name], confidence), share(hits[name].any(axis=1), confidence, "top5")]
            yield one.model, name, found, _against(first, name)


def figures(evaluated: Iterable[Evaluated], confidence: float) -> Iterator[tuple[str, str, Estimate]]:
    """Network, precision and each figure, top-1 with its verdict, corrected over all that are given."""
    family = tuple(evaluated)
    verdict_words = words([row[3] for row in family], confidence)
    for (network, precision, estimates, found), word in zip(family, verdict_words, strict=True):
        n = estimates[0].n
        if found:
            why = f"{found.only_base} right in FP32 alone, {found.only_other} here alone"
            estimates = [replace(e, verdict=word, reason=why) if e.quantity == "top1" else e for e in estimates]
            estimates.append(Estimate("mcnemar_p", found.p, n=n, verdict=word, reason=why))
            estimates.append(Estimate("right_in_fp32_alone", found.only_base, n=n))
            estimates.append(Estimate("right_here_alone", found.only_other, n=n))
        yield from ((network, precision, estimate) for estimate in estimates)
