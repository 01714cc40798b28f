"""One cell under way: from one replicate to the next until the protocol is fulfilled, and what became of it.

A cell that can't be afforded is foreseen from the smaller ones of its pair: a forward pass grows at least linearly with
the batch, and so does the memory of its activations, so the machine neither waits for hours nor swaps. What could not
be measured is a cell all the same, with a status and a reason.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

import numpy as np

from visionquant.bench.host import HostMemory
from visionquant.core.intervals import half_width, log_medians
from visionquant.records import drift
from visionquant.records.cell import Attempt, Cell, Memory, Pending, Run, Status
from visionquant.settings.params import Protocol

GIB = 2**30
Stop = Literal["count", "budget", "goal"]
CONFIDENCE = 0.95  # of the interval that a protocol's goal speaks of
AFTER_GOAL = 3  # processes that are still added when the goal is reached
ATTEMPTS = 3  # how often a cell is measured again because the machine drifted


def median_s(cell: Cell) -> float:
    """Seconds of a timed cell's median pass, over all of its replicates."""
    return median(ms for replicate in cell.replicates for ms in replicate.wall_ms) / 1e3


def pass_s(cells: Iterable[Cell], batch_size: int) -> float | None:
    """Seconds of a pass at ``batch_size``, in proportion to the nearest of a pair's timed cells; None without any."""
    timed = (cell for cell in cells if cell.replicates)
    nearest = min(timed, key=lambda cell: abs(cell.batch_size - batch_size), default=None)
    return None if nearest is None else median_s(nearest) * batch_size / nearest.batch_size


def fewest_passes(protocol: Protocol) -> int:
    """Forward passes of a cell at least: warm-up, timed, and one in each replicate's throughput window."""
    return protocol.replicates * (protocol.warmup_iterations + protocol.minimum_iterations + 1)


def spent_s(protocol: Protocol, pass_s: float) -> float:
    """Seconds that the protocol spends on a cell whose pass takes ``pass_s``."""
    most = protocol.replicates * protocol.warmup_iterations + protocol.iterations * (1 + protocol.throughput_share)
    return max(fewest_passes(protocol) * pass_s, min(most * pass_s, protocol.budget_s or math.inf))


def foresee(batch_size: int, smaller: Sequence[Cell], protocol: Protocol, host: HostMemory | None) -> Cell | None:
    """The cell that can be told without measuring it, or None: it has to be measured.

    Time and memory are foreseen from the pair's ``smaller`` cells; without any, the protocol's minimum is measured
    whatever it takes. ``host`` is the memory at hand; without it no memory is foreseen.
    """
    last = max(smaller, key=lambda other: other.batch_size, default=None)
    if last is not None and last.status in ("out_of_memory", "unsupported"):
        return Cell(
            batch_size=batch_size, status=last.status, reason=f"as at batch size {last.batch_size}: {last.reason}"
        )
    nearest = max((cell for cell in smaller if cell.replicates), key=lambda cell: cell.batch_size, default=None)
    if nearest is None:
        return None
    grown, source = batch_size / nearest.batch_size, f"from batch size {nearest.batch_size}"
    passes, pass_s = fewest_passes(protocol), median_s(nearest) * grown
    if protocol.limit_s is not None and passes * pass_s > protocol.limit_s:
        why = f"{passes} passes of about {pass_s:.2f} s ({source}) are more than limit_s {protocol.limit_s:g}"
        return Cell(batch_size=batch_size, status="over_budget", reason=why)
    peak = nearest.memory.host_peak if nearest.memory else None
    needed = int((peak - host.baseline) * grown) if peak is not None and host is not None else 0
    if host is not None and needed > 0.9 * host.available:
        free = f"{host.available / GIB:.1f} GiB free"
        why = f"foreseen: about {needed / GIB:.1f} GiB of host memory needed ({source}), {free}"
        return Cell(batch_size=batch_size, status="out_of_memory", reason=why)
    return None


def goal_met(processes: Sequence[Sequence[float]], fewest: int, goal: float) -> bool:
    """Whether the median's interval was narrow enough with some number of processes, and ``AFTER_GOAL`` more came.

    Stopping at once would choose the moments at which the spread looks small: the interval then covers only 92 % at
    worst, with three more 94 % (simulated, tests/bench/test_cell.py).
    """
    logs = log_medians(processes)
    widths = (half_width(logs[:count], CONFIDENCE) for count in range(fewest, len(processes) - AFTER_GOAL + 1))
    return any(width is not None and width <= goal for width in widths)


@dataclass
class CellRun:
    """The replicates of one cell so far. Calibrations are readings of the drift sentinel's kernels: their noise.

    ``fault`` is what is wrong with the outputs of the network in any precision, or empty.
    """

    protocol: Protocol
    batch_size: int
    stored_weights: int
    calibration_ms: tuple[float, ...]
    host_calibration_ms: tuple[float, ...] = ()
    runs: list[Run] = field(default_factory=list)
    earlier: list[Attempt] = field(default_factory=list)
    fault: str = ""

    @property
    def pending(self) -> Pending:
        """What a run that is interrupted now goes on from."""
        return Pending(batch_size=self.batch_size, runs=tuple(self.runs), earlier=tuple(self.earlier))

    def add(self, run: Run) -> Cell | None:
        """Take up one more replicate; the cell if that was the last.

        Where the sentinel drifted by more than its noise, all of it is measured again, ``ATTEMPTS`` times at most; then
        the cell is unsteady.
        """
        self.runs.append(run)
        stopped_by = self._stopped_by()
        if stopped_by is None:
            return None
        drifted = self._drifted()
        if drifted and len(self.earlier) < ATTEMPTS:
            replicates = [run.replicate for run in self.runs]
            medians = tuple(round(float(np.median(replicate.wall_ms)), 4) for replicate in replicates)
            sentinels = tuple(replicate.sentinel for replicate in replicates if replicate.sentinel)
            self.earlier.append(Attempt(medians_ms=medians, sentinels=sentinels))
            self.runs.clear()
            return None
        return self._cell(stopped_by, drifted)

    def _drifted(self) -> str:
        """Which kernel of the sentinel moved by more than its noise, and that; empty for none."""
        replicates = [run.replicate for run in self.runs]
        for kernel in drift.kernels(replicates, self.runs[0].launch):
            noise = drift.noise(self.calibration_ms if kernel == drift.KERNEL else self.host_calibration_ms)
            if drift.moved(drift.readings(replicates, kernel), noise):
                return f"the {kernel} moved by more than {100 * np.expm1(noise):.0f} %"
        return ""

    def _stopped_by(self) -> Stop | None:
        """Why no further replicate is needed, None while one is."""
        protocol, replicates = self.protocol, [run.replicate for run in self.runs]
        if len(replicates) < protocol.replicates:
            return None
        if protocol.goal is None:
            return "budget" if any(replicate.stopped_by == "budget" for replicate in replicates) else "count"
        if goal_met([replicate.wall_ms for replicate in replicates], protocol.replicates, protocol.goal):
            return "goal"
        if sum(replicate.timed_s() for replicate in replicates) >= (protocol.budget_s or math.inf):
            return "budget"
        return "count" if len(replicates) >= protocol.most else None

    def _cell(self, stopped_by: Stop, drifted: str) -> Cell:
        first, last = self.runs[0], self.runs[-1]
        fault = self.fault or (first.audit.fault if first.audit else "")
        status: Status = "ok"
        reason = ""
        if not all(run.finite for run in self.runs):
            status, reason = "non_finite", "the outputs hold NaN or infinity; the timings are of that"
        elif fault:
            status, reason = "audit_failed", fault
        elif drifted:
            status, reason = "unsteady", f"{drifted} in each of {len(self.earlier) + 1} attempts"
        of_last = ("workspace", "allocated_after", "peak_allocated", "peak_reserved")
        host_peaks = [run.replicate.host_peak for run in self.runs if run.replicate.host_peak is not None]
        return Cell(
            batch_size=self.batch_size,
            status=status,
            reason=reason,
            replicates=tuple(run.replicate for run in self.runs),
            stopped_by=stopped_by,
            calibration_ms=self.calibration_ms,
            host_calibration_ms=self.host_calibration_ms,
            memory=Memory(
                stored_weights=self.stored_weights,
                host_peak=max(host_peaks, default=None),
                **{name: getattr(last, name) for name in of_last},
            ),
            earlier=tuple(self.earlier),
            **{name: getattr(first, name) for name in ("audit", "energy", "energy_reason", "launch")},
        )
