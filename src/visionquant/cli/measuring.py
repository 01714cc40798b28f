"""The verbs that measure, and those that prepare for it."""

import json
import math
import operator
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import typer

import visionquant.cli.common as common
from visionquant.bench import executor as executors
from visionquant.bench import plan as plans
from visionquant.bench.command import Command, Matrix
from visionquant.cli.common import machine_of, verb
from visionquant.core import files, machine
from visionquant.core.errors import PairsFailed, StudyError
from visionquant.core.paths import Project
from visionquant.records import archive, outcomes
from visionquant.settings.params import Params, known
from visionquant.weights import sources as weights

Platform = Annotated[str, typer.Option("--platform", help="A name for this machine, e.g. rtx-4090.")]
Partial = Annotated[bool, typer.Option("--partial", help="Though pairs of the study are missing.")]
PROGRAM = (sys.executable, "-c", "from visionquant.cli import main; main()")


@verb("write")
def environment(project: Project, params: Params) -> None:
    """Write environment.json: what this machine is, what sets its speed, and the versions that matter.

    Limits of the instruction set (ATEN_CPU_CAPABILITY and the like) are part of it, though ONNX Runtime and
    bitsandbytes read the processor itself and ignore them.
    """
    here = machine_of(params)
    machine.declare(project, here)
    print(f"{here.device}: {here.title}\nspeed: {here.speed}")


@verb("write")
def sources(project: Project, params: Params) -> None:
    """Write data/sources.json: have the weights' files changed since they were downloaded? `dvc repro` asks first."""
    digests = weights.sources(project, params)
    files.save(project.sources, json.dumps(digests, indent=1) + "\n")
    print(f"{project.shown(project.sources)}: {len(digests)} models")


@verb("write")
def download(project: Project, params: Params, model: common.Model) -> None:
    """Fetch the weights of one model at their pinned revision, or say that they will be seeded."""
    from visionquant.weights import checkpoint

    known("models", [model], params.models)
    manifest = checkpoint.download(project, params, model)
    print(f"{model}: {manifest.weights}, {manifest.source}" + (f" ({manifest.reason})" if manifest.reason else ""))


@verb("measure")
def reference(project: Project, params: Params, model: common.Model, keep_going: common.KeepGoing = False) -> None:
    """Compute the FP32 outputs of one model that every precision of it is compared with."""
    from visionquant.bench import reference as references

    known("models", [model], params.models)
    outputs = references.make(project, params, model)
    if outputs.failed and not keep_going:
        raise PairsFailed(f"reference of {model}", outputs.reason, "the same command tries again")
    print(f"{model}: {project.shown(project.reference(model))}" + (f" ({outputs.reason})" if outputs.reason else ""))


@verb("measure")
def measure(
    project: Project,
    params: Params,
    model: common.Model,
    precision: common.Precision,
    batch_size: common.BatchSizes = None,
    again: common.Again = False,
    keep_going: common.KeepGoing = False,
) -> None:
    """Measure one pair: all batch sizes that it lacks; exit code 3 where one failed unexpectedly."""
    from visionquant.bench import measure as pairs
    from visionquant.cli import progress

    matrix = Matrix.of(params, [model], [precision], batch_size, again)
    (record,) = pairs.measure(project, params, matrix, Command(before_s=common.untimed_s()))
    print(progress.line(record))
    if record.failure and not keep_going:
        raise PairsFailed(f"{model} {precision}", record.failure, "the same command tries again")


@common.app.command()
def sweep(
    model: common.Models = None,
    precision: common.Precisions = None,
    batch_size: common.BatchSizes = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="Every model of study.models.")] = False,
    all_precisions: Annotated[bool, typer.Option("--all-precisions", help="Every one of study.precisions.")] = False,
    again: common.Again = False,
    minutes: Annotated[
        float, typer.Option(min=0, help="Stop after so long, exit code 75; the same command goes on.")
    ] = math.inf,
    executor: Annotated[
        Literal["local"] | None, typer.Option(help="Measure each model by a command of its own, with a log of its own.")
    ] = None,
    overrides: common.Overrides = None,
    results: common.Results = None,
) -> None:
    """Measure many pairs without DVC, e.g. `visionquant sweep --all-models --all-precisions`.

    Exit code 3: all was tried, and a pair failed unexpectedly; its row says why.
    """
    project, params = common.opened("submit", overrides, results)
    models = common.chosen("model", model, all_models)
    precisions = common.chosen("precision", precision, all_precisions)
    matrix = Matrix.of(params, models, precisions, batch_size, again)
    machine_of(params)
    print(f"plan: {plans.summary(plans.of_study(project, params, matrix))}")
    if executor is None:
        _measure_here(project, params, matrix, minutes)
    elif again or minutes < math.inf:
        raise StudyError("sweep --executor", "it takes neither --again nor --minutes", "leave them out")
    else:
        _submit(project, params, matrix, {"--set": overrides or (), "--results": [results] if results else ()})
    common.require_none_failed(project, matrix.pairs)


def _measure_here(project: Project, params: Params, matrix: Matrix, minutes: float) -> None:
    from visionquant.bench import measure as pairs
    from visionquant.cli import progress

    with progress.Bar(matrix) as bar:
        command = Command(bar, common.untimed_s(), time.monotonic() + 60 * minutes)
        done = pairs.sweep(project, params, matrix, command)
    if not done:
        print(f"visionquant: {minutes:g} minutes are over; the same command goes on from here", file=sys.stderr)
        raise SystemExit(75)


def _submit(project: Project, params: Params, matrix: Matrix, options: dict[str, Sequence[object]]) -> None:
    """Measure each model by a command that an executor runs, and say which of them left no valid records."""
    logs = project.local / "jobs"
    options = {"--precision": matrix.precisions, "--batch-size": matrix.batch_sizes, **options}
    words = [word for option, values in options.items() for value in values for word in (option, str(value))]
    tasks = {part: [*PROGRAM, "sweep", "--model", *part.models, *words] for part in matrix.by_model()}
    fault_of = partial(executors.record_fault, project, params)
    faults = executors.run(executors.Local(logs), tasks, fault_of, print)
    for part, why in faults.items():
        failed = f"{len(faults)} of {len(tasks)} models left no valid records, e.g. {part.models[0]}: {why}"
        raise StudyError("sweep --executor", failed, f"see the logs in {project.shown(logs)}, then run it again")


@verb("read")
def plan(
    project: Project,
    params: Params,
    model: common.Models = None,
    precision: common.Precisions = None,
    batch_size: common.BatchSizes = None,
) -> None:
    """Say which cells a run would measure, and about how long and in how much memory; measures nothing."""
    planned = plans.of_study(project, params, Matrix.of(params, model, precision, batch_size))
    print("\n".join([*(pair.text for pair in planned), plans.summary(planned)]))


@verb("measure")
def train(project: Project, params: Params, network: common.Network, all_folds: common.AllFolds = False) -> None:
    """Train a small network on scikit-learn's digits, a fold at a time; a minute or so each."""
    from visionquant.accuracy import training

    known("training.networks", [network], params.training.networks)
    spec = params.training.networks[network]
    data = training.load_digits(spec.image_size)
    for fold in range(params.training.folds) if all_folds else params.training.run:
        done = training.train(spec, params.training, data, fold)
        training.save_trained(project, network, fold, done.net)
        print(f"{network} fold {fold}: {done.correct} of {done.held_out} held-out images, {done.seconds:.0f} s")


@verb("measure")
def evaluate(project: Project, params: Params, network: common.Network, all_folds: common.AllFolds = False) -> None:
    """Classify the held-out images with a trained network in every precision of the study."""
    from visionquant.accuracy import evaluation

    known("training.networks", [network], params.training.networks)
    folds = tuple(range(params.training.folds)) if all_folds else params.training.run
    scores = evaluation.evaluate_trained(project, params, network, folds, machine_of(params))
    path, labels = outcomes.write_scores(project, scores), scores.labels
    counted = (f"{name} {sum(map(operator.eq, row.classes, labels))}" for name, row in scores.precisions.items())
    print(f"{project.shown(path)}: right of {len(labels)}: {', '.join(counted)}")


@verb("measure")
def evaluate_pretrained(project: Project, params: Params) -> None:
    """Classify the images of evaluation.images with the models that have pretrained weights, in every precision."""
    if params.evaluation.images is None:
        results = outcomes.write_off(project, params.study.models)
    else:
        from visionquant.accuracy import evaluation

        results = evaluation.evaluate_labelled(project, params, machine_of(params), print)
    for reason, count in sorted(Counter(results.missing.values()).items()):
        print(f"not evaluated, {count} models: {reason}")


@verb("write")
def record(project: Project, params: Params, platform: Platform, partial: Partial = False) -> None:
    """Copy this machine's evidence to a folder of data/machines, with hashes, for a pull request."""
    folder = archive.record(project, params, platform, partial)
    print(f"{project.shown(folder)}: {len(archive.set_manifest(folder).files)} files and a manifest")


@verb("measure")
def aa_test(
    project: Project,
    params: Params,
    model: common.Models = None,
    precision: common.Precisions = None,
    again: common.Again = False,
) -> None:
    """Measure at least 20 cells twice: how many does the verdict call different, and how fine can this machine tell?"""
    from visionquant.analysis import comparison
    from visionquant.analysis import study as evidence
    from visionquant.bench import aa_test as test

    test.measure(project, params, test.matrix_of(project, params, model, precision, again), print)
    study = evidence.gather(project, params)
    outcome = comparison.repeated_run(study, study.local)
    print("\n".join(outcome.lines))
    if not outcome.passed:
        remedy = "end other work on this machine, or use a protocol with more processes"
        raise StudyError("aa-test", outcome.text, remedy)
