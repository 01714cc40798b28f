"""One cell under way: from one replicate to the next until the protocol is fulfilled, and what became of it.

A cell that can't be afforded is foreseen from the smaller ones of its pair: a forward pass grows at least linearly with
the batch, and so does the memory of its activations, so the machine neither waits for hours nor swaps. What could not
be measured is a cell all the same, with a status and a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from visionquant.bench import memory
from visionquant.bench.plan import fewest_passes
from visionquant.core.intervals import half_width, log_medians
from visionquant.records import drift
from visionquant.records.cell import Attempt, Cell, Memory, Pending, Run, Status
from visionquant.settings.params import Protocol

GIB = 2**30
Stop = Literal["count", "budget", "goal"]
CONFIDENCE = 0.95  # of the interval that a protocol's goal speaks of
AFTER_GOAL = 3  # processes that are still added when the goal is reached
ATTEMPTS = 3  # how often a cell is measured again because the machine drifted


@dataclass(frozen=True)
class Host:
    """Bytes of host memory: free now, and resident in the process that replicates are forked from."""

    available: int
    baseline: int

    @classmethod
    def now(cls) -> "Host":
        """This process and this machine at this moment."""
        return cls(memory.available_host_bytes(), memory.resident_bytes())


def foresee(batch_size: int, smaller: Sequence[Cell], protocol: Protocol, host: Host | None) -> Cell | None:
    """The cell that can be told without measuring it, or None: it has to be measured.

    Args:
        smaller: the pair's cells of smaller batch sizes, from which time and memory are foreseen. Without any, the
            protocol's minimum is measured whatever it takes.
        host: memory at hand; without it no memory is foreseen.
    """
    if not smaller:
        return None

    def cell(status: Status, reason: str) -> Cell:
        return Cell(batch_size=batch_size, status=status, reason=reason)

    last = max(smaller, key=lambda other: other.batch_size)
    if last.status in ("out_of_memory", "unsupported"):
        return cell(last.status, f"as at batch size {last.batch_size}: {last.reason}")
    timed = [other for other in smaller if other.replicates]
    if not timed:
        return None
    nearest = max(timed, key=lambda other: other.batch_size)
    grown, source = batch_size / nearest.batch_size, f"from batch size {nearest.batch_size}"
    pass_s = float(np.median([ms for replicate in nearest.replicates for ms in replicate.wall_ms])) / 1e3 * grown
    passes = fewest_passes(protocol)
    if protocol.limit_s is not None and passes * pass_s > protocol.limit_s:
        limit = f"limit_s {protocol.limit_s:g}"
        return cell("over_budget", f"{passes} passes of about {pass_s:.2f} s ({source}) are more than {limit}")
    peak = nearest.memory.host_peak if nearest.memory else None
    if peak is not None and host is not None:
        needed = int((peak - host.baseline) * grown)
        if needed > 0.9 * host.available:
            free = f"{host.available / GIB:.1f} GiB free"
            why = f"foreseen: about {needed / GIB:.1f} GiB of host memory needed ({source}), {free}"
            return cell("out_of_memory", why)
    return None


def goal_met(processes: Sequence[Sequence[float]], fewest: int, goal: float) -> bool:
    """Whether the median's interval was narrow enough with some number of processes, and ``AFTER_GOAL`` more came.

    Stopping at once would choose the moments at which the spread looks small: the interval then covers only 92 % at
    worst, with three more 94 % (simulated, tests/bench/test_cell.py).
    """
    logs = log_medians(processes)
    for count in range(fewest, len(processes) - AFTER_GOAL + 1):
        reached = half_width(logs[:count], CONFIDENCE)
        if reached is not None and reached <= goal:
            return True
    return False


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
            medians = tuple(round(float(np.median(one.replicate.wall_ms)), 4) for one in self.runs)
            sentinels = tuple(one.replicate.sentinel for one in self.runs if one.replicate.sentinel)
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
            return "budget" if any(one.stopped_by == "budget" for one in replicates) else "count"
        if goal_met([one.wall_ms for one in replicates], protocol.replicates, protocol.goal):
            return "goal"
        if protocol.budget_s is not None and sum(one.timed_s() for one in replicates) >= protocol.budget_s:
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
        of_first = {name: getattr(first, name) for name in ("audit", "energy", "energy_reason", "launch")}
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
            **of_first,
        )
