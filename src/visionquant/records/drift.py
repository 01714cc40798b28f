"""Did the machine change? Readings of a fixed reference kernel, taken beside every replicate, against their own noise.

Noise is the spread of readings in fresh processes, taken just before: a reading lies within ``noise(readings)`` of
their centre with a probability of 99.8 % while the machine stays what it was (a prediction interval, Hahn and Meeker,
Statistical Intervals, 1991, section 4.7, on the log scale). Readings before the timed passes are held against readings
before, those after against those after, for a machine at work is warmer.

On a GPU there are two kernels: one that the card computes, one of launches for the host. Where a profiled pass shows
which of them sets a cell's pace, its readings speak alone; else both do.
"""

import math
from collections.abc import Sequence

import numpy as np

from visionquant.core.intervals import quantile
from visionquant.records.cell import Cell, Launch, Replicate, Sentinel

FLOOR = 0.05  # a reading that moves by less is left to the spread between processes
FLOOR_BETWEEN = 0.005  # nor are the middles of two cells
PROBABILITY = 0.998  # of one reading within the noise; a cell has six and more
BETWEEN = 0.95  # of the middles of two cells
KERNEL, HOST = "reference kernel", "row of launches"  # names of the two kernels
HOST_BOUND = 0.8  # a GPU at work for less of a pass than this share waits for the host
MEDIAN = 1.2533  # a median's standard error over a mean's, sqrt(pi / 2)


def noise(readings_ms: Sequence[float], floor: float = FLOOR) -> float:
    """How far (in logs) one more reading may lie from the centre of these by chance; ``floor`` below two readings."""
    k = len(readings_ms)
    return floor if k < 2 else max(floor, _quantile(PROBABILITY, k) * _spread(readings_ms) * math.sqrt(1 + 1 / k))


def moved(sentinels: Sequence[Sentinel], allowed: float) -> bool:
    """Whether any reading lies further than ``allowed`` (log) from the median of those of its kind."""
    logs = np.log([(pair.before_ms, pair.after_ms) for pair in sentinels])
    return len(logs) > 0 and float(np.abs(logs - np.median(logs, axis=0)).max()) > allowed


def kernels(replicates: Sequence[Replicate], launch: Launch | None) -> tuple[str, ...]:
    """Which kernels' readings speak for these replicates; ``launch`` is the profiled pass of the first."""
    if not replicates or any(run.sentinel is None or run.sentinel.host is None for run in replicates):
        return (KERNEL,)
    if launch is None:
        return KERNEL, HOST
    return (HOST,) if launch.gpu_busy_ms < HOST_BOUND * float(np.median(replicates[0].wall_ms)) else (KERNEL,)


def readings(replicates: Sequence[Replicate], kernel: str) -> list[Sentinel]:
    """The readings of one kernel, fewer than replicates where it was not recorded."""
    recorded = [run.sentinel for run in replicates if run.sentinel is not None]
    return recorded if kernel == KERNEL else [pair.host for pair in recorded if pair.host is not None]


def between(a: Cell, b: Cell) -> float:
    """How far (log) the machine moved between two cells, by any kernel that speaks for one of them; 0 within the noise.

    The middles are medians over processes of the mean of both readings; their noise is that of two medians. Without
    readings of every process nothing bounds it.
    """
    if any(len(readings(cell.replicates, KERNEL)) < len(cell.replicates) for cell in (a, b)):
        return math.inf
    speaking = {*kernels(a.replicates, a.launch), *kernels(b.replicates, b.launch)}
    return max(_between(a, b, kernel) for kernel in speaking)


def _between(a: Cell, b: Cell, kernel: str) -> float:
    first, second = (_levels(readings(cell.replicates, kernel)) for cell in (a, b))
    if not len(first) or not len(second):
        return 0.0
    allowed = FLOOR_BETWEEN
    for calibration in (cell.calibration_ms if kernel == KERNEL else cell.host_calibration_ms for cell in (a, b)):
        if len(calibration) >= 2:
            error = MEDIAN * _spread(calibration) * math.sqrt(1 / len(first) + 1 / len(second))
            allowed = max(allowed, _quantile(BETWEEN, len(calibration)) * error)
    distance = abs(float(np.median(first) - np.median(second)))
    return distance if distance > allowed else 0.0


def _levels(sentinels: Sequence[Sentinel]) -> np.ndarray:
    pairs = [(pair.before_ms, pair.after_ms) for pair in sentinels]
    return np.log(np.asarray(pairs, float).reshape(-1, 2)).mean(axis=1)


def _spread(readings_ms: Sequence[float]) -> float:
    return float(np.log(readings_ms).std(ddof=1))


def _quantile(probability: float, k: int) -> float:
    return quantile(0.5 + probability / 2, k - 1)
