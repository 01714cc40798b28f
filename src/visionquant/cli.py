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
from visionquant import plan as plans
from visionquant.errors import StudyError
from visionquant.params import Params, known
from visionquant.paths import Project

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
    """Run the command; a mistake that the reader can mend is one line: exit code 1, or 2 for an unknown word."""
    try:
        sys.exit(app(standalone_mode=False))
    except StudyError as error:
        print(f"visionquant: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # of the library that parses words, whichever typer brings
        if usage is None:
            raise
        if not sys.argv[1:]:
            print(usage())
        else:
            print(f"visionquant: {' '.join(usage().split())}; see `visionquant --help`", file=sys.stderr)
        sys.exit(2)


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
    from visionquant import progress
    from visionquant.bench import pair

    project, params = _open()
    before_s = time.time() - _process_begun_s()
    with _interruptible():
        (record,) = pair.measure(project, params, model, [precision], batch_size, again, before_s=before_s)
    print(progress.line(record))


@app.command()
def sweep(
    model: Models = None,
    precision: Precisions = None,
    batch_size: BatchSizes = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="Every model of study.models.")] = False,
    all_precisions: Annotated[bool, typer.Option("--all-precisions", help="Every one of study.precisions.")] = False,
    again: Again = False,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long, exit code 75; the same command goes on.")
    ] = None,
) -> None:
    """Measure many pairs without DVC, e.g. `visionquant sweep --all-models --all-precisions`."""
    from visionquant import progress
    from visionquant.bench.code import measuring_sha256

    project, params = _open()
    models = _chosen("model", model, all_models, params.study.models)
    precisions = _chosen("precision", precision, all_precisions, params.study.precisions)
    known("study.models", models, params.models)
    known("study.precisions", precisions, params.precisions)
    batch_sizes = sorted(set(batch_size or params.study.batch_sizes))
    planned = plans.of_study(project, params, models, precisions, batch_sizes, measuring_sha256(), again)
    print(f"plan: {planned.text}")
    with _interruptible():
        done = progress.sweep(project, params, models, precisions, batch_sizes, again, _process_begun_s(), minutes)
    if not done:
        print(f"visionquant: {minutes:g} minutes are over; the same command goes on from here", file=sys.stderr)
        raise SystemExit(75)


@app.command()
def plan(model: Models = None, precision: Precisions = None, batch_size: BatchSizes = None) -> None:
    """Say which cells a run would measure, and about how long and in how much memory; measures nothing."""
    from visionquant.bench.code import measuring_sha256

    project, params = _open()
    models, precisions = model or list(params.study.models), precision or list(params.study.precisions)
    known("study.models", models, params.models)
    known("study.precisions", precisions, params.precisions)
    sizes = sorted(set(batch_size or params.study.batch_sizes))
    found = plans.of_study(project, params, models, precisions, sizes, measuring_sha256())
    for pair in found.pairs:
        if pair.batch_sizes:
            time_ = "time unknown" if pair.seconds is None else f"about {pair.seconds:.0f} s"
            memory = "memory unknown" if pair.memory is None else f"{pair.memory / 2**30:.2f} GiB"
            listed = " ".join(map(str, pair.batch_sizes))
            print(f"{pair.model} {pair.precision}: batch {listed}; {time_}; {memory}")
    print(found.text)


@app.command()
def record(
    platform: Annotated[str, typer.Option("--platform", help="A name for this machine, e.g. rtx-4090.")],
    partial: Annotated[bool, typer.Option("--partial", help="Though pairs of the study are missing.")] = False,
) -> None:
    """Pack what this machine measured into data/recorded, with hashes, for a pull request."""
    from visionquant import recorded

    project, params = _open()
    folder = recorded.pack(project, params, platform, partial)
    count = len(recorded.manifest_of(folder).files)
    print(f"{folder.relative_to(project.root)}: {count} records and a manifest")


@app.command()
def aa(
    model: Models = None,
    precision: Precisions = None,
    protocol: Annotated[str | None, typer.Option(help="A row of `protocols`; the study's if none.")] = None,
    again: Again = False,
) -> None:
    """Measure at least 20 cells twice: how many does the verdict call different, and how fine can this machine tell?"""
    from visionquant import aa as repeats
    from visionquant.analysis import aa as judging
    from visionquant.analysis import evidence

    project, params = _open()
    with _interruptible():
        repeats.measure(project, params, model, precision, protocol, again, print)
    study = evidence.gather(project, params)
    outcome = judging.judge(study, study.local)
    for line in outcome.lines:
        print(line)
    if not outcome.passed:
        raise StudyError("aa", outcome.text, "end other work on this machine, or use a protocol with more processes")


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

    project, params = _open()
    runner.execute(project, params, name)
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
def compare(
    a: Annotated[str, typer.Argument(help='"local", or a platform of data/recorded.')],
    b: Annotated[str, typer.Argument(help="The set to compare it with.")],
) -> None:
    """Say per cell whether two sets of records agree, with ratio and interval, and how many do."""
    from visionquant.analysis import comparison, evidence

    project, params = _open()
    study = evidence.gather(project, params)
    found = comparison.compare(study, comparison.set_named(study, a), comparison.set_named(study, b))
    for one in found:
        print(one.text)
    print(comparison.summary(found))


@app.command()
def verify() -> None:
    """Prove that records, settings, code, tables, notebooks and pages belong together; exit code 1 where they don't."""
    from visionquant.bench.code import measuring_sha256
    from visionquant.report import verify as verifying

    project, params = _open()
    faults = verifying.verify(project, params, measuring_sha256())
    for fault in faults:
        print(fault.text)
    if faults:
        raise StudyError("verify", f"{len(faults)} files do not belong", "run `dvc repro`, or restore them from git")
    print("records, settings, code, tables, notebooks and pages belong together")


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


def _process_begun_s() -> float:
    return min(psutil.Process().create_time(), time.time())
