"""Which published cells wait for the host: time per operation against the work that the GPU could do meanwhile.

A forward pass issues so many operations, counted here on the same networks (the published software may have issued a
few more or less). The host needs some microseconds for each, whatever the GPU does. How many is read off the models
with the least arithmetic, where the GPU has next to nothing to do; where the published time of another model is no more
than that rate says, and its work would take far less, the cell is launch-bound: a faster number format can't help it.
"""

from dataclasses import dataclass
from statistics import median
from typing import Literal

from visionquant.analysis.evidence import BASELINE, Evidence

Reading = Literal["launch-bound", "work-bound", "neither"]
FLOATS = ("fp32", "fp16")
NEAR = 1.25  # published time within this factor of the host's is explained by it
SMALL = 4  # so many models with the least arithmetic give the host's rate


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


def operations(evidence: Evidence, model: str, precision: str) -> int | None:
    """What one pass issues, by the first set that counted it; INT8 and NF4 as their CPU kernels issue it."""
    for one in evidence.shown:
        record = one.records.get((model, precision))
        if record is not None and record.operations is not None:
            return record.operations
    return None


def smallest(evidence: Evidence) -> tuple[str, ...]:
    """The ``SMALL`` published models with the least arithmetic."""
    facts = {row.name: evidence.facts(row.name) for row in evidence.published.models}
    macs = {name: found.macs for name, found in facts.items() if found is not None}
    return tuple(sorted(macs, key=lambda name: macs[name])[:SMALL])


def host_us(evidence: Evidence) -> float | None:
    """Microseconds that the published host spends on an operation, None without counts.

    The median over FP32 and FP16 of the models with the least arithmetic.
    """
    rates = []
    for model in smallest(evidence):
        for precision in FLOATS:
            ms = evidence.published.value("latency_median", model, precision)
            count = operations(evidence, model, precision)
            if ms is not None and count:
                rates.append(1e3 * ms / count)
    return median(rates) if rates else None


def issues(evidence: Evidence) -> tuple[Issue, ...]:
    """Every published FP32 and FP16 cell whose operations are counted."""
    host = host_us(evidence)
    found = []
    for model in (row.name for row in evidence.published.models):
        facts = evidence.facts(model)
        for precision in FLOATS:
            ms = evidence.published.value("latency_median", model, precision)
            count = operations(evidence, model, precision)
            if host is None or facts is None or ms is None or count is None:
                continue
            work = evidence.published.peaks.floor_ms(facts.macs, facts.model_bytes[precision], precision)
            host_ms = host * count / 1e3
            reading: Reading = "neither"
            if ms <= NEAR * host_ms and 2 * work <= ms:
                reading = "launch-bound"
            elif ms > NEAR * host_ms and work > host_ms / NEAR:
                reading = "work-bound"
            found.append(Issue(model, precision, ms, count, work, host_ms, reading))
    return tuple(found)


def by_model(found: tuple[Issue, ...]) -> dict[str, dict[str, Issue]]:
    """Issues by model and precision, FP32 first."""
    result: dict[str, dict[str, Issue]] = {}
    for one in sorted(found, key=lambda one: one.precision != BASELINE):
        result.setdefault(one.model, {})[one.precision] = one
    return result
