"""What a load costs in one precision: instances = load / (throughput x utilisation), rounded up, times their price.

Throughput is the best that some batch size gives within the latency and memory limits. Everything that is no
measurement is an assumption of params.yaml. Savings are against FP32; the one-time cost of development counts once.
"""

import math
from dataclasses import dataclass

from visionquant.analysis.prices import Price
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.settings.costs import CostAssumptions

# Assumptions that the sensitivity figure moves.
MOVED = ("load_images_per_s", "utilisation", "hours_per_month", "years", "development_usd")


@dataclass(frozen=True)
class Capacity:
    """Images a second of one instance, and the batch size that gives them; ``why`` where there is none."""

    images_per_s: float | None
    batch_size: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Bill:
    """US dollars; ``break_even_months`` is None where nothing is saved, ``roi_percent`` where nothing was spent.

    ``saved`` and ``total`` are over all years; the total holds the development.
    """

    instances: int
    monthly: float
    saved_monthly: float
    saved: float
    total: float
    roi_percent: float | None
    break_even_months: float | None


def bill(base_per_s: float, per_s: float, price_per_hour: float, assumed: CostAssumptions, base: bool = False) -> Bill:
    """The bill of one precision beside FP32's; rates in images a second, ``base`` for FP32 itself."""
    month = price_per_hour * assumed.hours_per_month
    months = 12 * assumed.years
    count, count_base = (instances(assumed, one) for one in (per_s, base_per_s))
    spent = 0.0 if base else assumed.development_usd
    saved_monthly = (count_base - count) * month
    saved = saved_monthly * months
    return Bill(
        instances=count,
        monthly=count * month,
        saved_monthly=saved_monthly,
        saved=saved,
        total=count * month * months + spent,
        roi_percent=100 * (saved - spent) / spent if spent else None,
        break_even_months=spent / saved_monthly if saved_monthly > 0 else None,
    )


def instances(assumed: CostAssumptions, per_s: float) -> int:
    """How many instances of ``per_s`` images a second carry the load."""
    return max(1, math.ceil(assumed.load_images_per_s / (per_s * assumed.utilisation) - 1e-9))


def published(evidence: Evidence, model: str, precision: str) -> Capacity:
    """What the published latency at batch size 1 gives."""
    ms = evidence.published.value("latency_median", model, precision)
    return Capacity(1e3 / ms, 1) if ms else Capacity(None, why="no latency is printed")


def measured(evidence: Evidence, records_: RecordSet, model: str, precision: str) -> Capacity:
    """The best measured throughput within the limits."""
    assumed, best, reasons = evidence.params.cost, Capacity(None), []
    for batch_size in evidence.batch_sizes:
        latency = evidence.estimate(records_, "latency_median", model, precision, batch_size)
        rate = evidence.estimate(records_, "throughput", model, precision, batch_size)
        if latency.value is None or rate.value is None:
            reasons.append(latency.reason or rate.reason)
            continue
        if latency.value > assumed.latency_limit_ms:
            reasons.append(f"over {assumed.latency_limit_ms:g} ms")
            continue
        name = "memory_peak_allocated" if on_cuda(records_) else "memory_stored_weights"
        memory = evidence.estimate(records_, name, model, precision, batch_size).value
        if assumed.memory_limit_mib is not None and (memory is None or memory > assumed.memory_limit_mib):
            reasons.append(f"over {assumed.memory_limit_mib:g} MiB")
            continue
        if best.images_per_s is None or rate.value > best.images_per_s:
            best = Capacity(rate.value, batch_size)
    return best if best.images_per_s is not None else Capacity(None, why=reasons[0] if reasons else "not measured")


def on_cuda(records_: RecordSet) -> bool:
    """Whether a set was measured on a GPU."""
    return records_.environment is not None and records_.environment.device == "cuda"


def fits(records_: RecordSet, price: Price) -> bool:
    """Whether the instance of a price has a GPU if, and only if, the set was measured on one."""
    return on_cuda(records_) == (price.gpus > 0)


@dataclass(frozen=True)
class Swing:
    """What all years save when one assumption is lower and higher by the spread."""

    name: str
    low: float
    high: float
    at_low: float
    at_high: float


def swings(
    assumed: CostAssumptions, price_per_hour: float, base: tuple[float, float, float], other: tuple[float, float, float]
) -> tuple[float, tuple[Swing, ...]]:
    """The saving net of development, and its swings, widest first; ``base`` and ``other`` are (rate, low, high)."""

    def net(assumptions: CostAssumptions, price: float, base_rate: float, rate: float) -> float:
        return bill(base_rate, rate, price, assumptions).saved - assumptions.development_usd

    found = []
    for name in MOVED:
        value = getattr(assumed, name)
        ends = value * (1 - assumed.spread), value * (1 + assumed.spread)
        if name == "utilisation":
            ends = ends[0], min(ends[1], 1.0)
        low, high = (net(assumed.model_copy(update={name: end}), price_per_hour, base[0], other[0]) for end in ends)
        found.append(Swing(name, *ends, low, high))
    prices = price_per_hour * (1 - assumed.spread), price_per_hour * (1 + assumed.spread)
    found.append(Swing("price_per_hour", *prices, *(net(assumed, price, base[0], other[0]) for price in prices)))
    rates = [net(assumed, price_per_hour, base[0], rate) for rate in other[1:]]
    found.append(Swing("measured throughput (its interval)", *other[1:], *rates))
    ordered = sorted(found, key=lambda one: -abs(one.at_high - one.at_low))
    return net(assumed, price_per_hour, base[0], other[0]), tuple(ordered)


def rate(evidence: Evidence, records_: RecordSet, model: str, precision: str) -> tuple[float, float, float] | None:
    """The best measured throughput within the limits, with its interval; None where there is none."""
    found = measured(evidence, records_, model, precision)
    if found.images_per_s is None or found.batch_size is None:
        return None
    estimate = evidence.estimate(records_, "throughput", model, precision, found.batch_size)
    return (
        found.images_per_s,
        found.images_per_s if estimate.low is None else estimate.low,
        found.images_per_s if estimate.high is None else estimate.high,
    )
