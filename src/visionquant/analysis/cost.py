"""What a load costs in one precision: instances = load / (throughput x utilisation), rounded up, times their price.

Throughput is the best that some batch size gives within the latency and memory limits. Everything that is no
measurement is an assumption of params.yaml. Savings are against FP32; the one-time cost of development counts once.
"""

import math
from dataclasses import dataclass

from visionquant.analysis.published import Price
from visionquant.analysis.study import MachineSet, Study
from visionquant.settings.costs import CostAssumptions

# Assumptions that the sensitivity figure moves.
MOVED = ("load_images_per_s", "utilisation", "hours_per_month", "years", "development_usd")


@dataclass(frozen=True)
class Capacity:
    """Images a second of one instance with bounds, and the batch size that gives them; ``why`` where there is none."""

    images_per_s: float | None = None
    low: float | None = None
    high: float | None = None
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


def published(study: Study, model: str, precision: str) -> Capacity:
    """What the published latency at batch size 1 gives."""
    ms = study.published.value("latency_median", model, precision)
    return Capacity(1e3 / ms, batch_size=1) if ms else Capacity(why="no latency is printed")


def measured(study: Study, machine_set: MachineSet, model: str, precision: str) -> Capacity:
    """The best measured throughput within the limits."""
    assumed, found, reasons = study.params.cost, [], []
    for size in study.batch_sizes:
        latency, rate, memory = (
            study.row(machine_set.source, model, precision, size, name)
            for name in ("latency_median", "throughput", machine_set.memory)
        )
        if latency.value is None or rate.value is None:
            reasons.append(latency.reason if latency.value is None else rate.reason)
        elif latency.value > assumed.latency_limit_ms:
            reasons.append(f"over {assumed.latency_limit_ms:g} ms")
        elif assumed.memory_limit_mib is not None and not (memory.value or math.inf) <= assumed.memory_limit_mib:
            reasons.append(f"over {assumed.memory_limit_mib:g} MiB")
        else:
            found.append(Capacity(rate.value, rate.low, rate.high, size))
    return max(found, key=lambda one: one.images_per_s or 0.0, default=Capacity(why=next(iter(reasons), "")))


def fits(machine_set: MachineSet, price: Price) -> bool:
    """Whether the instance of a price has a GPU if, and only if, the set was measured on one."""
    return machine_set.on_cuda == (price.gpus > 0)


@dataclass(frozen=True)
class Swing:
    """What all years save when one assumption is lower and higher by the spread."""

    name: str
    low: float
    high: float
    at_low: float
    at_high: float


def swings(
    assumed: CostAssumptions, price_per_hour: float, base: Capacity, other: Capacity
) -> tuple[float, tuple[Swing, ...]]:
    """The saving net of development, and its swings, widest first; both capacities have a figure."""
    per_s, base_per_s = other.images_per_s or 0.0, base.images_per_s or 0.0

    def net(assumptions: CostAssumptions = assumed, price: float = price_per_hour, rate: float = per_s) -> float:
        return bill(base_per_s, rate, price, assumptions).saved - assumptions.development_usd

    found = []
    for name in MOVED:
        low, high = (getattr(assumed, name) * (1 + sign * assumed.spread) for sign in (-1, 1))
        high = min(high, 1.0) if name == "utilisation" else high
        nets = (net(assumed.model_copy(update={name: end})) for end in (low, high))
        found.append(Swing(name, low, high, *nets))
    prices = [price_per_hour * (1 + sign * assumed.spread) for sign in (-1, 1)]
    found.append(Swing("price_per_hour", *prices, *(net(price=price) for price in prices)))
    rates = [per_s if end is None else end for end in (other.low, other.high)]
    found.append(Swing("measured throughput (its interval)", *rates, *(net(rate=rate) for rate in rates)))
    return net(), tuple(sorted(found, key=lambda one: -abs(one.at_high - one.at_low)))
