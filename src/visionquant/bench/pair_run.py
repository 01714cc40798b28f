"""A pair under way: its record so far, the process that prepared it, and what is written down after every replicate.

A run that is interrupted goes on with what it lacks, and the old record stays until the new one is whole. Whatever goes
wrong in the pair's own process is the pair's alone: rows with the status ``failed``, which the next run tries again. So
is a process that gives no answer in time (:func:`patience_s`): it is ended.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from visionquant.bench import device as devices
from visionquant.bench import pair_fingerprint, pair_worker, reference, telemetry, worker
from visionquant.bench.cell_run import CellRun, foresee, pass_s, spent_s
from visionquant.bench.command import Matrix, kept
from visionquant.core import files
from visionquant.core.errors import CodeChanged, MachineMismatch, StudyError
from visionquant.core.paths import Project
from visionquant.records.cell import Cell
from visionquant.records.record import PartialRecord, Record, current, write
from visionquant.settings.params import Params, Protocol
from visionquant.weights.sources import Manifest

PATIENCE = 20  # times the seconds foreseen, before a process counts as hanging
SLOWEST_PASS_S = 60.0  # of one image where nothing was timed yet: longer than the largest model's, emulated on a CPU
GRACE_S = 60.0  # for the pair's own process to end a replicate and say so
LEAST_PATIENCE_S = 600.0  # libraries compile kernels at a first pass, and a first replicate is audited and profiled too


def patience_s(protocol: Protocol, batch_size: int, pass_s: float | None) -> float:
    """Seconds without an answer after which a replicate is ended, far beyond what the protocol gives it.

    ``pass_s``: of a forward pass, as far as it is known from the pair's other cells or replicates.
    """
    slow_s = SLOWEST_PASS_S * batch_size if pass_s is None else PATIENCE * pass_s
    counted_s = spent_s(protocol, slow_s) / protocol.replicates
    windows_s = protocol.warmup_s + (protocol.energy_s or 0.0)
    return LEAST_PATIENCE_S + windows_s + max(counted_s, PATIENCE * (protocol.limit_s or 0.0))


class PairRun:
    """One pair, from what was kept of it to its record; close it, which ends its process.

    ``asked`` is the record without cells; ``before_s``, spent before (imports), counts as the pair's own.
    """

    def __init__(
        self, project: Project, params: Params, manifest: Manifest, asked: Record, matrix: Matrix, before_s: float = 0.0
    ) -> None:
        require_unedited(asked)
        self._project, self._params, self._manifest = project, params, manifest
        self.batch_sizes, self.pair = matrix.batch_sizes, (asked.model, asked.precision)
        progress = kept(project, asked, matrix)
        self.record = progress.record
        self._pending = {pending.batch_size: pending for pending in progress.pending}
        self._spent_s = self.record.elapsed_s + before_s
        self._worker: worker.Worker | None = None
        self._course_of: Callable[..., CellRun]
        self._log = ""
        self._progress, self._failure_log = project.progress(*self.pair), project.failure("-".join(self.pair))

    def lacks(self, batch_size: int) -> bool:
        """Whether this batch size is asked for and not there."""
        return batch_size in self.batch_sizes and self.record.cell(batch_size) is None

    def prepare(self, idle: telemetry.Idle | None) -> tuple[Cell, ...]:
        """Start the process that loads and converts the model; gives every lacking cell, failed, where it can't.

        Raises:
            StudyError: the reference or the machine is not what it should be.
        """
        begun_s = time.monotonic()
        model, settings = self.record.model, self.record.settings
        outputs = reference.require(self._project, self._params, model, self._manifest, self.record.environment)
        self._failure_log.unlink(missing_ok=True)
        sizes = sorted({*self._params.study.batch_sizes, *self.batch_sizes})
        asked = self._project, model, settings, self._manifest, outputs, idle, {sizes[0], sizes[-1]}
        failed: tuple[Cell, ...] = ()
        try:
            if outputs.failed:
                raise StudyError.of(outputs.reason)
            self._worker = worker.Worker(lambda: pair_worker.listening(settings.device, asked))
            facts: pair_worker.PairFacts = self._worker.call("facts")
            self.record = self.record.model_copy(update=facts.of_record)
            self._course_of = partial(
                CellRun,
                settings.protocol,
                stored_weights=facts.of_record["size"].stored_weights,
                calibration_ms=tuple(kernel for kernel, _ in facts.calibration),
                host_calibration_ms=tuple(on_host for _, on_host in facts.calibration if on_host is not None),
                fault=outputs.fault,
            )
        except Exception as error:
            cell, lacking = self._failed(0, error), filter(self.lacks, self.batch_sizes)
            failed = tuple(cell.model_copy(update={"batch_size": size}) for size in lacking)
        self._write(begun_s, *failed)
        return failed

    def begin(self, batch_size: int) -> CellRun | Cell:
        """The cell as far as it can be foreseen, or its course, with the replicates of an interrupted run."""
        assert self._worker is not None
        begun_s, protocol = time.monotonic(), self.record.settings.protocol
        smaller = [cell for cell in self.record.cells if cell.batch_size < batch_size]
        foreseen = foresee(batch_size, smaller, protocol, None)
        if foreseen is None and devices.of(self.record.settings.device).in_host_memory:
            try:  # a GPU's activations lie elsewhere, and it survives running out
                foreseen = foresee(batch_size, smaller, protocol, self._worker.call("host", LEAST_PATIENCE_S))
            except Exception as error:
                foreseen = self._failed(batch_size, error)
        if foreseen is not None:
            self._write(begun_s, foreseen)
            return foreseen
        course = self._course_of(batch_size=batch_size)
        if pending := self._pending.get(batch_size):
            course.runs.extend(pending.runs)
            course.earlier.extend(pending.earlier)
        return course

    def replicate(
        self, course: CellRun, position: int, turns_with: tuple[str, ...] = (), sampler: telemetry.Sampler | None = None
    ) -> Cell | None:
        """One more replicate, in turn with those of other precisions; the cell if it is finished with that."""
        assert self._worker is not None
        begun_s = time.monotonic()
        batch_size, number = course.batch_size, len(course.runs)
        medians = [statistics.median(run.replicate.wall_ms) / 1e3 for run in course.runs]
        known_s = max(medians, default=pass_s(self.record.cells, batch_size))
        limit_s = patience_s(course.protocol, batch_size, known_s)
        try:
            run = self._worker.call((batch_size, number, position, limit_s), limit_s + GRACE_S)
        except Exception as error:
            cell: Cell | None = self._failed(batch_size, error)
        else:
            seen: dict[str, Any] = {"turns_with": turns_with}
            if sampler is not None:
                gpu = {"gpu": sampler.between(*run.monotonic_s)}
                seen["conditions"] = run.replicate.conditions.model_copy(update=gpu)
            run = run.model_copy(update={"replicate": run.replicate.model_copy(update=seen)})
            cell = course.add(run)
        self._pending[batch_size] = course.pending
        self._write(begun_s, *([] if cell is None else [cell]))
        return cell

    def finish(self) -> Record:
        """Write the record; nothing is written where the measuring code was edited meanwhile (CodeChanged)."""
        try:
            require_unedited(self.record)
        except CodeChanged:
            self._progress.unlink(missing_ok=True)
            raise
        path = self._project.record(*self.pair)
        if current(path) != self.record:
            write(path, self.record)
        self._progress.unlink(missing_ok=True)
        return self.record

    def close(self) -> None:
        """End the pair's process."""
        if self._worker is not None:
            self._worker.close()

    def _failed(self, batch_size: int, error: Exception) -> Cell:
        """The cell of what went wrong in the pair's process; a traceback goes to its log. MachineMismatch is raised."""
        if isinstance(error, MachineMismatch):
            raise error
        if isinstance(error, worker.Failed):
            return Cell(batch_size=batch_size, status=error.cause, reason=error.reason)
        reason = str(error)
        if not isinstance(error, StudyError):
            defect = worker.Defect.of(error)
            self._log += f"{defect}\n"
            files.save(self._failure_log, self._log)
            reason = f"{defect.line}; traceback in {self._project.shown(self._failure_log)}"
        return Cell(batch_size=batch_size, status="failed", reason=reason)

    def _write(self, begun_s: float, *finished: Cell) -> None:
        """Write down how far the pair is, with cells that are finished since ``begun_s``."""
        self._spent_s += time.monotonic() - begun_s
        for cell in finished:
            self._pending.pop(cell.batch_size, None)
        cells = tuple(sorted((*self.record.cells, *finished), key=lambda cell: cell.batch_size))
        self.record = self.record.model_copy(update={"cells": cells, "elapsed_s": round(self._spent_s, 3)})
        files.save(self._progress, PartialRecord(record=self.record, pending=tuple(self._pending.values())))


def require_unedited(record: Record) -> None:
    """Insist that the measuring code is what it was when this process began; CodeChanged if it is not."""
    if not pair_fingerprint.unchanged_on_disk(record.settings.precision):
        pair, found = f"{record.model}-{record.precision}", "src/visionquant was edited while it measured"
        raise CodeChanged(pair, found, "run the same command again")
