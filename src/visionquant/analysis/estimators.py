"""Every formula of the study, beside its source, and what one record or one cell says by them.

The replicate process is the unit: timings inside one process share its memory layout and its luck, so intervals of a
median or of a ratio come from the spread between processes. A t interval on the logarithms of the process medians
covers 94 to 96 % at 3 to 20 processes, where a hierarchical bootstrap covered 79 % at 3. Percentiles carry
order-statistic intervals and are refused where the sample can't carry them. Nothing is dropped.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from visionquant.analysis.published import Printed
from visionquant.core.intervals import log_medians
from visionquant.core.quantities import MIB
from visionquant.records.cell import Cell, Replicate
from visionquant.records.machine_set import BASELINE
from visionquant.records.record import Record
from visionquant.settings.params import StatisticsChoice

Processes = Sequence[Sequence[float]]
# numpy's names; "linear" (type 7) is its default. Hyndman and Fan, The American Statistician 50 (1996) 361.
PERCENTILE_METHODS = (
    "linear", "lower", "higher", "nearest", "midpoint", "inverted_cdf", "averaged_inverted_cdf",
    "closest_observation", "interpolated_inverted_cdf", "hazen", "weibull", "median_unbiased", "normal_unbiased",
)  # fmt: skip
ONE_PROCESS = "one process: no interval"
ON_CPU = "a CUDA figure, there is none on a CPU"
UNPROFILED = "profiled at the smallest and largest batch size alone, or the profiler told nothing"
DEVICE_MEMORY = ("memory_allocated_after", "memory_peak_allocated", "memory_peak_reserved")
FIDELITY = ("cosine", "sqnr", "top1_agreement", "kl_divergence")
SIZES = (
    "memory_stored_weights", "memory_with_workspace", "memory_reduction_stored", "memory_reduction_workspace",
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A quantity in the unit that ``core.quantities`` names, with its interval (None where there is none).

    ``n`` values stand behind it. Where there is no value ``status`` and ``reason`` say why; ``verdict`` is the word on
    a speedup or a change, and ``reason`` its grounds.
    """

    quantity: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    verdict: str = ""
    status: str = "ok"
    reason: str = ""


def absent(quantity: str, reason: str, status: str = "not_available") -> Estimate:
    """No figure, and why."""
    return Estimate(quantity, status=status, reason=reason)


def known(quantity: str, value: float | None, n: int, reason: str) -> Estimate:
    """A figure; without a value not available for ``reason``."""
    return absent(quantity, reason) if value is None else Estimate(quantity, value, n=n)


def logs(sides: Iterable[Processes]) -> pd.DataFrame:
    """A row a side: ``value``, the pooled median of its processes, and ``k``, ``mean``, ``var`` of their log medians.

    Processes without a timed iteration are no processes; ``k`` is 0, and the rest NaN, where there are no others.
    """
    rows = []
    for side in sides:
        timed = [process for process in side if len(process)]
        value = np.median(np.concatenate([np.asarray(process, float) for process in timed])) if timed else np.nan
        medians = log_medians(timed) if timed else np.array([np.nan])
        rows.append((value, len(timed), medians.mean(), medians.var(ddof=1) if len(timed) > 1 else np.nan))
    return pd.DataFrame(rows, columns=["value", "k", "mean", "var"], dtype=float)


def medians(side: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Median over all samples; t interval on the logs of the process medians (rows of :func:`logs`).

    With k processes of medians m_i: exp(mean(log m) -+ t(k-1) * sd(log m) / sqrt(k)), widened to hold the value itself
    where unequal process sizes put the pooled median outside. ``n`` is k.
    Source: Student's t interval, e.g. Hahn and Meeker, Statistical Intervals (1991), section 4.2, on the log scale.
    """
    return _interval(side.value, side["mean"], (side["var"] / side.k) ** 0.5, side.k - 1, side.k, confidence)


def contrasts(base: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Welch's t statistic of two sides (rows of :func:`logs`) on the log scale.

    ``effect`` is log(base over other), ``error`` its standard error, ``df`` after Welch and Satterthwaite; ``spread``
    the standard deviation of one process's log median, pooled over both sides; ``n`` the processes of the smaller side.
    ``error`` is NaN where a side has fewer than two processes. Source: B. L. Welch, Biometrika 34 (1947) 28.
    """
    a, b = base["var"] / base.k, other["var"] / other.k
    df = (a + b) ** 2 / (a**2 / (base.k - 1) + b**2 / (other.k - 1))
    found = pd.DataFrame({"effect": base["mean"] - other["mean"], "error": (a + b) ** 0.5})
    spread, n = ((base["var"] + other["var"]) / 2) ** 0.5, np.minimum(base.k, other.k)
    return found.assign(df=df.where(a + b > 0, base.k + other.k - 2), spread=spread, n=n)


def ratios(base: pd.DataFrame, other: pd.DataFrame, contrast: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Ratio of the pooled medians, base over other, with Welch's t interval; a speedup above 1 is faster than base."""
    return _interval(base.value / other.value, contrast.effect, contrast.error, contrast.df, contrast.n, confidence)


def _interval(
    value: pd.Series, centre: pd.Series, error: pd.Series, df: pd.Series, n: pd.Series, confidence: float
) -> pd.DataFrame:
    half = stats.t.ppf(0.5 + confidence / 2, df) * error
    low, high = (np.exp(centre + sign * half) for sign in (-1, 1))
    found = pd.DataFrame({"value": value, "low": low.clip(upper=value), "high": high.clip(lower=value), "n": n})
    return found.assign(reason=np.select([value.isna(), half.isna()], ["no timed iteration", ONE_PROCESS], ""))


def percentile(samples: Sequence[float], percent: float, confidence: float) -> Estimate:
    """Percentile (numpy's "linear") with a distribution-free interval between two order statistics.

    The ranks are the binomial quantiles that leave at most (1 - confidence) / 2 on either side; where the smallest or
    the largest sample is not extreme enough for that, the percentile is refused: ``value`` None and a reason.
    Assumes independent samples, which iterations of one process are only nearly.
    Source: Hahn and Meeker, Statistical Intervals (1991), section 5.2; H. A. David, Order Statistics, section 2.5.
    """
    name, n, needed = f"latency_p{percent:g}", len(samples), samples_needed(percent, confidence)
    if n < needed:
        return absent(name, f"p{percent:g} needs {needed} samples, the cell has {n}", "refused")
    found = stats.quantile_test(samples, p=percent / 100).confidence_interval(confidence)
    return Estimate(name, float(np.percentile(samples, percent)), float(found.low), float(found.high), n)


def samples_needed(percent: float, confidence: float) -> int:
    """The fewest samples with q**n and (1-q)**n both at most (1 - confidence) / 2: 6 for p50, 368 for p99 at 95 %."""
    q, tail = percent / 100, (1 - confidence) / 2
    return max(math.ceil(math.log(tail) / math.log(q)), math.ceil(math.log(tail) / math.log1p(-q)))


def outliers(processes: Processes) -> int:
    """How many samples lie beyond three interquartile ranges from the quartiles of their own process.

    They are counted and never dropped. Source: J. W. Tukey, Exploratory Data Analysis (1977), section 2E ("far out").
    """
    count = 0
    for process in (np.asarray(one, float) for one in processes if len(one)):
        low, high = np.percentile(process, [25, 75])
        count += int(np.sum((process < low - 3 * (high - low)) | (process > high + 3 * (high - low))))
    return count


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, median, both standard deviations, range, and the 95th percentile by every rule numpy knows.

    Keys: mean, median, std_n, std_n-1, min, max, ``p95_<method>``. Empty for no value.
    """
    data = np.asarray(values, float)
    if not len(data):
        return {}
    found = {"mean": data.mean(), "median": np.median(data), "std_n": data.std(), "min": data.min(), "max": data.max()}
    found |= {"std_n-1": data.std(ddof=1)} if len(data) > 1 else {}
    found |= {f"p95_{method}": np.percentile(data, 95, method=method) for method in PERCENTILE_METHODS}  # type: ignore[call-overload]
    return {name: float(value) for name, value in found.items()}


def default_definition(statistic: str) -> str:
    """The definition shown for a statistic of the block: n-1 for std, numpy's linear rule for p95."""
    return {"std": "std_n-1", "p95": "p95_linear"}.get(statistic, statistic)


def reproducing(statistic: str, printed: Printed, values: Sequence[float]) -> list[str]:
    """The definitions of ``statistic`` (mean, std, p95, ...) that round to the printed figure; may be empty."""
    numbers = summary(values).items()
    return [name for name, number in numbers if name.split("_")[0] == statistic and printed.rounds_from(number)]


def wall_times(replicates: Iterable[Replicate]) -> Processes:
    """The timed milliseconds of each process."""
    return [one.wall_ms for one in replicates]


def windows(replicates: Iterable[Replicate]) -> Processes:
    """Milliseconds an image in the throughput window of each process that had one."""
    found = [one.throughput for one in replicates if one.throughput and one.throughput.seconds > 0]
    return [(1e3 * window.seconds / window.images,) for window in found]


def of_sizes(size: int | None, base: int | None, workspace_mib: float, why: str, why_base: str) -> Iterator[Estimate]:
    """Bytes of weights as MiB, alone and with a workspace, and what is saved in either against FP32's, in percent."""
    for quantity, reduction, more in zip(SIZES[:2], SIZES[2:], (0.0, workspace_mib), strict=True):
        mib, base_mib = (None if count is None else count / MIB + more for count in (size, base))
        saved = 100 * (1 - mib / base_mib) if mib is not None and base_mib else None
        yield known(quantity, mib, 1, why)
        yield known(reduction, saved, 1, why if mib is None else why_base)


def of_pair(record: Record, base: Record | None, workspace_mib: float) -> Iterator[Estimate]:
    """``SIZES``, the size of a file, and ``FIDELITY``; ``base`` is the same model's FP32 record."""
    stored, stored_base = (side.size.stored_weights if side and side.size else None for side in (record, base))
    why = "size not recorded"
    yield from of_sizes(stored, stored_base, workspace_mib, why, why if base else "no FP32 record to compare with")
    yield known("model_size", record.size.file_bytes / MIB if record.size else None, 1, why)
    if (found := record.fidelity) is None:
        yield from (absent(name, record.fidelity_reason or "fidelity not measured") for name in FIDELITY)
        return
    agreement = None if found.top1_agreement is None else 100 * found.top1_agreement
    for name, value in zip(FIDELITY, (found.cosine, found.sqnr_db, agreement, found.kl_nats), strict=True):
        why = "no noise: identical to FP32" if name == "sqnr" else "no finite figure"
        nan = absent(name, f"{found.nan_count} outputs are NaN", "non_finite")
        yield nan if value is None and found.nan_count else known(name, value, found.images, why)


def of_cell(
    record: Record, cell: Cell, base: Cell | None, base_reason: str, choice: StatisticsChoice
) -> Iterator[Estimate]:
    """Passes, memory and energy of a timed cell; ``base`` is the same model's FP32 cell, None for a reason."""
    times = [ms for process in wall_times(cell.replicates) for ms in process]
    n, on_cpu, memory = len(times), record.environment.device == "cpu", cell.memory
    yield Estimate("latency_mean", float(np.mean(times)), n=n)
    deviation = float(np.std(times, ddof=1)) if n > 1 else None
    yield known("latency_std", deviation, n, "a standard deviation needs two samples")
    yield from (percentile(times, percent, choice.confidence) for percent in choice.percentiles if percent != 50)
    yield Estimate("latency_outliers", float(outliers(wall_times(cell.replicates))), n=n)
    waits = 100 * (1 - cell.launch.gpu_busy_ms / float(np.median(times))) if cell.launch else None
    yield known("launch_share", waits, 1, ON_CPU if on_cpu else UNPROFILED)
    joules, images = (cell.energy.net_j_per_image, cell.energy.images) if cell.energy else (None, 0)
    yield known("energy_per_image", joules, images, cell.energy_reason or "not recorded")
    for name in (*DEVICE_MEMORY, "memory_host_peak"):
        count = getattr(memory, name.removeprefix("memory_")) if memory else None
        why = ON_CPU if on_cpu and name in DEVICE_MEMORY else "not recorded"
        yield known(name, None if count is None else count / MIB, 1, why if memory else "memory not recorded")
    here, there = (side.memory.allocated_after if side and side.memory else None for side in (cell, base))
    saved = None if here is None or not there else 0.0 - 100 * (here / there - 1)
    why = ON_CPU if on_cpu else "not recorded"
    yield known("memory_reduction", saved, 1, why if base else f"no FP32 cell to compare with: {base_reason}")


def block_ratios(records: Mapping[tuple[str, str], Record]) -> dict[tuple[str, str], tuple[float | None, ...]]:
    """Signal to noise in dB after each block of every pair, FP32 apart, whose record tells of it."""
    found = {pair: one.fidelity.blocks_sqnr_db for pair, one in records.items() if one.fidelity}
    return {pair: ratios for pair, ratios in found.items() if ratios and pair[1] != BASELINE}


def steepest(ratios: Iterable[float | None]) -> tuple[int | None, float | None]:
    """The block (counted from 1) after which a ratio falls most against the block before, and by how many dB."""
    steps = enumerate(pairwise(ratios), start=2)
    falls = [(a - b, number) for number, (a, b) in steps if a is not None and b is not None and a > b]
    lost, number = max(falls, default=(None, None))
    return number, lost
