"""The verbs that measure, and those that prepare for it."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from visionquant.bench import plan as plans
from visionquant.cli.common import (
    Again,
    BatchSizes,
    KeepGoing,
    Model,
    Models,
    Precision,
    Precisions,
    app,
    chosen,
    machine_of,
    opened,
    process_begun_s,
    require_none_failed,
)
from visionquant.core.errors import PairsFailed, StudyError
from visionquant.settings.params import known


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
    """Write data/environment.json: what this machine is, what sets its speed, and the versions that matter.

    Limits of the instruction set (ATEN_CPU_CAPABILITY and the like) are part of it, though ONNX Runtime and
    bitsandbytes read the processor itself and ignore them.
    """
    from visionquant.core import machine

    project, params = opened("write")
    found = machine_of(params)
    machine.declare(project, found)
    print(f"{found.device}: {found.title}\nspeed: {found.speed}")


@app.command()
def sources() -> None:
    """Write data/sources.json: have the weights' files changed since they were downloaded? `dvc repro` asks first."""
    import json

    from visionquant.core.paths import write_atomically
    from visionquant.weights import sources as weights

    project, params = opened("write")
    found = weights.sources(project, params)
    write_atomically(project.sources, json.dumps(found, indent=1) + "\n")
    print(f"data/sources.json: {len(found)} models")


@app.command()
def download(model: Model) -> None:
    """Fetch the weights of one model at their pinned revision, or say that they will be seeded."""
    from visionquant.weights import hub

    project, params = opened("write")
    known("models", [model], params.models)
    manifest = hub.download(project, params, model)
    print(f"{model}: {manifest.weights}, {manifest.source}" + (f" ({manifest.reason})" if manifest.reason else ""))


@app.command()
def reference(model: Model, keep_going: KeepGoing = False) -> None:
    """Compute the FP32 outputs of one model that every precision of it is compared with."""
    project, params = opened("measure")
    from visionquant.bench import reference as references

    known("models", [model], params.models)
    found = references.make(project, params, model)
    if found.failed and not keep_going:
        raise PairsFailed(f"reference of {model}", found.reason, "the same command tries again")
    print(f"{model}: data/references/{model}.npz" + (f" ({found.reason})" if found.reason else ""))


@app.command()
def measure(
    model: Model,
    precision: Precision,
    batch_size: BatchSizes = None,
    again: Again = False,
    keep_going: KeepGoing = False,
) -> None:
    """Measure one pair: all batch sizes that it lacks; exit code 3 where one failed unexpectedly."""
    project, params = opened("measure")
    from visionquant.bench import measure as pair
    from visionquant.cli import progress

    before_s = time.time() - process_begun_s()
    with _interruptible():
        (record,) = pair.measure(project, params, model, [precision], batch_size, again, before_s=before_s)
    print(progress.line(record))
    if record.failure and not keep_going:
        raise PairsFailed(f"{model} {precision}", record.failure, "the same command tries again")


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
    """Measure many pairs without DVC, e.g. `visionquant sweep --all-models --all-precisions`.

    Exit code 3: all was tried, and a pair failed unexpectedly; its row says why.
    """
    project, params = opened("measure")
    from visionquant.bench.fingerprint import measuring_sha256
    from visionquant.cli import progress

    models = chosen("model", model, all_models, params.study.models)
    precisions = chosen("precision", precision, all_precisions, params.study.precisions)
    known("study.models", models, params.models)
    known("study.precisions", precisions, params.precisions)
    machine_of(params)
    batch_sizes = sorted(set(batch_size or params.study.batch_sizes))
    planned = plans.of_study(project, params, models, precisions, batch_sizes, measuring_sha256(), again)
    print(f"plan: {planned.text}")
    with _interruptible():
        done = progress.sweep(project, params, models, precisions, batch_sizes, again, process_begun_s(), minutes)
    if not done:
        print(f"visionquant: {minutes:g} minutes are over; the same command goes on from here", file=sys.stderr)
        raise SystemExit(75)
    require_none_failed(project, [(model, precision) for model in models for precision in precisions])


@app.command()
def plan(model: Models = None, precision: Precisions = None, batch_size: BatchSizes = None) -> None:
    """Say which cells a run would measure, and about how long and in how much memory; measures nothing."""
    from visionquant.bench.fingerprint import measuring_sha256

    project, params = opened()
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
def train(
    network: Annotated[str, typer.Option("--network", help="A row of `training.networks` in params.yaml.")],
    all_folds: Annotated[bool, typer.Option("--all-folds", help="Every fold, not only those of training.run.")] = False,
) -> None:
    """Train a small network on scikit-learn's digits, a fold at a time; a minute or so each."""
    project, params = opened("measure")
    from visionquant.accuracy import digits, training

    known("training.networks", [network], params.training.networks)
    spec = params.training.networks[network]
    data = digits.load(spec.image_size)
    for fold in range(params.training.folds) if all_folds else params.training.run:
        with _interruptible():
            done = training.train(spec, params.training, data, fold)
        training.save(project, network, fold, done.net)
        print(f"{network} fold {fold}: {done.correct} of {done.held_out} held-out images, {done.seconds:.0f} s")


@app.command()
def accuracy(
    network: Annotated[str, typer.Option("--network", help="A row of `training.networks` in params.yaml.")],
    all_folds: Annotated[bool, typer.Option("--all-folds", help="Every fold, not only those of training.run.")] = False,
) -> None:
    """Name the held-out images with a trained network in every precision of the study."""
    project, params = opened("measure")
    from visionquant.accuracy import evaluation
    from visionquant.records import predictions

    known("training.networks", [network], params.training.networks)
    folds = tuple(range(params.training.folds)) if all_folds else params.training.run
    found = evaluation.evaluate(project, params, network, folds, machine_of(params))
    path = predictions.write(project, found)
    right = {
        name: sum(a == b for a, b in zip(one.classes, found.labels, strict=True))
        for name, one in found.precisions.items()
    }
    counted = ", ".join(f"{name} {count}" for name, count in right.items())
    print(f"{path.relative_to(project.root)}: right of {len(found.labels)}: {counted}")


@app.command()
def judge() -> None:
    """Ask the models that have pretrained weights for the labels of evaluation.images, in every precision."""
    project, params = opened("measure")
    from visionquant.records import labelled

    if params.evaluation.images is None:
        found = labelled.write_off(project, params.study.models)
    else:
        from visionquant.accuracy import pretrained

        found = pretrained.judge(project, params, machine_of(params), print)
    for why in sorted(set(found.missing.values())):
        print(f"not judged, {sum(one == why for one in found.missing.values())} models: {why}")


@app.command()
def record(
    platform: Annotated[str, typer.Option("--platform", help="A name for this machine, e.g. rtx-4090.")],
    partial: Annotated[bool, typer.Option("--partial", help="Though pairs of the study are missing.")] = False,
) -> None:
    """Pack what this machine measured into data/recorded, with hashes, for a pull request."""
    from visionquant.records import archive

    project, params = opened("write")
    folder = archive.pack(project, params, platform, partial)
    count = len(archive.manifest_of(folder).files)
    print(f"{folder.relative_to(project.root)}: {count} records and a manifest")


@app.command()
def aa(
    model: Models = None,
    precision: Precisions = None,
    protocol: Annotated[str | None, typer.Option(help="A row of `protocols`; the study's if none.")] = None,
    again: Again = False,
) -> None:
    """Measure at least 20 cells twice: how many does the verdict call different, and how fine can this machine tell?"""
    project, params = opened("measure")
    from visionquant.analysis import aa_shift
    from visionquant.analysis import study as evidence
    from visionquant.bench import aa_test

    with _interruptible():
        aa_test.measure(project, params, model, precision, protocol, again, print)
    study = evidence.gather(project, params)
    outcome = aa_shift.judge(study, study.local)
    for line in outcome.lines:
        print(line)
    if not outcome.passed:
        raise StudyError("aa", outcome.text, "end other work on this machine, or use a protocol with more processes")
