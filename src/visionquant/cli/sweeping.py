"""`sweep`: many pairs without DVC, here, by commands of their own, or as jobs of a cluster."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import visionquant.cli.cluster as cluster
import visionquant.cli.common as common
from visionquant.cli.measuring import Minutes, require_time, tell
from visionquant.core import lock
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.settings.params import Params

if TYPE_CHECKING:
    from visionquant.bench.command import Matrix

RUNS = 3  # tries of what waits for a quieter machine
Cluster = Annotated[str | None, typer.Option(rich_help_panel="With --executor slurm")]
Number = Annotated[int | None, typer.Option(min=1, rich_help_panel="With --executor slurm")]


@common.app.command()
def sweep(
    model: common.Models = None,
    precision: common.Precisions = None,
    batch_size: common.BatchSizes = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="Every model of study.models.")] = False,
    all_precisions: Annotated[bool, typer.Option("--all-precisions", help="Every one of study.precisions.")] = False,
    again: common.Again = False,
    minutes: Minutes = math.inf,
    executor: Annotated[
        Literal["local", "slurm"] | None,
        typer.Option(help="Measure by commands of their own: a model each here, a round of a model each on a cluster."),
    ] = None,
    partition: Cluster = None,
    account: Cluster = None,
    constraint: Cluster = None,
    gres: Cluster = None,
    cpus: Number = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Tasks at once, at most.")] = None,
    attempts: Annotated[int | None, typer.Option(min=1, help="Submit a task so often, at most.")] = None,
    allocation: Annotated[Path | None, typer.Option(help="A YAML file of these options, minutes too.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Submit and leave; `visionquant jobs` looks.")] = False,
    collect: Annotated[bool, typer.Option("--collect", help="Records from what a cluster's tasks left.")] = False,
    one_round: Annotated[int | None, typer.Option("--round", min=1, help="A cluster's task: this round alone.")] = None,
    overrides: common.Overrides = None,
    results: common.Results = None,
) -> None:
    """Measure many pairs without DVC, e.g. `visionquant sweep --all-models --all-precisions`.

    Exit code 3: all was tried, and a pair failed unexpectedly; its row says why.
    """
    from visionquant.bench import plan as plans
    from visionquant.bench.command import Matrix

    project, params = common.opened("submit", overrides, results)
    if collect:
        cluster.collect(project)
        return
    models = common.chosen("model", model, all_models)
    precisions = common.chosen("precision", precision, all_precisions)
    matrix = Matrix.of(params, models, precisions, batch_size, again)
    named = {"partition": partition, "account": account, "constraint": constraint, "gres": gres, "cpus": cpus}
    named |= {"parallel": parallel, "attempts": attempts}
    asked = {name: value for name, value in named.items() if value is not None}
    if executor != "slurm" and (asked or allocation or detach):
        raise StudyError("sweep", "options of a cluster", "add --executor slurm")
    if executor and (again or (executor == "local" and minutes < math.inf)):
        raise StudyError("sweep --executor", "it takes neither --again nor, here, --minutes", "leave them out")
    if one_round is not None:
        cluster.take(project, params, matrix, one_round)
        return
    if executor == "slurm":
        asked |= {"minutes": math.ceil(minutes)} if minutes < math.inf else {}
        cluster.submit(project, params, matrix, cluster.allocation(allocation, asked), overrides or (), detach)
        common.require_none_failed(project, matrix.pairs)
        return
    cluster.refuse(project)
    common.machine_of(params)
    if executor == "local":
        print(f"plan: {plans.summary(plans.foreseen(project, params, matrix))}")
        minutes_each = params.study.minutes and params.study.minutes / len(matrix.models)
        shares = [*(overrides or ()), f"study.minutes={json.dumps(minutes_each)}"]
        _submit(project, params, matrix, {"--set": shares, "--results": [results] if results else ()})
    else:
        _measure_here(project, params, matrix, minutes)
    common.require_none_failed(project, matrix.pairs)


def _measure_here(project: Project, params: Params, matrix: "Matrix", minutes: float) -> None:
    """Weights, samples and records; what waits for a quieter machine is tried in three runs, with --minutes in one."""
    from visionquant.bench import sampling
    from visionquant.bench.command import Command
    from visionquant.cli.progress import Lines, line

    until_s, rounds = time.monotonic() + 60 * minutes, 0
    with lock.held(project):
        for run in range(RUNS if minutes == math.inf else 1):
            with Lines() as lines:
                outcome = sampling.sweep(project, params, matrix, Command(lines, until_s=until_s, retry=run > 0))
            matrix, rounds = replace(matrix, again=False), rounds + outcome.rounds
            if not outcome.wait:
                break
        tell(project, params, outcome._replace(rounds=rounds))
        for pair in matrix.pairs:
            if project.samples(*pair).is_file():
                print(line(records.write(project.record(*pair))))
    require_time(outcome, minutes, until_s)


def _submit(project: Project, params: Params, matrix: "Matrix", options: dict[str, Sequence[object]]) -> None:
    """Measure each model by a command that an executor runs, and say which of them left no valid records."""
    from visionquant.bench import executor as executors

    logs = project.local / "jobs"
    parts = {part.models[0]: part for part in matrix.by_model()}
    options = {"--precision": matrix.precisions, "--batch-size": matrix.batch_sizes, **options}
    tasks = {model: cluster.command({"--model": [model], **options}) for model in parts}

    def fault_of(model: str) -> str:
        return executors.record_fault(project, params, parts[model])

    faults = executors.run(executors.Local(logs), tasks, fault_of, print)
    for model, why in faults.items():
        failed = f"{len(faults)} of {len(tasks)} models left no valid records, e.g. {model}: {why}"
        raise StudyError("sweep --executor", failed, f"see the logs in {project.shown(logs)}, then run it again")
