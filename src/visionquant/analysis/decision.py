"""Which precision for which model: the fastest that keeps within the limits, with the records behind the answer.

The fastest by its median is taken; those whose intervals overlap its own can't be told apart from it and are named.
The Pareto front of a model holds the precisions that no other beats in latency, memory and fidelity at once.
"""

from dataclasses import dataclass

from visionquant.analysis import cost
from visionquant.analysis.estimates import Estimate
from visionquant.analysis.study import Evidence, RecordSet
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


@dataclass(frozen=True)
class Advice:
    """The answer for one model; ``chosen`` is None where nothing keeps within the limits, and ``why`` says why."""

    model: str
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    why: str


def recommend(
    evidence: Evidence, records_: RecordSet, models: tuple[str, ...], limits: DecisionLimits
) -> tuple[Advice, ...]:
    """An answer a model, from one set of records."""
    return tuple(_advice(evidence, records_, model, limits) for model in models)


def _advice(evidence: Evidence, records_: RecordSet, model: str, limits: DecisionLimits) -> Advice:
    found = [_candidate(evidence, records_, model, precision, limits) for precision in evidence.precisions]
    candidates = tuple(_on_front(one, found) for one in found)
    fitting = [one for one in candidates if one.known and not one.misses]
    if not fitting:
        measured = [one for one in candidates if one.known]
        if not measured:
            return Advice(model, candidates, None, f"nothing to choose from: {candidates[0].latency.reason}")
        reasons = "; ".join(f"{one.precision}: {', '.join(one.misses)}" for one in measured)
        return Advice(model, candidates, None, f"nothing keeps within the limits ({reasons})")
    fastest = min(fitting, key=lambda one: one.latency.value or 0.0)
    others = [one.precision for one in fitting if one is not fastest and _overlap(one.latency, fastest.latency)]
    why = "the fastest within the limits" if len(fitting) > 1 else "the only one within the limits"
    if others:
        why += f"; {', '.join(others)} can't be told apart from it by the intervals"
    return Advice(model, candidates, fastest, why)


def _candidate(
    evidence: Evidence, records_: RecordSet, model: str, precision: str, limits: DecisionLimits
) -> Candidate:
    name = "memory_peak_allocated" if cost.on_cuda(records_) else "memory_stored_weights"
    latency, memory, cosine = (
        evidence.estimate(records_, quantity, model, precision, limits.batch_size)
        for quantity in ("latency_median", name, "cosine")
    )
    misses = []
    if limits.latency_limit_ms is not None and latency.value is not None and latency.value > limits.latency_limit_ms:
        misses.append(f"{latency.value:.2f} ms is over {limits.latency_limit_ms:g}")
    if limits.memory_limit_mib is not None and memory.value is not None and memory.value > limits.memory_limit_mib:
        misses.append(f"{memory.value:.1f} MiB is over {limits.memory_limit_mib:g}")
    if limits.fidelity_floor is not None and (cosine.value is None or cosine.value < limits.fidelity_floor):
        found = "no fidelity" if cosine.value is None else f"cosine {cosine.value:.4f}"
        misses.append(f"{found} is below {limits.fidelity_floor:g}")
    folder = "data/measured" if records_.source == "local" else f"data/recorded/{records_.source.partition(':')[2]}"
    return Candidate(precision, latency, memory, cosine, f"{folder}/{model}-{precision}.json", tuple(misses))


def _on_front(one: Candidate, all_: list[Candidate]) -> Candidate:
    if not one.known:
        return one
    mine = _scores(one)
    beaten = any(
        all(theirs <= my for theirs, my in zip(_scores(other), mine, strict=True)) and _scores(other) != mine
        for other in all_
        if other.known and other is not one
    )
    return Candidate(one.precision, one.latency, one.memory, one.cosine, one.record, one.misses, front=not beaten)


def _scores(one: Candidate) -> tuple[float, float, float]:
    """Latency, memory, and what fidelity lacks; less is better."""
    cosine = -1.0 if one.cosine.value is None else one.cosine.value
    return one.latency.value or 0.0, one.memory.value or 0.0, -cosine


def _overlap(a: Estimate, b: Estimate) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return a.value == b.value
    return a.low <= b.high and b.low <= a.high
