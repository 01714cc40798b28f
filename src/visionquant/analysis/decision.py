"""Which precision for which model, with the records behind the answer, and what a load costs in one precision.

The fastest within the limits by its median is taken; those whose intervals overlap its own can't be told apart from it
and are named. What a precision costs in accuracy is known from trained weights, the model's own or its family's; the
agreement of seeded weights tells nothing of it, so that where nothing else is known no precision is recommended, unless
no accuracy is asked for.

The Pareto front of a model holds the precisions that no other beats in latency, memory and fidelity at
once. Instances = load / (throughput x utilisation), rounded up, at the best throughput that some batch size gives
within the limits of cost. What is no measurement is an assumption of params.yaml; savings are against FP32.
"""

import math
import operator
from dataclasses import dataclass, replace

from visionquant.analysis import trained_evidence
from visionquant.analysis.estimators import Estimate, absent
from visionquant.analysis.published import Row
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.analysis.trained_evidence import TrainedEvidence
from visionquant.settings.sections import CostAssumptions, DecisionLimits

# Assumptions that the sensitivity figure moves.
MOVED = ("load_images_per_s", "utilisation", "hours_per_month", "years", "development_usd")


@dataclass(frozen=True)
class Candidate:
    """One precision of one model: latency in ms, memory in MiB, cosine to FP32, change of accuracy in points.

    ``misses`` are the limits it breaks.
    """

    precision: str
    latency: Estimate
    memory: Estimate
    cosine: Estimate
    accuracy: Estimate
    record: str
    misses: tuple[str, ...]
    front: bool = False

    @property
    def known(self) -> bool:
        """Whether latency and memory have a figure."""
        return self.latency.value is not None and self.memory.value is not None

    @property
    def burdens(self) -> tuple[float, float, float]:
        """Latency, memory, and what fidelity lacks; less is better."""
        cosine = -1.0 if self.cosine.value is None else self.cosine.value
        return self.latency.value or 0.0, self.memory.value or 0.0, -cosine


@dataclass(frozen=True)
class Advice:
    """The answer for one model; ``chosen`` is None where nothing keeps within the limits, and ``why`` says why.

    ``evidence`` says whose accuracy is known, empty where none is.
    """

    model: str
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    why: str
    evidence: str = ""


def recommend(
    study: Study, machine_set: MachineSet, models: tuple[str, ...], limits: DecisionLimits
) -> tuple[Advice, ...]:
    """An answer a model, from one machine set."""
    return tuple(_recommended(study, machine_set, model, limits) for model in models)


def _recommended(study: Study, machine_set: MachineSet, model: str, limits: DecisionLimits) -> Advice:
    evidence = trained_evidence.find(study, model)
    found = [_candidate(study, machine_set, model, name, limits, evidence) for name in study.precisions]
    advice = replace(_advice(model, found), evidence=evidence.text if evidence else "")
    known = any(one.known for one in advice.candidates)
    if not known or evidence or model in machine_set.trained_models or not limits.asks_for_accuracy:
        return advice
    settled = trained_evidence.SETTLED_BY.format(model=model)
    return replace(advice, chosen=None, why=f"only the agreement of seeded weights is known; {settled} settle it")


def _advice(model: str, found: list[Candidate]) -> Advice:
    known = [one for one in found if one.known]
    beaten = {
        one.precision
        for one in known
        for other in known
        if one.burdens != other.burdens and all(map(operator.le, other.burdens, one.burdens))
    }
    candidates = tuple(replace(one, front=one.known and one.precision not in beaten) for one in found)
    fitting = [one for one in candidates if one.known and not one.misses]
    if not known:
        return Advice(model, candidates, None, f"nothing to choose from: {found[0].latency.reason}")
    if not fitting:
        reasons = "; ".join(f"{one.precision}: {', '.join(one.misses)}" for one in known)
        return Advice(model, candidates, None, f"nothing keeps within the limits ({reasons})")
    fastest = min(fitting, key=lambda one: one.burdens[0])
    others = [one.precision for one in fitting if one is not fastest and _overlap(one.latency, fastest.latency)]
    why = "the fastest within the limits" if len(fitting) > 1 else "the only one within the limits"
    if others:
        why += f"; {', '.join(others)} can't be told apart from it by the intervals"
    return Advice(model, candidates, fastest, why)


def _candidate(
    study: Study,
    machine_set: MachineSet,
    model: str,
    precision: str,
    limits: DecisionLimits,
    evidence: TrainedEvidence | None,
) -> Candidate:
    latency, memory, cosine = (
        study.row(machine_set.source, model, precision, limits.batch_size, quantity)
        for quantity in ("latency_median", machine_set.memory, "cosine")
    )
    misses = []
    if limits.latency_limit_ms is not None and latency.value is not None and latency.value > limits.latency_limit_ms:
        misses.append(f"{latency.value:.2f} ms is over {limits.latency_limit_ms:g}")
    if limits.memory_limit_mib is not None and memory.value is not None and memory.value > limits.memory_limit_mib:
        misses.append(f"{memory.value:.1f} MiB is over {limits.memory_limit_mib:g}")
    unknown = absent("accuracy_change", "no trained weights of its family were evaluated", "not_measured")
    accuracy = evidence.change(study, precision) if evidence else unknown
    most = limits.accuracy_loss_limit
    if most is not None and precision != BASELINE and evidence and accuracy.low is None:
        misses.append(f"not evaluated on {evidence.network}")
    elif most is not None and accuracy.low is not None and -accuracy.low > most:
        misses.append(f"may lose {-accuracy.low:.2f} points, over {most:g}")
    floor = limits.fidelity_floor if model in machine_set.trained_models else None
    if floor is not None and (cosine.value is None or cosine.value < floor):
        found = "no fidelity" if cosine.value is None else f"cosine {cosine.value:.4f}"
        misses.append(f"{found} is below {floor:g}")
    record = f"{machine_set.folder}/{model}-{precision}.json"
    return Candidate(precision, latency, memory, cosine, accuracy, record, tuple(misses))


def _overlap(a: Estimate, b: Estimate) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return a.value == b.value
    return a.low <= b.high and b.low <= a.high


@dataclass(frozen=True)
class Capacity:
    """Images a second of one instance with bounds, and the batch size that gives them; ``why`` where there is none."""

    images_per_s: float | None = None
    low: float | None = None
    high: float | None = None
    batch_size: int | None = None
    why: str = ""


def measured_capacity(study: Study, machine_set: MachineSet, model: str, precision: str) -> Capacity:
    """The best measured throughput within the limits of cost."""
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


@dataclass(frozen=True)
class Bill:
    """US dollars over all years, the total with the one-time development; or a month, where the name says so.

    ``break_even_months`` is None where nothing is saved, ``roi_percent`` where nothing was spent.
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
    month, months = price_per_hour * assumed.hours_per_month, 12 * assumed.years
    count, count_base = (instances(assumed, rate) for rate in (per_s, base_per_s))
    spent, monthly, saved_monthly = (
        0.0 if base else assumed.development_usd,
        count * month,
        (count_base - count) * month,
    )
    saved, total = saved_monthly * months, monthly * months + spent
    roi = 100 * (saved - spent) / spent if spent else None
    return Bill(count, monthly, saved_monthly, saved, total, roi, spent / saved_monthly if saved_monthly > 0 else None)


def instances(assumed: CostAssumptions, per_s: float) -> int:
    """How many instances of ``per_s`` images a second carry the load."""
    return max(1, math.ceil(assumed.load_images_per_s / (per_s * assumed.utilisation) - 1e-9))


def fits(machine_set: MachineSet, price: Row) -> bool:
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
        ends = [getattr(assumed, name) * (1 + sign * assumed.spread) for sign in (-1, 1)]
        ends[1] = min(ends[1], 1.0) if name == "utilisation" else ends[1]
        found.append(Swing(name, *ends, *(net(assumed.model_copy(update={name: end})) for end in ends)))
    prices = [price_per_hour * (1 + sign * assumed.spread) for sign in (-1, 1)]
    found.append(Swing("price_per_hour", *prices, *(net(price=price) for price in prices)))
    rates = [per_s if end is None else end for end in (other.low, other.high)]
    found.append(Swing("measured throughput (its interval)", *rates, *(net(rate=rate) for rate in rates)))
    return net(), tuple(sorted(found, key=lambda one: -abs(one.at_high - one.at_low)))
