"""What a person sees of a sweep: a bar with the time left, and a line for each finished pair."""

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from visionquant.bench import sweep as sweeps
from visionquant.bench.cell_run import CONFIDENCE, Course
from visionquant.core.intervals import half_width, log_medians
from visionquant.core.paths import Project
from visionquant.records.cell import Cell
from visionquant.records.record import Record
from visionquant.settings.params import Params


def sweep(
    project: Project,
    params: Params,
    models: Sequence[str],
    precisions: Sequence[str],
    batch_sizes: Sequence[int],
    again: bool,
    begun_s: float,
    minutes: float | None = None,
) -> bool:
    """Run a sweep with a bar; see :func:`visionquant.bench.sweep.sweep`."""
    console = Console(highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("cells", total=len(models) * len(precisions) * len(batch_sizes))
        fresh = [0]

        def on_cell(model: str, precision: str, found: Cell) -> None:
            bar.update(task, description=f"{model} {precision} {found.batch_size}")
            bar.advance(task)
            fresh[0] += 1

        def on_pair(record: Record) -> None:
            bar.advance(task, len(batch_sizes) - fresh[0])
            fresh[0] = 0
            console.print(line(record), markup=False)

        def on_replicate(model: str, precision: str, course: Course) -> None:
            bar.update(task, description=f"{model} {precision} {running(course)}")

        return sweeps.sweep(
            project,
            params,
            models,
            precisions,
            batch_sizes,
            again,
            on_cell,
            on_replicate,
            on_pair,
            begun_s,
            minutes,
        )


def running(course: Course) -> str:
    """A cell on its way: batch size, the median so far and, from two processes on, its 95 % interval's half-width."""
    if not course.runs:
        return f"{course.batch_size}: again, the machine moved"
    processes = [run.replicate.wall_ms for run in course.runs]
    width = half_width(log_medians(processes), CONFIDENCE)
    spread = "" if width is None else f" ±{100 * width:.1f} %"
    median = statistics.median(ms for one in processes for ms in one)
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
