"""Did the machine change? Readings of a fixed reference kernel, taken beside every replicate, against their own noise.

Noise is the spread of readings in fresh processes, taken just before: a reading lies within ``noise(readings)`` of
their centre with a probability of 99.8 % while the machine stays what it was (a prediction interval, Hahn and Meeker,
Statistical Intervals, 1991, section 4.7, on the log scale).
"""

import math
from collections.abc import Sequence

import numpy as np

from visionquant.intervals import quantile
from visionquant.samples import Sentinel

FLOOR = 0.02  # no machine is steadier than this share
PROBABILITY = 0.998


def noise(readings_ms: Sequence[float]) -> float:
    """How far (in logs) one more reading may lie from the centre of these by chance; ``FLOOR`` below two readings."""
    if len(readings_ms) < 2:
        return FLOOR
    logs = np.log(readings_ms)
    k = len(logs)
    return max(FLOOR, quantile(0.5 + PROBABILITY / 2, k - 1) * float(logs.std(ddof=1)) * math.sqrt(1 + 1 / k))


def readings(sentinels: Sequence[Sentinel]) -> list[float]:
    """All readings in order."""
    return [ms for one in sentinels for ms in (one.before_ms, one.after_ms)]


def moved(sentinels: Sequence[Sentinel], allowed: float) -> bool:
    """Whether any reading lies further than ``allowed`` (log) from the median of all."""
    logs = np.log(readings(sentinels))
    return bool(len(logs)) and float(np.abs(logs - np.median(logs)).max()) > allowed


def between(a: Sequence[Sentinel], b: Sequence[Sentinel], allowed: float) -> float:
    """How far (log) the machine moved between two cells; 0 within the noise of a median of so many readings."""
    first, second = readings(a), readings(b)
    if not first or not second:
        return 0.0
    found = abs(float(np.median(np.log(first)) - np.median(np.log(second))))
    return found if found > allowed else 0.0
