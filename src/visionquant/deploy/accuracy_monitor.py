"""Has a quantized model lost accuracy? A verdict on a labelled set, and an alarm on a stream of predictions.

Labelled set: Wilson's interval of the accuracy; the retained share (accuracy / baseline) by MOVER-R, which joins two
Wilson intervals as if baseline and model were independent: on the same images, where they err alike, it is wider than
need be. Its confidence is that of one look: a set that is enlarged until the verdict pleases has not got it.

Stream: a bet against "the accuracy is at least threshold * baseline". Capital 1 is spread over falls of 1 to 32 % and
over all times to start; each bet grows by Wald's likelihood ratio of each prediction. While the claim holds, the sum is
not expected to grow, so it ever reaches 1 / alpha with probability at most alpha (Ville), however often one looks. The
price is delay, by the logarithm of the time before the fall. It needs that each prediction is correct with at least
that probability given those before, which near-equal video frames are not: observe one of them.

Sources: E. B. Wilson, JASA 22 (1927) 209; Donner and Zou, Stat. Methods Med. Res. 21 (2012) 347, eq. 9; J. Ville, Étude
critique de la notion de collectif (1939); Waudby-Smith and Ramdas, J. R. Stat. Soc. B 86 (2024) 1, mixtures of bets.
"""

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge
from scipy import stats
from torch import nn

from visionquant.core.errors import StudyError

FALLS = np.array([0.01, 0.02, 0.04, 0.08, 0.16, 0.32])  # what is bet on: accuracies this share below the limit
PACE = 100  # answers after which the capital is brought in more slowly
MOST = 10**9  # samples that nobody exceeds

Decision = Literal["pass", "fail", "too few samples"]
TOO_FEW: Decision = "too few samples"
Loader = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Proportion:
    """A share of correct predictions, or the ratio of two, with its confidence bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Validation:
    """A verdict. ``samples_needed``: how many in all decide at this accuracy (n if it did), None if 10**9 do not."""

    correct: int
    n: int
    accuracy: Proportion
    retention: Proportion
    decision: Decision
    samples_needed: int | None


@dataclass(frozen=True)
class StreamState:
    """All predictions so far; the shares are None before the first. An alarm stays on and freezes the e-value."""

    observations: int
    errors: int
    accuracy: float | None
    retention: float | None
    e_value: float
    alarm: bool


class AccuracyMonitor:
    """Holds a quantized model to a baseline accuracy. After an alarm and a repair, make a new one.

    Args:
        baseline: an accuracy taken as known, or (correct, n), whose own uncertainty then counts.
        threshold: the share of it that must be retained.
        alpha: highest probability that the stream ever raises a false alarm. A measured baseline takes half of it:
            its exact (Clopper-Pearson) lower bound at alpha / 2 stands in for it, and the alarm waits for 2 / alpha.
        confidence: of the two-sided intervals of ``validate_quantized_model``.
        registry: of the Prometheus metrics, its own if None; it can hold one monitor. A recent error rate is
            rate(visionquant_errors_total[1h]) / rate(visionquant_observations_total[1h]).
    """

    def __init__(
        self,
        baseline: float | tuple[int, int],
        threshold: float = 0.95,
        *,
        alpha: float = 0.01,
        confidence: float = 0.95,
        registry: CollectorRegistry | None = None,
    ) -> None:
        measured = isinstance(baseline, tuple)
        correct, n = baseline if isinstance(baseline, tuple) else (baseline, 1)
        for name, value, in_range, wanted in (
            ("baseline", baseline, 0 < correct <= n, "an accuracy above 0 and at most 1, or (correct, n)"),
            ("threshold", threshold, 0 < threshold <= 1, "a share above 0 and at most 1, e.g. 0.95"),
            ("alpha", alpha, 0 < alpha < 1, "a probability between 0 and 1, e.g. 0.01"),
            ("confidence", confidence, 0 < confidence < 1, "a probability between 0 and 1, e.g. 0.95"),
        ):
            if not in_range:
                raise StudyError(name, f"{value} is out of range", f"give {wanted}")
        self.threshold, self.confidence = threshold, confidence
        self.baseline = wilson(correct / n, int(n), confidence) if measured else Proportion(correct, correct, correct)
        lowest = float(stats.beta.ppf(alpha / 2, correct, n - correct + 1)) if measured else correct
        self.limit, self.alarm_at = threshold * lowest, (2 if measured else 1) / alpha
        self._lock = threading.Lock()
        self._staked = np.zeros(len(FALLS))
        self._seen = self._errors = self._bets = 0
        self.registry = to = registry or CollectorRegistry()
        self._observations_total = Counter("visionquant_observations", "Answers observed.", registry=to)
        self._errors_total = Counter("visionquant_errors", "Wrong answers observed.", registry=to)
        self._accuracy = Gauge("visionquant_accuracy", "Share of right answers.", ["source"], registry=to)
        self._retention = Gauge("visionquant_retention", "Accuracy / baseline.", ["source"], registry=to)
        self._e_value = Gauge("visionquant_e_value", "Evidence that accuracy has fallen; starts at 1.", registry=to)
        self._alarm = Gauge("visionquant_alarm", "1 once accuracy has fallen too far.", registry=to)
        self.observe_batch([])

    def validate_quantized_model(self, model: Callable[[torch.Tensor], Any], loader: Loader) -> Validation:
        """Top-1 of ``model`` on (images, labels) batches, and whether it retains enough; a low accuracy is no error.

        The model gives logits (N, classes), or an object that has them as ``logits``; it runs in evaluation mode and
        on its own device, and every part of it gets its mode back.

        Raises:
            StudyError: no image, labels that do not match the logits, or logits that are not finite.
        """
        correct, n = _count(model, loader)

        def retention_of(size: int) -> Proportion:
            return ratio_interval(wilson(correct / n, size, self.confidence), self.baseline)

        accuracy, retention = wilson(correct / n, n, self.confidence), retention_of(n)
        sizes = range(n, MOST + 1)  # the interval only narrows along them
        first = bisect_left(sizes, True, key=lambda size: decide(retention_of(size), self.threshold) != TOO_FEW)
        needed = sizes[first] if first < len(sizes) else None
        self._accuracy.labels("validation").set(accuracy.value)
        self._retention.labels("validation").set(retention.value)
        return Validation(correct, n, accuracy, retention, decide(retention, self.threshold), needed)

    def observe(self, correct: bool) -> StreamState:
        """Take in one answer of the running model, right or wrong."""
        return self.observe_batch([correct])

    def observe_batch(self, correct: Sequence[bool] | np.ndarray | torch.Tensor) -> StreamState:
        """Take in answers in their order; safe to call from several threads.

        Raises:
            StudyError: anything but a flat list of right (True, 1) and wrong (False, 0).
        """
        answers = torch.as_tensor(correct).cpu().numpy()
        if answers.ndim != 1 or not np.isin(answers, (0, 1)).all():
            raise StudyError("observed answers", "not a flat list of right and wrong", "give one boolean an answer")
        wrong = answers == 0
        with self._lock:
            self._seen, self._errors = self._seen + len(wrong), self._errors + int(wrong.sum())
            e_value = float(capital(self._staked, self._bets))
            for error in wrong:
                if e_value >= self.alarm_at:
                    break
                self._bets += 1
                self._staked = staked_after(self._staked, error, self.limit, self._bets)
                e_value = float(capital(self._staked, self._bets))
            accuracy = 1 - self._errors / self._seen if self._seen else None
            retention = None if accuracy is None else accuracy / self.baseline.value
            alarm = e_value >= self.alarm_at
            self._observations_total.inc(len(wrong))
            self._errors_total.inc(int(wrong.sum()))
            self._accuracy.labels("stream").set(math.nan if accuracy is None else accuracy)
            self._retention.labels("stream").set(math.nan if retention is None else retention)
            self._e_value.set(e_value)
            self._alarm.set(alarm)
            return StreamState(self._seen, self._errors, accuracy, retention, e_value, alarm)


def wilson(share: float, n: int, confidence: float) -> Proportion:
    """Wilson's score interval of a share seen in n samples."""
    z2 = float(stats.norm.ppf(0.5 + confidence / 2)) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return Proportion(share, max(middle - half, 0.0) if share else 0.0, min(middle + half, 1.0) if share < 1 else 1.0)


def ratio_interval(top: Proportion, bottom: Proportion) -> Proportion:
    """MOVER-R interval of top / bottom from their own intervals: Donner and Zou's equation without its cancellation."""
    p, q = top.value, bottom.value

    def root(a: float, b: float) -> float:
        return math.sqrt((a * q) ** 2 + (b * p) ** 2 - (a * b) ** 2)

    a, b, c, d = p - top.low, bottom.high - q, top.high - p, q - bottom.low
    low = (p**2 - a**2) / (p * q + root(a, b)) if p else 0.0
    return Proportion(p / q, low, (p * q + root(c, d)) / (q**2 - d**2))


def decide(retention: Proportion, threshold: float) -> Decision:
    """Pass or fail where the whole interval lies on one side of the threshold."""
    if retention.low >= threshold:
        return "pass"
    return "fail" if retention.high < threshold else TOO_FEW


def staked_after(staked: np.ndarray, wrong: np.ndarray | bool, limit: float, count: int) -> np.ndarray:
    """The capital (..., falls) in each bet after answer ``count`` (from 1); ``wrong`` is (..., 1) or one for all."""
    limit = min(limit, 1 - 1e-12)  # at a limit of 1 an error would be worth an infinite amount
    fresh = (_idle(count - 1) - _idle(count)) / len(FALLS)
    return (staked + fresh) * np.where(wrong, 1 + FALLS * limit / (1 - limit), 1 - FALLS)


def capital(staked: np.ndarray, count: int) -> np.ndarray:
    """The e-value (...): what the bets are worth after ``count`` answers, with what is not at stake yet."""
    return staked.sum(-1) + _idle(count)


def _idle(count: int) -> float:
    return 1 / (1 + math.log1p(count / PACE))


def _count(model: Callable[[torch.Tensor], Any], loader: Loader) -> tuple[int, int]:
    """(correct, n) over a loader."""
    modes, weight, correct, n = {}, None, 0, 0
    if isinstance(model, nn.Module):
        modes, weight = {module: module.training for module in model.modules()}, next(model.parameters(), None)
    try:
        for module in modes:
            module.training = False
        with torch.inference_mode():
            for images, labels in loader:
                output = model(images if weight is None else images.to(weight.device))
                logits = getattr(output, "logits", output)
                shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
                if len(shape) != 2 or labels.shape != shape[:1]:
                    what = f"logits {shape} for labels {tuple(labels.shape)}"
                    raise StudyError("validation", what, "give logits (N, classes) and labels (N,)")
                if not torch.isfinite(logits).all():
                    raise StudyError("validation", "logits that are not finite", "mend the quantized model first")
                correct += int((logits.argmax(1) == labels.to(logits.device)).sum())
                n += len(labels)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not n:
        raise StudyError("validation", "no image in the loader", "give a batch or more; an iterator runs out once read")
    return correct, n
