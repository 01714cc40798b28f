"""What a person sees of a sweep: a bar with the time left, and a line for each finished pair."""

import statistics
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from visionquant.bench.cell_run import CONFIDENCE, CellRun
from visionquant.bench.command import Matrix, Observer
from visionquant.core.intervals import half_width, log_medians
from visionquant.records.cell import Cell
from visionquant.records.record import Record


class Bar(Observer):
    """A bar over the cells of a matrix, and a line for each finished pair; use as a context."""

    def __init__(self, matrix: Matrix) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        console = Console(highlight=False, soft_wrap=True)
        self.progress = Progress(TextColumn("{task.description}"), *columns, console=console)
        self._batch_sizes, self._done = matrix.batch_sizes, set[tuple[str, str, int]]()
        self.task = self.progress.add_task("cells", total=len(matrix.pairs) * len(matrix.batch_sizes))

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def cell(self, pair: tuple[str, str], cell: Cell) -> None:
        self._done.add((*pair, cell.batch_size))
        self._show(pair, str(cell.batch_size))

    def replicate(self, pair: tuple[str, str], course: CellRun) -> None:
        self._show(pair, running(course))

    def pair(self, record: Record) -> None:
        self._done |= {(record.model, record.precision, batch_size) for batch_size in self._batch_sizes}
        self.progress.update(self.task, completed=len(self._done))
        self.progress.console.print(line(record), markup=False)

    def _show(self, pair: tuple[str, str], text: str) -> None:
        self.progress.update(self.task, completed=len(self._done), description=f"{' '.join(pair)} {text}")


def running(course: CellRun) -> str:
    """A cell on its way: batch size, the median so far and, from two processes on, its 95 % interval's half-width."""
    if not course.runs:
        return f"{course.batch_size}: again, the machine moved"
    processes = [run.replicate.wall_ms for run in course.runs]
    width = half_width(log_medians(processes), CONFIDENCE)
    spread = "" if width is None else f" ±{100 * width:.1f} %"
    median = statistics.median(ms for process in processes for ms in process)
    return f"{course.batch_size}: {median:.2f} ms{spread} ({len(processes)})"


def line(record: Record) -> str:
    """A pair in one line: median milliseconds, or the status, by batch size."""
    parts = []
    for cell in record.cells:
        times = [ms for replicate in cell.replicates for ms in replicate.wall_ms]
        shown = f"{statistics.median(times):.2f} ms" if times else ""
        status = "" if cell.status == "ok" else cell.status.replace("_", " ")
        parts.append(f"{cell.batch_size}: {' '.join(filter(None, (shown, status)))}")
    weights = record.settings.weights.kind
    failure = f"; {record.failure}" if record.failure else ""
    return f"{record.model} {record.precision} ({weights} weights)  {', '.join(parts)}{failure}"
