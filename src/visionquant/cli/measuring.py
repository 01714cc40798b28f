"""The verbs that measure, and those that prepare for it."""

import json
import math
import operator
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

import visionquant.cli.common as common
from visionquant.cli.common import machine_of, verb
from visionquant.core import files, machine, processors
from visionquant.core.paths import Project
from visionquant.records import outcomes
from visionquant.records import record as records
from visionquant.settings.params import Params, known
from visionquant.weights import sources as weights
from visionquant.weights.package import Compare

if TYPE_CHECKING:
    from visionquant.bench.sampling import Outcome

Platform = Annotated[str, typer.Option("--platform", help="A name for this machine, e.g. rtx-4090.")]
Partial = Annotated[bool, typer.Option("--partial", help="Though pairs of the study are missing.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Stop once every pair at batch size 1 has so many rounds.")]
Retry = Annotated[bool, typer.Option("--retry", help="Try again what was busy, out of memory or failed.")]
Minutes = Annotated[float, typer.Option(min=0, help="Stop after so long, exit code 75; the same command goes on.")]
TIME_IS_UP = 75  # an exit code


@verb("write")
def environment(project: Project, params: Params) -> None:
    """Write what this machine is, what sets its speed, and what lies behind each model's weights now.

    Limits of the instruction set (ATEN_CPU_CAPABILITY and the like) are part of it, though ONNX Runtime and
    bitsandbytes read the processor itself and ignore them.
    """
    here = machine_of(params)
    machine.declare(project, here)
    files.save(project.sources, json.dumps(weights.sources(project, params), indent=1) + "\n")
    print(f"{here.device}: {here.title}\nspeed: {here.speed}")


@verb("write")
def download(project: Project, params: Params, model: common.Model) -> None:
    """Fetch the weights of one model at their pinned revision or sha256, or say that they are seeded or missing."""
    from visionquant.weights import checkpoint

    known("models", [model], params.models)
    compare: Compare | None = None
    if params.models[model].package is not None:
        from visionquant.bench import loading

        compare = loading.agreement
    manifest = checkpoint.download(project, params, model, compare)
    found = manifest.provenance
    known_of = f"{found.agreement}; {found.note}" if found else manifest.reason
    print(f"{model}: {manifest.weights}, {manifest.source}" + (f" ({known_of})" if known_of else ""))


@verb("measure")
def sample(
    project: Project,
    params: Params,
    model: common.Models = None,
    precision: common.Precisions = None,
    batch_size: common.BatchSizes = None,
    again: common.Again = False,
    retry: Retry = False,
    rounds: Rounds = None,
    minutes: Minutes = math.inf,
) -> None:
    """Take the samples that are missing, round after round; all of the study by default.

    A precision is sampled together with FP32 and the placebo, so that its ratios cross no two runs.
    """
    from visionquant.bench import sampling
    from visionquant.bench.command import Command, Matrix
    from visionquant.cli.progress import Lines

    matrix = Matrix.of(params, model, precision, batch_size, again)
    with Lines() as lines:
        command = Command(lines, until_s=time.monotonic() + 60 * minutes, rounds=rounds, retry=retry)
        outcome = sampling.sample(project, params, matrix, command)
    tell(project, params, outcome)
    require_time(outcome, minutes, command.until_s)


def tell(project: Project, params: Params, outcome: "Outcome") -> None:
    """Say how much was measured, what waits for another run, and what helps where a core is taken."""
    nothing = "nothing was measured: all samples are there" + (" that this machine gives now" if outcome.wait else "")
    print(f"{outcome.rounds} rounds measured" if outcome.rounds else f"{nothing}; --again takes them anew")
    if not outcome.wait:
        return
    (model, precision, size), why = next(iter(outcome.wait.items()))
    waits = f"{len(outcome.wait)} cells wait for a quieter machine, e.g. {model} {precision} at batch size {size}"
    print(f"{waits} ({why}): `make repro` or `visionquant sweep` tries them again")
    cores, busy = processors.usable(), any("busy" in why for why in outcome.wait.values())
    if busy and cores > 1 and params.protocol.threads is None and machine.declared(project).device == "cpu":
        trap = "where a program keeps a core, as many threads as cores make a pass 20 to 100 times as long"
        print(f"{trap}; --set protocols.{params.study.protocol}.threads={cores - 1} leaves it one")


def require_time(outcome: "Outcome", minutes: float, until_s: float) -> None:
    """End with ``TIME_IS_UP`` where the time was over before all was measured."""
    if not outcome.complete and time.monotonic() >= until_s:
        print(f"visionquant: {minutes:g} minutes are over; the same command goes on from here", file=sys.stderr)
        raise SystemExit(TIME_IS_UP)


@verb("write")
def measure(
    project: Project,
    params: Params,
    model: common.Models = None,
    precision: common.Precisions = None,
    keep_going: common.KeepGoing = False,
) -> None:
    """Check the samples of pairs and write their records; all that were sampled by default.

    Exit code 3 where a cell failed unexpectedly.
    """
    from visionquant.cli.progress import line

    known("models", model or (), params.models)
    known("precisions", precision or (), params.precisions)
    named = bool(model or precision)
    pairs = [(one, other) for one in model or params.study.models for other in precision or params.study.precisions]
    pairs = [pair for pair in pairs if named or project.samples(*pair).is_file()]
    for pair in pairs:
        print(line(records.write(project.record(*pair))))
    if not keep_going:
        common.require_none_failed(project, pairs)


@verb("read")
def plan(
    project: Project,
    params: Params,
    model: common.Models = None,
    precision: common.Precisions = None,
    batch_size: common.BatchSizes = None,
) -> None:
    """Say what a run would sample: rounds and batch sizes that fit study.minutes, time, memory; measures nothing."""
    from visionquant.bench import plan as plans
    from visionquant.bench.command import Matrix

    planned = plans.foreseen(project, params, Matrix.of(params, model, precision, batch_size))
    print("\n".join([*(one.text for one in planned), plans.summary(planned)]))


@verb("measure")
def train(project: Project, params: Params, network: common.Network, all_folds: common.AllFolds = False) -> None:
    """Train a small network on real images, a fold at a time: on digits a minute or so each, on clothes up to 30."""
    from visionquant.accuracy import training

    known("training.networks", [network], params.training.networks)
    spec = params.training.networks[network]
    data = training.load(project, spec)
    for fold in training.folds_of(spec, params.training, all_folds):
        done = training.train(spec, params.training, data, fold)
        training.save_trained(project, network, fold, done.net)
        print(f"{network} fold {fold}: {done.correct} of {done.held_out} held-out images, {done.seconds:.0f} s")


@verb("measure")
def evaluate(project: Project, params: Params, network: common.Network, all_folds: common.AllFolds = False) -> None:
    """Classify the held-out images with a trained network in every precision of the study."""
    from visionquant.accuracy import evaluation, training

    known("training.networks", [network], params.training.networks)
    folds = training.folds_of(params.training.networks[network], params.training, all_folds)
    scores = evaluation.evaluate_trained(project, params, network, folds, machine_of(params))
    path, labels = outcomes.write_scores(project, scores), scores.labels
    counted = (f"{name} {sum(map(operator.eq, row.classes, labels))}" for name, row in scores.precisions.items())
    print(f"{project.shown(path)}: right of {len(labels)}: {', '.join(counted)}")


@verb("measure")
def probe(project: Project, params: Params, model: common.Models = None) -> None:
    """Classify Fashion-MNIST by features of models with trained weights, by default evaluation.probe.models."""
    from visionquant.accuracy import probe as probes

    for name in model or params.evaluation.probe.models:
        found = probes.evaluate(project, params, name, machine_of(params), print)
        for precision, why in found.missing.items():
            print(f"{name} {precision}: not evaluated: {why}")


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
    from visionquant.records import archive

    folder = archive.record(project, params, platform, partial)
    print(f"{project.shown(folder)}: {len(archive.set_manifest(folder).files)} files and a manifest")
