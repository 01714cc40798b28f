"""Accuracy on labelled images: top-1 with its interval, the change against FP32, and calibration.

Top-1 carries a Wilson interval; two precisions classify the same images, so they are compared image by image
(``paired``), over a set's networks; calibration error is over ten bins of equal width; churn is the share of
predictions that change, right or wrong.
Sources: E. B. Wilson, JASA 22 (1927) 209; Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from visionquant.analysis import paired
from visionquant.analysis.estimators import Estimate
from visionquant.analysis.paired import Contrast
from visionquant.core.quantities import MIB
from visionquant.records.machine_set import BASELINE
from visionquant.records.outcomes import LabelledResult, Probe, Scores

BINS = 10


# A precision of a network: both names, its figures, and the contrast against FP32, None where there is none.
Evaluated = tuple[str, str, list[Estimate], Contrast | None]
Figure = tuple[str, str, Estimate]


def share(right: ArrayLike, confidence: float, quantity: str = "top1") -> Estimate:
    """The share of what is right, with its Wilson interval, in percent."""
    count, n = int(np.sum(right)), int(np.size(right))
    interval = stats.binomtest(count, n).proportion_ci(confidence, method="wilson")
    return Estimate(quantity, 100 * count / n, 100 * float(interval.low), 100 * float(interval.high), n)


def calibration_error(right: ArrayLike, confidence: ArrayLike) -> float:
    """Expected calibration error in percent: |share right - mean confidence| over bins, weighted by their images."""
    hit, sure = np.asarray(right, float), np.asarray(confidence, float)
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, hit, BINS) - np.bincount(bins, sure, BINS)
    return 100 * float(np.abs(gaps).sum()) / len(hit)


class Judge:
    """Figures of every network in every precision, those of a kind in one family of contrasts."""

    def __init__(self, confidence: float, margin_points: float) -> None:
        self._confidence, self._margin_points = confidence, margin_points

    def trained(self, scores: Iterable[Scores]) -> Iterator[Figure]:
        """Networks trained here, on images that they have not learned from."""
        evaluated = []
        for one in scores:
            right = {name: np.equal(answers.classes, one.labels) for name, answers in one.precisions.items()}
            for name, answers in one.precisions.items():
                found = [share(right[name], self._confidence), _calibration(right[name], answers.confidence)]
                evaluated.append((one.network, name, found, self._against(right, name)))
        return self._judged(evaluated)

    def probed(self, probes: Iterable[Probe]) -> Iterator[Figure]:
        """Models with trained weights, through heads of FP32's features; ``own_head_``: of the precision's own."""
        evaluated, refitted = [], []
        for one in probes:
            right = {name: np.equal(answers.classes, one.labels) for name, answers in one.precisions.items()}
            base, n = one.precisions.get(BASELINE), len(one.labels)
            for name, answers in one.precisions.items():
                near, far = (base or answers).neighbours, (base or answers).classes
                found = [
                    share(right[name], self._confidence),
                    _calibration(right[name], answers.confidence),
                    share(np.equal(answers.neighbours, one.labels), self._confidence, "knn_top1"),
                    Estimate("knn_agreement", 100 * float(np.mean(np.equal(answers.neighbours, near))), n=n),
                    Estimate("churn", 100 * float(np.mean(np.not_equal(answers.classes, far))), n=n),
                    Estimate("cosine", answers.cosine, n=n),
                    Estimate("least_cosine", answers.least_cosine, n=n),
                    Estimate("memory_stored_weights", answers.stored_weights / MIB),
                ]
                evaluated.append((probe_name(one), name, found, self._against(right, name)))
                if answers.own_head:
                    own = np.equal(answers.own_head, one.labels)
                    contrast = self._against(right | {name: own}, name)
                    refitted.append((probe_name(one), name, [share(own, self._confidence)], contrast))
        yield from self._judged(evaluated)
        for network, name, figure in self._judged(refitted):
            yield network, name, replace(figure, quantity=f"own_head_{figure.quantity}")

    def pretrained(self, judged: Iterable[LabelledResult]) -> Iterator[Figure]:
        """Models with pretrained weights on the reader's images; without a head no top-1, no top-5, no contrast.

        ``knn_top1`` is the share of images that their neighbours name right, ``knn_agreement`` the share where they
        name the same class as in FP32, in percent; ``cka`` is the alignment with FP32's features.
        """
        evaluated = []
        for one in judged:
            n, base = len(one.labels), one.precisions.get(BASELINE)
            wanted = np.array([one.targets[label] for label in one.labels] if one.targets else [])[:, None]
            hits = {name: np.equal(answers.top5, wanted) for name, answers in one.precisions.items() if one.targets}
            first = {name: hit[:, 0] for name, hit in hits.items()}
            for name, answers in one.precisions.items():
                same = np.equal(answers.neighbours, (base or answers).neighbours)
                found = [
                    share(np.equal(answers.neighbours, one.labels), self._confidence, "knn_top1"),
                    Estimate("knn_agreement", 100 * float(np.mean(same)), n=n),
                    Estimate("cka", answers.cka, n=n),
                ]
                if name in hits:
                    found += [
                        share(first[name], self._confidence),
                        share(hits[name].any(axis=1), self._confidence, "top5"),
                    ]
                evaluated.append((one.model, name, found, self._against(first, name)))
        return self._judged(evaluated)

    def _against(self, right: dict[str, np.ndarray], name: str) -> Contrast | None:
        if name == BASELINE or not {BASELINE, name} <= {*right}:
            return None
        return paired.contrast(right[BASELINE], right[name], self._margin_points)

    def _judged(self, evaluated: Sequence[Evaluated]) -> Iterator[Figure]:
        """Each figure, those against FP32 with their verdict, corrected over all that are given."""
        family = paired.adjusted([row[3] for row in evaluated])
        members, level = sum(one is not None for one in family), 1 - self._confidence
        for (network, precision, estimates, _), found in zip(evaluated, family, strict=True):
            if found is not None:
                word, (low, high) = found.word(level), found.interval(self._confidence)
                why = f"{found.only_base} right in FP32 alone, {found.only_other} here alone"
                if word == "UNDECIDED":
                    needed = found.images_needed(level / members, self._margin_points)
                    why += f"; about {needed:,} images would decide" if needed else "; no sensible number would decide"
                estimates = [replace(e, verdict=word, reason=why) if e.quantity == "top1" else e for e in estimates]
                more = (
                    Estimate("accuracy_change", found.points, low, high, found.n),
                    Estimate("mcnemar_p", found.p, n=found.n),
                    Estimate("right_in_fp32_alone", found.only_base, n=found.n),
                    Estimate("right_here_alone", found.only_other, n=found.n),
                )
                estimates += [replace(e, verdict=word, reason=why) for e in more[:2]] + list(more[2:])
            yield from ((network, precision, estimate) for estimate in estimates)


def probe_name(probe: Probe) -> str:
    """What tables call a probe: the model has figures of other tasks too."""
    return f"{probe.model}/{probe.task}"


def _calibration(right: np.ndarray, confidence: ArrayLike) -> Estimate:
    return Estimate("calibration_error", calibration_error(right, confidence), n=len(right))
