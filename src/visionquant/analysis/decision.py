"""Which precision for which model: the fastest that keeps within the limits, with the records behind the answer.

The fastest by its median is taken; those whose intervals overlap its own can't be told apart from it and are named.
The Pareto front of a model holds the precisions that no other beats in latency, memory and fidelity at once.
"""

from dataclasses import dataclass, replace

from visionquant.analysis.estimators import Estimate
from visionquant.analysis.study import MachineSet, Study
from visionquant.settings.costs import DecisionLimits


@dataclass(frozen=True)
class Candidate:
    """One precision of one model: latency in ms, memory in MiB, cosine to FP32; ``misses`` are the limits it breaks."""

    precision: str
    latency: Estimate
    memory: Estimate
    cosine: Estimate
    record: str
    misses: tuple[str, ...]
    front: bool = False

    @property
    def known(self) -> bool:
        """Whether latency and memory have a figure."""
        return self.latency.value is not None and self.memory.value is not None

    @property
    def costs(self) -> tuple[float, float, float]:
        """Latency, memory, and what fidelity lacks; less is better."""
        cosine = -1.0 if self.cosine.value is None else self.cosine.value
        return self.latency.value or 0.0, self.memory.value or 0.0, -cosine

    def beaten_by(self, other: "Candidate") -> bool:
        """Whether another one costs no more in anything, and less in something."""
        no_more = all(there <= here for here, there in zip(self.costs, other.costs, strict=True))
        return other.known and no_more and other.costs != self.costs


@dataclass(frozen=True)
class Advice:
    """The answer for one model; ``chosen`` is None where nothing keeps within the limits, and ``why`` says why."""

    model: str
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    why: str


def recommend(
    study: Study, machine_set: MachineSet, models: tuple[str, ...], limits: DecisionLimits
) -> tuple[Advice, ...]:
    """An answer a model, from one machine set."""
    return tuple(_advice(study, machine_set, model, limits) for model in models)


def _advice(study: Study, machine_set: MachineSet, model: str, limits: DecisionLimits) -> Advice:
    found = [_candidate(study, machine_set, model, precision, limits) for precision in study.precisions]
    candidates = tuple(
        replace(one, front=one.known and not any(one.beaten_by(other) for other in found)) for one in found
    )
    known = [one for one in candidates if one.known]
    fitting = [one for one in known if not one.misses]
    if not known:
        return Advice(model, candidates, None, f"nothing to choose from: {candidates[0].latency.reason}")
    if not fitting:
        reasons = "; ".join(f"{one.precision}: {', '.join(one.misses)}" for one in known)
        return Advice(model, candidates, None, f"nothing keeps within the limits ({reasons})")
    fastest = min(fitting, key=lambda one: one.latency.value or 0.0)
    others = [one.precision for one in fitting if one is not fastest and _overlap(one.latency, fastest.latency)]
    why = "the fastest within the limits" if len(fitting) > 1 else "the only one within the limits"
    if others:
        why += f"; {', '.join(others)} can't be told apart from it by the intervals"
    return Advice(model, candidates, fastest, why)


def _candidate(study: Study, machine_set: MachineSet, model: str, precision: str, limits: DecisionLimits) -> Candidate:
    latency, memory, cosine = (
        study.row(machine_set.source, model, precision, limits.batch_size, quantity)
        for quantity in ("latency_median", machine_set.memory, "cosine")
    )
    misses = []
    if limits.latency_limit_ms is not None and latency.value is not None and latency.value > limits.latency_limit_ms:
        misses.append(f"{latency.value:.2f} ms is over {limits.latency_limit_ms:g}")
    if limits.memory_limit_mib is not None and memory.value is not None and memory.value > limits.memory_limit_mib:
        misses.append(f"{memory.value:.1f} MiB is over {limits.memory_limit_mib:g}")
    if limits.fidelity_floor is not None and (cosine.value is None or cosine.value < limits.fidelity_floor):
        found = "no fidelity" if cosine.value is None else f"cosine {cosine.value:.4f}"
        misses.append(f"{found} is below {limits.fidelity_floor:g}")
    record = f"{machine_set.folder}/{model}-{precision}.json"
    return Candidate(precision, latency, memory, cosine, record, tuple(misses))


def _overlap(a: Estimate, b: Estimate) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return a.value == b.value
    return a.low <= b.high and b.low <= a.high
