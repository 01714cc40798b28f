"""Every formula of the study, beside its source.

The replicate process is the unit: timings inside one process share its memory layout and its luck, so intervals of a
median or of a ratio come from the spread between processes. A t interval on the logarithms of the process medians
covers 94 to 96 % at 3 to 20 processes, where a hierarchical bootstrap covered 79 % at 3. Percentiles carry
order-statistic intervals and are refused where the sample can't carry them. Nothing is dropped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from visionquant.analysis.published import Printed
from visionquant.core.intervals import log_medians, t_interval

# numpy's names; "linear" (type 7) is its default. Hyndman and Fan, The American Statistician 50 (1996) 361.
PERCENTILE_METHODS = (
    "linear", "lower", "higher", "nearest", "midpoint", "inverted_cdf", "averaged_inverted_cdf",
    "closest_observation", "interpolated_inverted_cdf", "hazen", "weibull", "median_unbiased", "normal_unbiased",
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A value with its confidence bounds (None where the data can't carry any); ``n`` values stand behind it."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""


def median(processes: Sequence[Sequence[float]], confidence: float) -> Interval:
    """Median over all samples; t interval on the logs of the process medians.

    With k processes of medians m_i: exp(mean(log m) -+ t(k-1) * sd(log m) / sqrt(k)), widened to hold the value itself
    where unequal process sizes put the pooled median outside. ``n`` is k.
    Source: Student's t interval, e.g. Hahn and Meeker, Statistical Intervals (1991), section 4.2, on the log scale.
    """
    filled = [process for process in processes if len(process)]
    if not filled:
        return Interval(None, None, None, 0, "no timed iteration")
    value = float(np.median(np.concatenate([np.asarray(process, float) for process in filled])))
    found = t_interval(log_medians(filled), confidence)
    if found is None:
        return Interval(value, None, None, len(filled), "one process: no interval")
    return Interval(value, min(found[0], value), max(found[1], value), len(filled))


def ratio(numerator: Sequence[Sequence[float]], denominator: Sequence[Sequence[float]], confidence: float) -> Interval:
    """Ratio of the pooled medians; Welch's t interval on the logs of the process medians.

    A speedup is ratio(FP32, other): above 1 the other precision is faster. ``n`` is the smaller number of processes.
    Source: B. L. Welch, Biometrika 34 (1947) 28, with the Welch-Satterthwaite degrees of freedom.
    """
    top, bottom = median(numerator, confidence), median(denominator, confidence)
    if top.value is None or bottom.value is None:
        return Interval(None, None, None, 0, "no timed iteration")
    value = top.value / bottom.value
    a, b = log_medians([p for p in numerator if len(p)]), log_medians([p for p in denominator if len(p)])
    n = min(len(a), len(b))
    if n < 2:
        return Interval(value, None, None, n, "one process: no interval")
    va, vb = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    centre = float(a.mean() - b.mean())
    if va + vb == 0.0:
        return Interval(value, min(math.exp(centre), value), max(math.exp(centre), value), n)
    df = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = float(stats.t.ppf(0.5 + confidence / 2, df)) * math.sqrt(va + vb)
    return Interval(value, min(math.exp(centre - half), value), max(math.exp(centre + half), value), n)


def percentile(samples: Sequence[float], percent: float, confidence: float) -> Interval:
    """Percentile (numpy's "linear") with a distribution-free interval between two order statistics.

    The ranks are the binomial quantiles that leave at most (1 - confidence) / 2 on either side; where the smallest or
    the largest sample is not extreme enough for that, the percentile is refused: ``value`` None and a reason.
    Assumes independent samples, which iterations of one process are only nearly.
    Source: Hahn and Meeker, Statistical Intervals (1991), section 5.2; H. A. David, Order Statistics, section 2.5.
    """
    ordered = np.sort(np.asarray(samples, float))
    n, q, tail = len(ordered), percent / 100, (1 - confidence) / 2
    needed = samples_needed(percent, confidence)
    if n < needed:
        return Interval(None, None, None, n, f"p{percent:g} needs {needed} samples, the cell has {n}")
    # P(X_(r) > quantile) = P(Binomial(n, q) < r): the largest r with that at most `tail`, and the mirror above.
    low_rank = int(stats.binom.ppf(tail, n, q))
    high_rank = int(stats.binom.ppf(1 - tail, n, q)) + 1
    value = float(np.percentile(ordered, percent))
    return Interval(value, float(ordered[max(low_rank, 1) - 1]), float(ordered[min(high_rank, n) - 1]), n)


def samples_needed(percent: float, confidence: float) -> int:
    """The fewest samples with q**n and (1-q)**n both at most (1 - confidence) / 2: 6 for p50, 368 for p99 at 95 %."""
    q, tail = percent / 100, (1 - confidence) / 2
    return max(math.ceil(math.log(tail) / math.log(q)), math.ceil(math.log(tail) / math.log1p(-q)))


def mean(samples: Sequence[float]) -> Interval:
    """Arithmetic mean of all samples; ``n`` samples, no interval (they are not independent)."""
    return Interval(float(np.mean(samples)), None, None, len(samples)) if len(samples) else _none()


def std(samples: Sequence[float]) -> Interval:
    """Standard deviation with n-1 in the denominator (Bessel), None below two samples."""
    if len(samples) < 2:
        return Interval(None, None, None, len(samples), "a standard deviation needs two samples")
    return Interval(float(np.std(samples, ddof=1)), None, None, len(samples))


def outliers(processes: Sequence[Sequence[float]]) -> Interval:
    """How many samples lie beyond three interquartile ranges from the quartiles of their own process.

    They are counted and never dropped; ``n`` samples were looked at.
    Source: J. W. Tukey, Exploratory Data Analysis (1977), section 2E ("far out").
    """
    n = sum(len(process) for process in processes)
    if not n:
        return _none()
    count = 0
    for process in processes:
        if len(process):
            low, high = np.percentile(process, [25, 75])
            count += sum(not low - 3 * (high - low) <= value <= high + 3 * (high - low) for value in process)
    return Interval(float(count), None, None, n)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, median, both standard deviations, range, and the 95th percentile by every rule numpy knows.

    Keys: mean, median, std_n, std_n-1, min, max, ``p95_<method>``. Empty for no value.
    """
    if not len(values):
        return {}
    data = np.asarray(values, float)
    found = {
        "mean": float(data.mean()),
        "median": float(np.median(data)),
        "std_n": float(data.std()),
        "min": float(data.min()),
        "max": float(data.max()),
    }
    if len(data) > 1:
        found["std_n-1"] = float(data.std(ddof=1))
    for method in PERCENTILE_METHODS:
        found[f"p95_{method}"] = float(np.percentile(data, 95, method=method))  # type: ignore[call-overload]
    return found


def default_definition(statistic: str) -> str:
    """The definition shown for a statistic of the block: n-1 for std, numpy's linear rule for p95."""
    return {"std": "std_n-1", "p95": "p95_linear"}.get(statistic, statistic)


def reproducing(statistic: str, printed: Printed, values: Sequence[float]) -> list[str]:
    """The definitions of ``statistic`` (mean, std, p95, ...) that round to the printed figure; may be empty."""
    return [
        name
        for name, number in summary(values).items()
        if name.split("_")[0] == statistic and printed.rounds_from(number)
    ]


def _none() -> Interval:
    return Interval(None, None, None, 0, "no timed iteration")
