"""The samples of one model's pairs: what of them is kept, what they lack, and what is added to them.

A pair's samples hold FP32's slots and the placebo's from the same blocks, so a pair that is measured again for a reason
of its own takes these two along, and the others keep what they have. Whatever goes wrong in a pair's processes is that
pair's alone: a row that says why, and the rounds before stay.
"""

from collections.abc import Mapping
from math import ceil

from visionquant.bench import schedule, worker
from visionquant.bench.arm import Checked, Examined
from visionquant.bench.command import Matrix, kept
from visionquant.core import files
from visionquant.core.errors import MachineMismatch, StudyError
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.cell import PASSING, Cell, Round
from visionquant.records.record import Record

SPARE, SPARE_AT_RETRY = 0.5, 2.0  # rounds beyond those asked for, as a share, in place of disturbed ones


class KeptSamples:
    """Of one ``model`` the pairs of ``matrix``; ``asked`` are their records as they are asked for, by precision."""

    def __init__(self, project: Project, model: str, matrix: Matrix, asked: Mapping[str, Record]) -> None:
        self.model, self._project, self._matrix = model, project, matrix
        self.records = {name: kept(project, one, matrix) for name, one in asked.items() if name in matrix.precisions}
        self._tried: set[tuple[str, int]] = set()
        self._log = ""
        self.visit_s: float | None = None

    def lacks(self, batch_size: int, target: int, retry: bool = False) -> list[str]:
        """The precisions that lack rounds at ``batch_size``."""
        return [name for name in self.records if self._lacks(name, batch_size, target, retry)]

    def _lacks(self, precision: str, batch_size: int, target: int, retry: bool) -> bool:
        cell = self.records[precision].cell(batch_size)
        if target == 0 or (precision, batch_size) in self._tried:
            return False
        if cell is None or cell.status == "over_budget":
            return True
        if cell.status != "ok":
            return cell.status == "failed" or (retry and cell.status in PASSING)
        most = target + ceil(target * (SPARE_AT_RETRY if retry else SPARE))
        return cell.quiet_rounds(precision) < target and len(cell.rounds) < most

    def waiting(self) -> dict[tuple[str, str, int], str]:
        """Cells that another run may fare better with, and why."""
        settled = [
            (name, records.settled(cell, name))
            for name, record in self.records.items()
            for cell in record.cells
            if cell.batch_size in self._matrix.batch_sizes
        ]
        return {(self.model, name, cell.batch_size): cell.reason for name, cell in settled if cell.status in PASSING}

    def cost(self) -> schedule.Cost | None:
        """What a round costs, None where none was taken."""
        return schedule.cost_of(self.records, self.visit_s)

    def taken(self, batch_size: int) -> int:
        """Rounds of the pair that has fewest of them, of those that have any."""
        cells = [cell for record in self.records.values() if (cell := record.cell(batch_size))]
        return min((len(cell.rounds) for cell in cells if cell.rounds), default=0)

    def spent_s(self) -> float:
        """Seconds that its samples took, preparation included."""
        every = self.records.values()
        cells = ([record.cell(size) for record in every] for size in self._matrix.batch_sizes)
        rounds = [max(sum(one.spent_s for one in cell.rounds) if cell else 0.0 for cell in group) for group in cells]
        return sum(rounds) + sum(record.elapsed_s for record in every)

    def leave_out(self, batch_size: int, reason: str) -> None:
        """Write down that a batch size is over budget, where it was not measured."""
        for precision, record in self.records.items():
            if record.cell(batch_size) is None:
                self._put(precision, schedule.over_budget(batch_size, reason))
                self.write(precision)

    def last(self, name: str, size: int) -> int:
        """The number of the last round of a pair, 0 without one."""
        cell = self.records[name].cell(size) if name in self.records else None
        return cell.rounds[-1].number if cell and cell.rounds else 0

    def is_new(self, name: str, size: int) -> bool:
        """Whether a cell was not examined yet."""
        cell = self.records[name].cell(size)
        return cell is None or cell.memory is None

    def add(self, name: str, size: int, found: Round, planned: int) -> None:
        """A round of a pair, of ``planned``."""
        cell = self.records[name].cell(size) or Cell(batch_size=size, status="ok", reason="")
        rounds = (*cell.rounds, found)
        self._put(name, cell.model_copy(update={"status": "ok", "reason": "", "rounds": rounds, "planned": planned}))

    def examined(self, name: str, size: int, checked: Checked, seen: Examined, fault: str) -> None:
        """What a cell tells once; ``fault`` is what is wrong with the outputs whatever the precision, or empty."""
        cell, size_of = self.records[name].cell(size), self.records[name].size
        assert cell is not None
        assert size_of is not None
        status, reason = cell.status, cell.reason
        if not checked.finite:
            status, reason = "non_finite", "the outputs hold NaN or infinity; the timings are of that"
        elif fault := fault or checked.audit.fault:
            status, reason = "audit_failed", fault
        memory = seen.memory.model_copy(update={"stored_weights": size_of.stored_weights})
        once = {"audit": checked.audit, **seen._asdict(), "memory": memory}
        self._put(name, cell.model_copy(update={"status": status, "reason": reason, **once}))

    def fail(self, name: str, failed: Cell) -> None:
        """What went wrong with a pair; the rounds that it has stay, and this command tries it no more."""
        cell = self.records[name].cell(failed.batch_size) or failed
        self._put(name, cell.model_copy(update={"status": failed.status, "reason": failed.reason}))
        self._tried.add((name, failed.batch_size))
        self.write(name)

    def failed(self, batch_size: int, error: Exception) -> Cell:
        """The cell of what went wrong in a process; a traceback goes to the model's log. MachineMismatch is raised."""
        if isinstance(error, MachineMismatch):
            raise error
        if isinstance(error, worker.Failed):
            return Cell(batch_size=batch_size, status=error.cause, reason=error.reason)
        reason = str(error)
        if not isinstance(error, StudyError):
            defect, log = worker.Defect.of(error), self._project.failure(self.model)
            self._log += f"{defect}\n"
            files.save(log, self._log)
            reason = f"{defect.line}; traceback in {self._project.shown(log)}"
        return Cell(batch_size=batch_size, status="failed", reason=reason)

    def _put(self, name: str, cell: Cell) -> None:
        record = self.records[name]
        others = [one for one in record.cells if one.batch_size != cell.batch_size]
        cells = tuple(sorted((*others, cell), key=lambda one: one.batch_size))
        self.records[name] = record.model_copy(update={"cells": cells})

    def write(self, name: str) -> None:
        """Write down what there is of a pair."""
        records.write_samples(self._project.samples(self.model, name), self.records[name])
