"""Which published cells wait for the host: time per operation against the work that the GPU could do meanwhile.

A forward pass issues so many operations, counted on the same networks (the published software may have issued a few
more or less). The host needs some microseconds for each, whatever the GPU does. How many is read off the models that
leave the GPU next to nothing to do; where the published time of another model is no more than that rate says, and its
work would take far less, the cell is launch-bound: a faster number format can't help it.
"""

from dataclasses import dataclass
from statistics import median
from typing import Literal

from visionquant.analysis.study import BASELINE, Evidence

Reading = Literal["launch-bound", "beyond the host", "neither"]
FLOATS = ("fp32", "fp16")
NEAR = 1.25  # published time within this factor of the host's is explained by it
IDLE = 0.1  # a model whose work takes at most this share of its published FP32 time shows the host's rate


@dataclass(frozen=True)
class Issue:
    """One published cell: milliseconds, operations of a pass, the two floors in milliseconds, and what explains it."""

    model: str
    precision: str
    published_ms: float
    operations: int
    work_ms: float
    host_ms: float
    reading: Reading

    @property
    def us_per_operation(self) -> float:
        return 1e3 * self.published_ms / self.operations


def idle(evidence: Evidence) -> tuple[str, ...]:
    """The published models whose work takes at most ``IDLE`` of their FP32 time: they show the host alone."""
    found = []
    for row in evidence.published.models:
        facts, ms = evidence.facts(row.name), evidence.published.value("latency_median", row.name, BASELINE)
        if facts is not None and ms is not None:
            work = evidence.published.peaks.floor_ms(facts.macs, facts.model_bytes[BASELINE], BASELINE)
            if work <= IDLE * ms:
                found.append(row.name)
    return tuple(found)


def host_us(evidence: Evidence) -> float | None:
    """Microseconds that the published host spends on an operation, None without counts.

    The median over FP32 and FP16 of the models that leave the GPU idle.
    """
    rates = []
    for model in idle(evidence):
        facts = evidence.facts(model)
        for precision in FLOATS:
            ms = evidence.published.value("latency_median", model, precision)
            if ms is not None and facts is not None:
                rates.append(1e3 * ms / facts.operations[precision])
    return median(rates) if rates else None


def issues(evidence: Evidence) -> tuple[Issue, ...]:
    """Every published FP32 and FP16 cell whose operations are counted."""
    host = host_us(evidence)
    found = []
    for model in (row.name for row in evidence.published.models):
        facts = evidence.facts(model)
        for precision in FLOATS:
            ms = evidence.published.value("latency_median", model, precision)
            if host is None or facts is None or ms is None:
                continue
            count = facts.operations[precision]
            work = evidence.published.peaks.floor_ms(facts.macs, facts.model_bytes[precision], precision)
            host_ms = host * count / 1e3
            reading: Reading = "neither"
            if ms <= NEAR * host_ms and 2 * work <= ms:
                reading = "launch-bound"
            elif ms > NEAR * host_ms:
                reading = "beyond the host"
            found.append(Issue(model, precision, ms, count, work, host_ms, reading))
    return tuple(found)


def by_model(found: tuple[Issue, ...]) -> dict[str, dict[str, Issue]]:
    """Issues by model and precision, FP32 first."""
    result: dict[str, dict[str, Issue]] = {}
    for one in sorted(found, key=lambda one: one.precision != BASELINE):
        result.setdefault(one.model, {})[one.precision] = one
    return result
