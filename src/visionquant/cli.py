"""The command line. Thin verbs: each checks its arguments, calls one function and says what came of it.

The stages of dvc.yaml call the same verbs. Libraries are imported when a verb needs them, so that ``--help`` and the
environment probe answer at once.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import psutil
import typer

from visionquant import params as parameters
from visionquant.errors import StudyError
from visionquant.params import Params, known
from visionquant.paths import Project
from visionquant.records import Cell, Record

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="What a precision costs and saves on a vision model. Run it anywhere inside a checkout of the study.",
)

Model = Annotated[str, typer.Option("--model", help="A row of `models` in params.yaml.")]
Precision = Annotated[str, typer.Option("--precision", help="A row of `precisions` in params.yaml.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="A row of `models`; may be given several times.")]
Precisions = Annotated[
    list[str] | None, typer.Option("--precision", help="A row of `precisions`; may be given several times.")
]
BatchSizes = Annotated[
    list[int] | None, typer.Option("--batch-size", min=1, help="Images per batch; may be given several times.")
]
Again = Annotated[bool, typer.Option("--again", help="Measure anew what is already measured.")]


def main() -> None:
    """Run the command; a mistake that the reader can mend is one line and exit code 1."""
    try:
        app()
    except StudyError as error:
        print(f"visionquant: {error}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C while measuring: one line, exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("visionquant: interrupted; finished cells are kept, the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None


@app.command()
def environment() -> None:
    """Write data/environment.json: what this machine is, and the versions that matter."""
    from visionquant import environment as machine

    project, params = _open()
    found = machine.probe(params.study.device)
    machine.declare(project, found)
    print(f"{found.device}: {found.title}")


@app.command()
def download(model: Model) -> None:
    """Fetch the weights of one model at their pinned revision, or say that they will be seeded."""
    from visionquant import hub

    project, params = _open()
    known("models", [model], params.models)
    manifest = hub.download(project, params, model)
    print(f"{model}: {manifest.weights}, {manifest.source}" + (f" ({manifest.reason})" if manifest.reason else ""))


@app.command()
def reference(model: Model) -> None:
    """Compute the FP32 outputs of one model that every precision of it is compared with."""
    from visionquant.bench import reference as references

    project, params = _open()
    known("models", [model], params.models)
    references.make(project, params, model)
    print(f"{model}: data/references/{model}.npz")


@app.command()
def measure(model: Model, precision: Precision, batch_size: BatchSizes = None, again: Again = False) -> None:
    """Measure one pair: all batch sizes that it lacks."""
    from visionquant.bench import pair

    project, params = _open()
    with _interruptible():
        record = pair.measure(project, params, model, precision, batch_size, again, begun_s=_process_begun_s())
    print(_line(record))


@app.command()
def sweep(
    model: Models = None,
    precision: Precisions = None,
    batch_size: BatchSizes = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="Every model of study.models.")] = False,
    all_precisions: Annotated[bool, typer.Option("--all-precisions", help="Every one of study.precisions.")] = False,
    again: Again = False,
) -> None:
    """Measure many pairs without DVC, e.g. `visionquant sweep --all-models --all-precisions`."""
    project, params = _open()
    models = _chosen("model", model, all_models, params.study.models)
    precisions = _chosen("precision", precision, all_precisions, params.study.precisions)
    known("study.models", models, params.models)
    known("study.precisions", precisions, params.precisions)
    batch_sizes = sorted(set(batch_size or params.study.batch_sizes))
    with _interruptible():
        _sweep(project, params, models, precisions, batch_sizes, again)


@app.command()
def analyse() -> None:
    """Derive reports/tables/*.csv and reports/metrics.json from the records."""
    from visionquant.analysis import longform

    project, params = _open()
    longform.write_all(project, params)
    print("reports/tables, reports/metrics.json")


@app.command()
def notebooks(
    name: Annotated[list[str] | None, typer.Argument(help="e.g. 02_latency; all by default.")] = None,
) -> None:
    """Execute the notebooks into reports/notebooks."""
    from visionquant.report import notebooks as runner

    project, _ = _open()
    runner.execute(project, name)
    print("reports/notebooks")


@app.command()
def report() -> None:
    """Build the pages from the executed notebooks."""
    from visionquant.report import pages

    project, params = _open()
    print(pages.build(project, params).relative_to(project.root))


@app.command()
def validate() -> None:
    """Judge the supplement's three expected metrics; exit code 1 only where comparable figures differ."""
    from visionquant.analysis import validation

    project, params = _open()
    verdicts = validation.validate(project, params)
    for verdict in verdicts:
        print(verdict.text)
    if any(verdict.verdict == "differs" for verdict in verdicts):
        raise SystemExit(1)


@app.command()
def summary() -> None:
    """Say in five lines what was found and where the report is."""
    from visionquant.report import summary as summaries

    project, params = _open()
    print("\n".join(summaries.five_lines(project, params)))


def _open() -> tuple[Project, Params]:
    project = Project.find()
    return project, parameters.load(project)


def _chosen(option: str, named: list[str] | None, everything: bool, rows: tuple[str, ...]) -> list[str]:
    if bool(named) == everything:
        found = f"--{option} and --all-{option}s together" if everything else "nothing chosen"
        raise StudyError(f"sweep: {option}s", found, f"give --all-{option}s, or --{option} NAME once or more")
    return list(dict.fromkeys(named)) if named else list(rows)


def _sweep(
    project: Project, params: Params, models: list[str], precisions: list[str], batch_sizes: list[int], again: bool
) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from visionquant import sweep as sweeps

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        "left",
        TimeRemainingColumn(),
    )
    console = Console(highlight=False, soft_wrap=True)
    with Progress(
        *(TextColumn(column) if isinstance(column, str) else column for column in columns), console=console
    ) as progress:
        task = progress.add_task("cells", total=len(models) * len(precisions) * len(batch_sizes))

        def on_cell(model: str, precision: str, found: Cell) -> None:
            progress.update(task, description=f"{model} {precision} {found.batch_size}")
            progress.advance(task)
            fresh[0] += 1

        def on_pair(record: Record) -> None:
            progress.advance(task, len(batch_sizes) - fresh[0])
            fresh[0] = 0
            console.print(_line(record), markup=False)

        fresh = [0]
        sweeps.sweep(
            project, params, models, precisions, batch_sizes, again, on_cell, on_pair, begun_s=_process_begun_s()
        )


def _line(record: Record) -> str:
    """A pair in one line: median milliseconds, or the status, by batch size."""
    import statistics

    parts = []
    for cell in record.cells:
        times = [ms for replicate in cell.replicates for ms in replicate.wall_ms]
        shown = f"{statistics.median(times):.2f} ms" if times else ""
        status = "" if cell.status == "ok" else cell.status.replace("_", " ")
        parts.append(f"{cell.batch_size}: {' '.join(filter(None, (shown, status)))}")
    weights = record.settings.weights.kind
    return f"{record.model} {record.precision} ({weights} weights)  {', '.join(parts)}"


def _process_begun_s() -> float:
    return min(psutil.Process().create_time(), time.time())
