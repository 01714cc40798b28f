"""From one cell's raw samples to one named quantity, with interval, count and, where there is none, the reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from visionquant.analysis import statistics
from visionquant.analysis.statistics import Interval
from visionquant.quantities import MIB
from visionquant.records import Cell, Memory, Record


@dataclass(frozen=True)
class Estimate:
    """A quantity of a cell in the unit that ``quantities`` names; ``status`` is ok wherever ``value`` is given."""

    quantity: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    status: str = "ok"
    reason: str = ""


def processes(cell: Cell) -> list[Sequence[float]]:
    """The timed milliseconds of each replicate process."""
    return [replicate.wall_ms for replicate in cell.replicates]


def samples(cell: Cell) -> list[float]:
    """All timed milliseconds."""
    return [value for replicate in cell.replicates for value in replicate.wall_ms]


def of_cell(
    quantity: str, record: Record, cell: Cell, base: Cell | None, confidence: float, workspace_mib: float
) -> Estimate:
    """Estimate ``quantity``; ``base`` is the same model's FP32 cell at the same batch size.

    Raises:
        KeyError: no such quantity of a cell.
    """
    if quantity in _OF_TIMES:
        return _from(quantity, _OF_TIMES[quantity](cell, confidence))
    if quantity.startswith("latency_p"):
        return _from(quantity, statistics.percentile(samples(cell), float(quantity[9:]), confidence), "refused")
    if quantity in ("speedup", "throughput_change") or quantity.startswith("memory_reduction"):
        if base is None:
            return Estimate(quantity, status="not available", reason="no FP32 cell to compare with")
        if quantity == "speedup":
            return _from(quantity, statistics.ratio(processes(base), processes(cell), confidence))
        inner = {
            "throughput_change": "throughput",
            "memory_reduction": "memory_allocated_after",
            "memory_reduction_stored": "memory_stored_weights",
            "memory_reduction_workspace": "memory_with_workspace",
        }[quantity]
        mine = of_cell(inner, record, cell, base, confidence, workspace_mib)
        theirs = of_cell(inner, record, base, base, confidence, workspace_mib)
        if mine.value is None or not theirs.value:
            return Estimate(quantity, status="not available", reason=mine.reason or theirs.reason)
        change = 100 * (mine.value / theirs.value - 1)
        return Estimate(quantity, change if quantity == "throughput_change" else -change, n=1)
    if quantity == "throughput":
        window = cell.throughput
        if window is None or window.seconds <= 0:
            return Estimate(quantity, status="not available", reason="no throughput window")
        return Estimate(quantity, window.images / window.seconds, n=window.images)
    if quantity == "model_size":
        return _bytes(quantity, record.size.file_bytes if record.size else None, "size not recorded")
    return _memory(quantity, cell.memory, workspace_mib, record.environment.device)


def of_pair(quantity: str, record: Record) -> Estimate:
    """A fidelity quantity (cosine, sqnr, top1_agreement, kl_divergence) of a pair; ``n`` images."""
    fidelity = record.fidelity
    if fidelity is None:
        return Estimate(quantity, status="not available", reason="fidelity not measured")
    value = {
        "cosine": fidelity.cosine,
        "sqnr": fidelity.sqnr_db,
        "top1_agreement": None if fidelity.top1_agreement is None else 100 * fidelity.top1_agreement,
        "kl_divergence": fidelity.kl_nats,
    }[quantity]
    if value is None:
        why = "outputs hold NaN" if fidelity.nan_count else "no finite figure (identical to FP32, or no head)"
        return Estimate(quantity, n=fidelity.images, status="not available", reason=why)
    return Estimate(quantity, value, n=fidelity.images)


def _gpu(cell: Cell, confidence: float) -> Interval:
    times = [replicate.gpu_ms for replicate in cell.replicates if replicate.gpu_ms]
    return statistics.median(times, confidence) if times else Interval(None, None, None, 0, "no GPU clock on a CPU")


_OF_TIMES: dict[str, Callable[[Cell, float], Interval]] = {
    "latency_median": lambda cell, confidence: statistics.median(processes(cell), confidence),
    "latency_mean": lambda cell, confidence: statistics.mean(samples(cell)),
    "latency_std": lambda cell, confidence: statistics.std(samples(cell)),
    "gpu_median": _gpu,
}


def _from(quantity: str, interval: Interval, absent: str = "not available") -> Estimate:
    status = "ok" if interval.value is not None else absent
    return Estimate(quantity, interval.value, interval.low, interval.high, interval.n, status, interval.reason)


def _bytes(quantity: str, count: float | None, reason: str) -> Estimate:
    if count is None:
        return Estimate(quantity, status="not available", reason=reason)
    return Estimate(quantity, count / MIB, n=1)


def _memory(quantity: str, memory: Memory | None, workspace_mib: float, device: str) -> Estimate:
    if memory is None:
        return Estimate(quantity, status="not available", reason="memory not recorded")
    reason = "a CUDA figure, there is none on a CPU" if device == "cpu" else "not recorded"
    counts = {
        "memory_stored_weights": memory.stored_weights,
        "memory_with_workspace": memory.stored_weights + workspace_mib * MIB,
        "memory_allocated_after": memory.allocated_after,
        "memory_peak_allocated": memory.peak_allocated,
        "memory_peak_reserved": memory.peak_reserved,
        "memory_host_peak": memory.host_peak,
    }
    return _bytes(quantity, counts[quantity], "not recorded" if quantity == "memory_host_peak" else reason)
