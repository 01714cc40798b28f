"""Every formula of the study, beside its source, and what one record or one cell says by them.

The round is the unit of a time: passes of one round share its processes, their memory layout and their minute, so the
interval of a median comes from the spread between rounds. A t interval on the logarithms of the rounds' medians covers
94 to 96 % of independent rounds at 3 to 20 of them. Percentiles carry order-statistic intervals and are refused where
the sample can't carry them. Nothing is dropped but what other programs disturbed. Ratios are in ``ratios``.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from visionquant.analysis.published import Printed
from visionquant.core.quantities import MIB
from visionquant.records.cell import BASELINE, Cell
from visionquant.records.record import Record
from visionquant.settings.params import StatisticsChoice

Rounds = Sequence[Sequence[float]]
# numpy's names; "linear" (type 7) is its default. Hyndman and Fan, The American Statistician 50 (1996) 361.
PERCENTILE_METHODS = (
    "linear", "lower", "higher", "nearest", "midpoint", "inverted_cdf", "averaged_inverted_cdf",
    "closest_observation", "interpolated_inverted_cdf", "hazen", "weibull", "median_unbiased", "normal_unbiased",
)  # fmt: skip
ONE_ROUND = "one round: no interval"
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


def logs(sides: Iterable[Rounds]) -> pd.DataFrame:
    """A row a side, which is its samples by round: ``value``, the median of all, ``n`` rounds, and of the logs of the
    rounds' medians ``effect``, their mean, its ``error``, and ``df``. Without samples ``n`` is 0 and the rest NaN.
    """
    rows = []
    for side in sides:
        n, value = len(side), np.median(np.concatenate(side)) if side else np.nan
        middles = np.log([np.median(each) for each in side]) if side else np.array([np.nan])
        rows.append((value, n, middles.mean(), middles.std(ddof=1) / n**0.5 if n > 1 else np.nan, n - 1))
    return pd.DataFrame(rows, columns=["value", "n", "effect", "error", "df"], dtype=float)


def medians(side: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Median over all samples; t interval on the logs of the rounds' medians (rows of :func:`logs`).

    With n rounds of medians m_i: exp(mean(log m) -+ t(n-1) * sd(log m) / sqrt(n)), widened to hold the value itself
    where unequal rounds put the median of all outside.
    Source: Student's t interval, e.g. Hahn and Meeker, Statistical Intervals (1991), section 4.2, on the log scale.
    """
    half = stats.t.ppf(0.5 + confidence / 2, side.df) * side.error
    low, high = (np.exp(side.effect + sign * half) for sign in (-1, 1))
    reason = np.select([side.value.isna(), half.isna()], ["no timed pass", ONE_ROUND], "")
    bounds = {"low": low.clip(upper=side.value), "high": high.clip(lower=side.value), "reason": reason}
    return side[["value", "n"]].assign(**bounds)


def percentile(samples: Sequence[float], percent: float, confidence: float) -> Estimate:
    """Percentile (numpy's "linear") with a distribution-free interval between two order statistics.

    The ranks are the binomial quantiles that leave at most (1 - confidence) / 2 on either side; where the smallest or
    the largest sample is not extreme enough for that, the percentile is refused: ``value`` None and a reason.
    Assumes independent samples, which passes of one round are only nearly.
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


def outliers(rounds: Rounds) -> int:
    """How many samples lie beyond three interquartile ranges from the quartiles of their own round.

    They are counted and never dropped. Source: J. W. Tukey, Exploratory Data Analysis (1977), section 2E ("far out").
    """
    count = 0
    for times in map(np.asarray, rounds):
        low, high = np.percentile(times, [25, 75])
        count += int(np.sum((times < low - 3 * (high - low)) | (times > high + 3 * (high - low))))
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


def gpu_times(cell: Cell, precision: str) -> Rounds:
    """Milliseconds of each round's passes by CUDA events, as :meth:`Cell.times_ms` by the clock."""
    times = ([ms for slot in one.of(precision, cell.paired) for ms in slot.gpu_ms or ()] for one in cell.rounds)
    return [one for one in times if one]


def rates(cell: Cell, precision: str) -> Rounds:
    """Images a second of each round: in the windows of its slots, or in their timed passes where it has no window."""
    slots = [one.of(precision, cell.paired) for one in cell.rounds]
    windows = [[slot.window for slot in one if slot.window] for one in slots]
    if any(windows):
        totals = [(sum(window.images for window in one), sum(window.seconds for window in one)) for one in windows]
    else:
        totals = [(len(one) * cell.batch_size, sum(one) / 1e3) for one in cell.times_ms(precision)]
    return [(images / seconds,) for images, seconds in totals if seconds > 0]


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
    rounds = cell.times_ms(record.precision)
    times = [ms for each in rounds for ms in each]
    n, on_cpu, memory = len(times), record.environment.device == "cpu", cell.memory
    yield Estimate("latency_mean", float(np.mean(times)), n=n)
    deviation = float(np.std(times, ddof=1)) if n > 1 else None
    yield known("latency_std", deviation, n, "a standard deviation needs two samples")
    yield from (percentile(times, percent, choice.confidence) for percent in choice.percentiles if percent != 50)
    yield Estimate("latency_outliers", float(outliers(rounds)), n=n)
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
