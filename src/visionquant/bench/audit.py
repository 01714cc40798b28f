"""Did the timed passes do the work? Their outputs against the fidelity pass, their times against repeats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from visionquant.bench.clock import Clock, Step, one_step
from visionquant.records.cell import REPEAT_FLOOR, Audit

PAIRS, FEWEST_PAIRS, REPEATS_MS = 10, 5, 500.0
LEAST_LIMIT, LEAST_LIMIT_16 = 1e-3, 1e-2


@dataclass(frozen=True)
class ExpectedOutput:
    """What this precision said before: features of the fidelity images, and of the first of them alone (1, ...).

    ``worst`` is the largest distance of an image's features from FP32's, None where it was not measured.
    """

    features: np.ndarray | None
    alone: np.ndarray | None
    worst: float | None
    in_float32: bool

    @property
    def limit(self) -> float:
        """Relative L2 distance that is allowed.

        Twice what the precision costs the worst image, for two runs of it may err to opposite sides, and at least
        what another order of summation may do.
        """
        least = LEAST_LIMIT if self.in_float32 else LEAST_LIMIT_16
        return least if self.worst is None or not np.isfinite(self.worst) else max(least, 2 * self.worst)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Relative L2 distance of two arrays of the same shape, of b's length; infinite where one is not finite."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def check(
    expected: ExpectedOutput, kept: Sequence[tuple[Sequence[int], np.ndarray]], repeats: Sequence[float]
) -> Audit:
    """Judge the outputs and times of one arm.

    Args:
        kept: of some timed passes, the numbers of the images and their features (batch, ...).
        repeats: of pairs of passes, the time of a batch passed again over that of the same batch when it was new.
    """
    images = () if expected.features is None else expected.features
    passed = [(number, output) for numbers, features in kept for number, output in zip(numbers, features, strict=True)]
    distances = [distance(output, images[number]) for number, output in passed if number < len(images)]
    batch = None
    if expected.alone is not None and kept and len(kept[0][0]) > 1 and 0 in kept[0][0]:
        numbers, features = kept[0]
        batch = distance(features[list(numbers).index(0)], expected.alone[0])
    return Audit(
        kept=len(kept),
        images=len(distances),
        deviation=_short(max(distances, default=None)),
        limit=float(f"{expected.limit:.4g}"),
        repeats=len(repeats),
        repeat_ratio=_short(float(np.exp(np.log(repeats).mean())) if len(repeats) else None),
        repeat_high=_short(_high(repeats)),
        batch_deviation=_short(batch),
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _high(repeats: Sequence[float]) -> float | None:
    """The upper end of the 95 % t interval of the mean ratio, on its logarithm, None below two."""
    logs = np.log(repeats)
    if len(logs) < 2:
        return None
    return float(np.exp(logs.mean() + stdtrit(len(logs) - 1, 0.975) * logs.std(ddof=1) / np.sqrt(len(logs))))


def time_repeats(step: Step, clock: Clock, count: int) -> list[float]:
    """Ratios of ``count`` pairs: a batch passed again over the same batch when it was new.

    Where they accuse, all is timed again with an odd number of passes in between, and the milder of both counts: time
    slices of another program can fall on the first pass of every pair, but not in two rhythms.
    """

    def ratios(between: int) -> list[float]:
        found = []
        for i in range(count):
            for other in range(1, between + 1):
                step(i + other)
            new_ms, repeated_ms = (one_step(step, clock, i)[0] for _ in range(2))
            found.append(repeated_ms / new_ms)
        return found

    first = ratios(0)
    high = _high(first)
    return first if high is None or high >= REPEAT_FLOOR else max(first, ratios(1), key=lambda each: _high(each) or 0.0)


def pair_count(pass_ms: float) -> int:
    """How many pairs to time: ten, fewer where they would take more than half a second, or none."""
    count = min(PAIRS, int(REPEATS_MS / (2 * pass_ms)))
    return count if count >= FEWEST_PAIRS else 0
