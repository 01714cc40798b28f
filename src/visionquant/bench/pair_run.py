"""A pair under way: its record so far, the process that prepared it, and what is written down after every replicate.

A run that is interrupted goes on with what it lacks, and the old record stays until the new one is whole. Whatever goes
wrong in the pair's own process is the pair's alone: rows with the status ``failed``, which the next run tries again.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from visionquant.bench import energy, fingerprint, reference, worker
from visionquant.bench import pair_worker as prepare
from visionquant.bench.cell_run import Course, Host, foresee
from visionquant.bench.gpu_telemetry import Sampler
from visionquant.core.errors import CodeChanged, MachineMismatch, StudyError
from visionquant.core.paths import Project, write_atomically
from visionquant.records.cell import Cell, Pending
from visionquant.records.record import Progress, Record, current, under_way, write, write_progress
from visionquant.settings.params import Params
from visionquant.weights.manifest import Manifest


class Session:
    """One pair, from what was kept of it to its record; use as a context.

    ``asked`` are the batch sizes wanted; ``again`` drops those that are there. Seconds spent before (imports) count as
    the pair's own.
    """

    def __init__(
        self,
        project: Project,
        blank: Record,
        asked: Sequence[int],
        again: bool = False,
        before_s: float = 0.0,
    ) -> None:
        self.project, self.asked = project, tuple(sorted(set(asked)))
        self._blank = blank
        self.record, self._pending = _kept(project, blank, self.asked, again)
        self._spent_s = self.record.elapsed_s + before_s
        self._worker: worker.Worker | None = None
        self._facts: prepare.Facts | None = None
        self._fault, self._log = "", ""

    @property
    def name(self) -> tuple[str, str]:
        return self.record.model, self.record.precision

    def lacks(self, batch_size: int) -> bool:
        """Whether this batch size is asked for and not there."""
        return batch_size in self.asked and self.record.cell(batch_size) is None

    @property
    def complete(self) -> bool:
        return not any(self.lacks(batch_size) for batch_size in self.asked)

    def prepare(self, params: Params, manifest: Manifest, idle: energy.Idle | None) -> tuple[Cell, ...]:
        """Start the process that loads and converts the model, and take its facts.

        Returns:
            nothing, or every lacking cell with the same reason: the model could not be put into its precision.

        Raises:
            StudyError: the reference or the machine is not what it should be.
        """
        begun_s = time.monotonic()
        record, settings = self.record, self.record.settings
        known = reference.require(self.project, params, record.model, manifest, record.environment)
        self._fault = known.fault
        self._failure_log.unlink(missing_ok=True)
        sizes = {*params.study.batch_sizes, *self.asked}

        def serve() -> Callable[[prepare.Request], Any]:
            return prepare.serve(self.project, record.model, settings, manifest, known, idle, {min(sizes), max(sizes)})

        failed: tuple[Cell, ...] = ()
        try:
            if known.failed:
                raise StudyError.of(known.reason)
            self._worker = worker.Worker(lambda: prepare.listening(settings.device, serve))
            self._facts = self._worker.call("facts")
        except Exception as error:
            why = self._row(0, error)
            lacking = [batch_size for batch_size in self.asked if self.lacks(batch_size)]
            failed = tuple(why.model_copy(update={"batch_size": one}) for one in lacking)
        facts = self._facts
        if facts is not None:
            self.record = record.model_copy(
                update={
                    "conversion": facts.conversion,
                    "size": facts.size,
                    "fidelity": facts.fidelity,
                    "fidelity_reason": facts.fidelity_reason,
                    "operations": facts.operations,
                    "outlier_layers": facts.outlier_layers,
                }
            )
        self._spent_s += time.monotonic() - begun_s
        for cell in failed:
            self._keep(cell)
        self._write()
        return failed

    def begin(self, batch_size: int) -> Course | Cell:
        """The cell as far as it can be foreseen, or its course, with the replicates of an interrupted run."""
        assert self._worker is not None
        assert self._facts is not None
        protocol = self.record.settings.protocol
        smaller = [cell for cell in self.record.cells if cell.batch_size < batch_size]
        foreseen = foresee(batch_size, smaller, protocol, None)
        if foreseen is None and self.record.settings.device == "cpu":
            try:  # a GPU's activations lie elsewhere, and it survives running out
                host: Host = self._worker.call("host")
                foreseen = foresee(batch_size, smaller, protocol, host)
            except Exception as error:
                foreseen = self._row(batch_size, error)
        if foreseen is not None:
            self._keep(foreseen)
            self._write()
            return foreseen
        facts = self._facts
        calibrations = facts.calibration_ms, facts.host_calibration_ms
        course = Course(protocol, batch_size, facts.size.stored_weights, *calibrations, fault=self._fault)
        if self._pending and self._pending.batch_size == batch_size:
            course.runs.extend(self._pending.runs)
            course.earlier.extend(self._pending.earlier)
        return course

    def step(
        self, course: Course, position: int, turns_with: tuple[str, ...] = (), sampler: Sampler | None = None
    ) -> Cell | None:
        """One more replicate, in turn with those of other precisions; the cell if it is finished with that."""
        assert self._worker is not None
        begun_s = time.monotonic()
        try:
            run = self._worker.call((course.batch_size, len(course.runs), position))
        except Exception as error:
            cell: Cell | None = self._row(course.batch_size, error)
        else:
            seen: dict[str, Any] = {"turns_with": turns_with}
            if sampler is not None:
                gpu = sampler.between(*run.monotonic_s)
                seen["conditions"] = run.replicate.conditions.model_copy(update={"gpu": gpu})
            run = run.model_copy(update={"replicate": run.replicate.model_copy(update=seen)})
            cell = course.add(run)
        self._spent_s += time.monotonic() - begun_s
        if cell is not None:
            self._keep(cell)
        self._pending = None if cell is not None else course.pending
        self._write()
        return cell

    def finish(self) -> Record:
        """Write the record.

        Raises:
            CodeChanged: the measuring code was edited meanwhile; nothing is written.
        """
        model, precision = self.name
        progress = self.project.progress(model, precision)
        if fingerprint.measuring_sha256() != self._blank.code.measuring_sha256:
            progress.unlink(missing_ok=True)
            raise edited(model, precision)
        path = self.project.record(model, precision)
        if current(path) != self.record:
            write(path, self.record)
        progress.unlink(missing_ok=True)
        return self.record

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _failure_log(self) -> Path:
        return self.project.failure("-".join(self.name))

    def _row(self, batch_size: int, error: Exception) -> Cell:
        """The cell of what went wrong in the pair's process; a traceback goes to the pair's log, which the row names.

        Raises:
            MachineMismatch: it concerns every pair.
        """
        if isinstance(error, MachineMismatch):
            raise error
        if isinstance(error, worker.Failed):
            return Cell(batch_size=batch_size, status=error.cause, reason=error.reason)
        reason = str(error)
        if not isinstance(error, StudyError):
            defect = worker.Defect.of(error)
            self._log += f"{defect}\n"
            write_atomically(self._failure_log, self._log)
            reason = f"{defect.line}; traceback in {self._failure_log.relative_to(self.project.root)}"
        return Cell(batch_size=batch_size, status="failed", reason=reason)

    def _keep(self, cell: Cell) -> None:
        cells = tuple(sorted((*self.record.cells, cell), key=lambda one: one.batch_size))
        self.record = self.record.model_copy(update={"cells": cells})

    def _write(self) -> None:
        self.record = self.record.model_copy(update={"elapsed_s": round(self._spent_s, 3)})
        write_progress(self.project.progress(*self.name), Progress(record=self.record, pending=self._pending))


def edited(model: str, precision: str) -> CodeChanged:
    """The measuring code is not what it was when this process began."""
    return CodeChanged(
        f"{model}-{precision}", "src/visionquant/bench was edited while it measured", "run the same command again"
    )


def _kept(project: Project, blank: Record, asked: Sequence[int], again: bool) -> tuple[Record, Pending | None]:
    """``blank`` with all that an interrupted run or an earlier record of the same identity holds of it.

    Of the batch sizes ``asked`` for, cells that failed are not kept, and none is with ``again``. Where nothing is kept,
    facts and elapsed time begin anew too.
    """
    pair = (blank.model, blank.precision)
    progress = under_way(project.progress(*pair))
    if progress is not None and progress.record.goes_on_as(blank):
        dropped = again and progress.pending is not None and progress.pending.batch_size in asked
        pending = None if dropped else progress.pending
        return _without(progress.record, asked, again, blank, bool(pending)), pending
    found = current(project.record(*pair))
    if found is not None and found.goes_on_as(blank):
        return _without(found, asked, again, blank, False), None
    return blank, None


def _without(found: Record, asked: Sequence[int], again: bool, blank: Record, pending: bool) -> Record:
    kept = tuple(one for one in found.cells if not (one.batch_size in asked and (again or one.status == "failed")))
    return found.model_copy(update={"cells": kept}) if kept or pending or not found.cells else blank
