"""From one cell's raw samples to one named quantity, with interval, count and, where there is none, the reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from visionquant.analysis import statistics
from visionquant.analysis.statistics import Interval
from visionquant.core.quantities import MIB, QUANTITIES, Quantity, quantity
from visionquant.records.cell import Cell, Memory
from visionquant.records.record import Record

NOT_AVAILABLE = "not_available"
UNPROFILED = "profiled at the smallest and largest batch size alone, or the profiler told nothing"


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


def describe(name: str) -> Quantity:
    """Unit, label and decimals of a quantity; of any percentile of latency, whether ``quantities`` names it or not.

    Raises:
        KeyError: there is no such quantity.
    """
    percent = name.removeprefix("latency_p")
    if name not in QUANTITIES and percent != name and percent.isdigit():
        return replace(QUANTITIES["latency_p50"], name=name, label=f"p{percent} latency")
    return quantity(name)


def processes(cell: Cell) -> list[Sequence[float]]:
    """The timed milliseconds of each replicate process."""
    return [replicate.wall_ms for replicate in cell.replicates]


def windows(cell: Cell) -> list[Sequence[float]]:
    """Milliseconds an image in the throughput window of each replicate process that had one."""
    found = [one.throughput for one in cell.replicates if one.throughput and one.throughput.seconds > 0]
    return [(1e3 * window.seconds / window.images,) for window in found]


def samples(cell: Cell) -> list[float]:
    """All timed milliseconds."""
    return [value for replicate in cell.replicates for value in replicate.wall_ms]


def of_cell(quantity: str, record: Record, cell: Cell, base: Cell | None, confidence: float) -> Estimate:
    """Estimate a quantity of times or of device memory; ``base`` is the same model's FP32 cell at the same batch size.

    Raises:
        KeyError: no such quantity of a cell.
    """
    if quantity in _OF_TIMES:
        return _from(quantity, _OF_TIMES[quantity](cell, confidence))
    if (
        quantity == "latency_p50"
    ):  # the median, with the median's interval, for passes of one process are not independent
        return replace(of_cell("latency_median", record, cell, base, confidence), quantity=quantity)
    if quantity.startswith("latency_p"):
        return _from(quantity, statistics.percentile(samples(cell), float(quantity[9:]), confidence), "refused")
    if quantity in ("speedup", "throughput_change", "memory_reduction"):
        if base is None:
            return Estimate(quantity, status=NOT_AVAILABLE, reason="no FP32 cell to compare with")
        return _against(quantity, record, cell, base, confidence)
    if quantity == "throughput":
        rates = [(1e3 / ms,) for (ms,) in windows(cell)]
        return _from(quantity, statistics.median(rates, confidence))
    if quantity == "energy_per_image":
        if cell.energy is None:
            return Estimate(quantity, status=NOT_AVAILABLE, reason=cell.energy_reason or "not recorded")
        return Estimate(quantity, cell.energy.net_j_per_image, n=cell.energy.images)
    if quantity == "launch_share":
        if cell.launch is None:
            on_cpu = record.environment.device == "cpu"
            reason = "a CUDA figure, there is none on a CPU" if on_cpu else UNPROFILED
            return Estimate(quantity, status=NOT_AVAILABLE, reason=reason)
        wall = statistics.median(processes(cell), confidence).value
        return Estimate(quantity, 100 * (1 - cell.launch.gpu_busy_ms / wall) if wall else None, n=1)
    return _memory(quantity, cell.memory, record.environment.device)


def of_size(quantity: str, record: Record, base: Record | None, workspace_mib: float) -> Estimate:
    """Estimate a quantity of the model itself (``OF_SIZE``), the same at every batch size.

    ``workspace_mib`` is added where the quantity says so; ``base`` is the same model's FP32 record.

    Raises:
        KeyError: no such quantity.
    """
    if quantity in _REDUCTIONS:
        mine = of_size(_REDUCTIONS[quantity], record, base, workspace_mib)
        theirs = of_size(_REDUCTIONS[quantity], base, base, workspace_mib) if base else None
        if theirs is None:
            return Estimate(quantity, status=NOT_AVAILABLE, reason="no FP32 record to compare with")
        if mine.value is None or not theirs.value:
            return Estimate(quantity, status=NOT_AVAILABLE, reason=mine.reason or theirs.reason)
        return Estimate(quantity, 100 * (1 - mine.value / theirs.value), n=1)
    if record.size is None:
        return Estimate(quantity, status=NOT_AVAILABLE, reason="size not recorded")
    count = {
        "memory_stored_weights": record.size.stored_weights,
        "memory_with_workspace": record.size.stored_weights + workspace_mib * MIB,
        "model_size": record.size.file_bytes,
    }[quantity]
    return Estimate(quantity, count / MIB, n=1)


def of_fidelity(quantity: str, record: Record) -> Estimate:
    """A fidelity quantity (``OF_FIDELITY``) of a pair; ``n`` images.

    Raises:
        KeyError: no such quantity.
    """
    fidelity = record.fidelity
    if fidelity is None:
        return Estimate(quantity, status=NOT_AVAILABLE, reason=record.fidelity_reason or "fidelity not measured")
    value = {
        "cosine": fidelity.cosine,
        "sqnr": fidelity.sqnr_db,
        "top1_agreement": None if fidelity.top1_agreement is None else 100 * fidelity.top1_agreement,
        "kl_divergence": fidelity.kl_nats,
    }[quantity]
    if value is not None:
        return Estimate(quantity, value, n=fidelity.images)
    if fidelity.nan_count:
        return Estimate(
            quantity, n=fidelity.images, status="non_finite", reason=f"{fidelity.nan_count} outputs are NaN"
        )
    why = "no noise: identical to FP32" if quantity == "sqnr" else "no finite figure"
    return Estimate(quantity, n=fidelity.images, status=NOT_AVAILABLE, reason=why)


def _against(quantity: str, record: Record, cell: Cell, base: Cell, confidence: float) -> Estimate:
    if quantity == "speedup":
        if cell is base:
            return Estimate(quantity, 1.0, n=len(cell.replicates))
        return _from(quantity, statistics.ratio(processes(base), processes(cell), confidence))
    if quantity == "throughput_change":
        if cell is base:
            return Estimate(quantity, 0.0, n=len(cell.replicates))
        found = statistics.ratio(windows(base), windows(cell), confidence)
        value, low, high = (None if one is None else 100 * (one - 1) for one in (found.value, found.low, found.high))
        return _from(quantity, replace(found, value=value, low=low, high=high))
    mine, theirs = (of_cell("memory_allocated_after", record, one, base, confidence) for one in (cell, base))
    if mine.value is None or not theirs.value:
        return Estimate(quantity, status=NOT_AVAILABLE, reason=mine.reason or theirs.reason)
    return Estimate(quantity, 0.0 - 100 * (mine.value / theirs.value - 1), n=1)


def _gpu(cell: Cell, confidence: float) -> Interval:
    times = [replicate.gpu_ms for replicate in cell.replicates if replicate.gpu_ms]
    return statistics.median(times, confidence) if times else Interval(None, None, None, 0, "no GPU clock on a CPU")


_OF_TIMES: dict[str, Callable[[Cell, float], Interval]] = {
    "latency_median": lambda cell, confidence: statistics.median(processes(cell), confidence),
    "latency_mean": lambda cell, confidence: statistics.mean(samples(cell)),
    "latency_std": lambda cell, confidence: statistics.std(samples(cell)),
    "latency_outliers": lambda cell, confidence: statistics.outliers(processes(cell)),
    "gpu_median": _gpu,
}
_REDUCTIONS = {
    "memory_reduction_stored": "memory_stored_weights",
    "memory_reduction_workspace": "memory_with_workspace",
}
OF_SIZE = ("memory_stored_weights", "memory_with_workspace", "model_size", *_REDUCTIONS)
OF_FIDELITY = ("cosine", "sqnr", "top1_agreement", "kl_divergence")


def _from(quantity: str, interval: Interval, absent: str = NOT_AVAILABLE) -> Estimate:
    status = "ok" if interval.value is not None else absent
    return Estimate(quantity, interval.value, interval.low, interval.high, interval.n, status, interval.reason)


def _memory(quantity: str, memory: Memory | None, device: str) -> Estimate:
    if memory is None:
        return Estimate(quantity, status=NOT_AVAILABLE, reason="memory not recorded")
    count = {
        "memory_allocated_after": memory.allocated_after,
        "memory_peak_allocated": memory.peak_allocated,
        "memory_peak_reserved": memory.peak_reserved,
        "memory_host_peak": memory.host_peak,
    }[quantity]
    if count is not None:
        return Estimate(quantity, count / MIB, n=1)
    on_cpu = device == "cpu" and quantity != "memory_host_peak"
    reason = "a CUDA figure, there is none on a CPU" if on_cpu else "not recorded"
    return Estimate(quantity, status=NOT_AVAILABLE, reason=reason)
