"""One cell on its way: from one replicate to the next until the protocol is fulfilled, and what became of it.

A cell that can't be afforded is foreseen from the smaller ones of its pair: a forward pass grows at least linearly with
the batch, and so does the memory of its activations, so the machine neither waits for hours nor swaps. What could not
be measured is a cell all the same, with a status and a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from visionquant.bench import memory
from visionquant.core.intervals import half_width, log_medians
from visionquant.records import drift
from visionquant.records.cell import Attempt, Cell, Memory, Pending, Run
from visionquant.settings.params import Protocol

GIB = 2**30
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
    last = max(smaller, key=lambda cell: cell.batch_size)
    if last.status in ("out_of_memory", "unsupported"):
        return Cell(
            batch_size=batch_size, status=last.status, reason=f"as at batch size {last.batch_size}: {last.reason}"
        )
    timed = [cell for cell in smaller if cell.replicates]
    if not timed:
        return None
    nearest = max(timed, key=lambda cell: cell.batch_size)
    grown = batch_size / nearest.batch_size
    pass_s = float(np.median([ms for replicate in nearest.replicates for ms in replicate.wall_ms])) / 1e3 * grown
    passes = fewest_passes(protocol)
    if protocol.limit_s is not None and passes * pass_s > protocol.limit_s:
        return Cell(
            batch_size=batch_size,
            status="over_budget",
            reason=f"{passes} passes of about {pass_s:.2f} s (from batch size {nearest.batch_size}) are more than "
            f"limit_s {protocol.limit_s:g}",
        )
    peak = nearest.memory.host_peak if nearest.memory else None
    if peak is not None and host is not None:
        needed = int((peak - host.baseline) * grown)
        if needed > 0.9 * host.available:
            return Cell(
                batch_size=batch_size,
                status="out_of_memory",
                reason=f"foreseen: about {needed / GIB:.1f} GiB of host memory needed (from batch size "
                f"{nearest.batch_size}), {host.available / GIB:.1f} GiB free",
            )
    return None


def fewest_passes(protocol: Protocol) -> int:
    """Forward passes of a cell at least: warm-up, timed, and one in each replicate's throughput window."""
    return protocol.replicates * (protocol.warmup_iterations + protocol.minimum_iterations + 1)


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
class Course:
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

        Where the sentinel moved by more than its noise, all of it is measured again, ``ATTEMPTS`` times at most; then
        the cell is unsteady.
        """
        self.runs.append(run)
        stopped_by = self._stopped_by()
        if stopped_by is None:
            return None
        moved = self._moved()
        if moved and len(self.earlier) < ATTEMPTS:
            medians = tuple(round(float(np.median(one.replicate.wall_ms)), 4) for one in self.runs)
            sentinels = tuple(one.replicate.sentinel for one in self.runs if one.replicate.sentinel)
            self.earlier.append(Attempt(medians_ms=medians, sentinels=sentinels))
            self.runs.clear()
            return None
        return self._cell(stopped_by, moved)

    def _moved(self) -> str:
        """Which kernel of the sentinel moved by more than its noise, and that; empty for none."""
        replicates = [run.replicate for run in self.runs]
        for kernel in drift.kernels(replicates, self.runs[0].launch):
            noise = drift.noise(self.calibration_ms if kernel == drift.KERNEL else self.host_calibration_ms)
            if drift.moved(drift.readings(replicates, kernel), noise):
                return f"the {kernel} moved by more than {100 * np.expm1(noise):.0f} %"
        return ""

    def _stopped_by(self) -> str | None:
        """Why no further replicate is needed, None while one is."""
        protocol, count = self.protocol, len(self.runs)
        if count < protocol.replicates:
            return None
        if protocol.goal is None:
            return "budget" if any(one.replicate.stopped_by == "budget" for one in self.runs) else "count"
        if goal_met([one.replicate.wall_ms for one in self.runs], protocol.replicates, protocol.goal):
            return "goal"
        if protocol.budget_s is not None and sum(one.replicate.timed_s() for one in self.runs) >= protocol.budget_s:
            return "budget"
        return "count" if count >= protocol.most else None

    def _cell(self, stopped_by: str, moved: str) -> Cell:
        first, last = self.runs[0], self.runs[-1]
        fault = self.fault or (first.audit.fault if first.audit else "")
        status, reason = "ok", ""
        if not all(run.finite for run in self.runs):
            status, reason = "non_finite", "the outputs hold NaN or infinity; the timings are of that"
        elif fault:
            status, reason = "audit_failed", fault
        elif moved:
            status, reason = "unsteady", f"{moved} in each of {len(self.earlier) + 1} attempts"
        peaks = [run.replicate.host_peak for run in self.runs if run.replicate.host_peak is not None]
        return Cell.model_validate(
            {
                "batch_size": self.batch_size,
                "status": status,
                "reason": reason,
                "replicates": tuple(run.replicate for run in self.runs),
                "stopped_by": stopped_by,
                "calibration_ms": self.calibration_ms,
                "host_calibration_ms": self.host_calibration_ms,
                "memory": Memory(
                    stored_weights=self.stored_weights,
                    workspace=last.workspace,
                    allocated_after=last.allocated_after,
                    peak_allocated=last.peak_allocated,
                    peak_reserved=last.peak_reserved,
                    host_peak=max(peaks, default=None),
                ),
                "audit": first.audit,
                "energy": first.energy,
                "energy_reason": first.energy_reason,
                "launch": first.launch,
                "earlier": tuple(self.earlier),
            }
        )
