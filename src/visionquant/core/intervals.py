"""The t interval on logarithms of process medians: one formula, for the stop rule, the progress line and the report.

Source: Student's t interval, e.g. Hahn and Meeker, Statistical Intervals (1991), section 4.2, on the log scale.
"""

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
from scipy.special import stdtrit


def log_medians(processes: Sequence[Sequence[float]]) -> np.ndarray:
    """Natural logarithm of each process's median."""
    return np.log([median(process) for process in processes])


def t_interval(logs: np.ndarray, confidence: float) -> tuple[float, float] | None:
    """exp(mean -+ t(k-1) * sd / sqrt(k)) over k values, None below two."""
    if len(logs) < 2:
        return None
    half = quantile(0.5 + confidence / 2, len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return math.exp(float(logs.mean()) - half), math.exp(float(logs.mean()) + half)


def half_width(logs: np.ndarray, confidence: float) -> float | None:
    """Half the width of the interval of :func:`t_interval` as a share of its middle, None below two values."""
    interval = t_interval(logs, confidence)
    return None if interval is None else math.expm1(math.log(interval[1] / interval[0]) / 2)


def quantile(probability: float, df: float) -> float:
    """Quantile of Student's t."""
    return float(stdtrit(df, probability))
