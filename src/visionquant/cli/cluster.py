"""A sweep as jobs of a SLURM cluster: submitted, looked at, and gathered into records."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from visionquant.cli.common import verb
from visionquant.core import files, lock, yaml12
from visionquant.core.errors import StudyError, checked
from visionquant.core.paths import Project
from visionquant.settings import params as parameters
from visionquant.settings.params import Params

if TYPE_CHECKING:
    from visionquant.bench.command import Matrix
    from visionquant.bench.executor import Job
    from visionquant.bench.round_tasks import RoundTask
    from visionquant.bench.slurm import Allocation, Slurm, Submission

PROGRAM = (sys.executable, "-c", "from visionquant.cli import main; main()")
POLL_S = 10.0
Tasks = dict[str, "RoundTask"]


def command(options: Mapping[str, Iterable[object]]) -> list[str]:
    """A sweep of this program by itself."""
    given = ((name, str(value)) for name, values in options.items() for value in values)
    return [*PROGRAM, "sweep", *chain.from_iterable(given)]


def allocation(path: Path | None, named: Mapping[str, object]) -> "Allocation":
    """What each task asks of the cluster, from a file if there is one; what is ``named`` goes before it."""
    from visionquant.bench.slurm import Allocation

    raw = yaml12.read(path, str(path)) if path else {}
    if not isinstance(raw, dict):
        raise StudyError(str(path), "no mapping", "write a line NAME: VALUE for each option")
    return checked(Allocation, {**raw, **named}, str(path) if path else "sweep --executor slurm")


def submit(
    project: Project,
    params: Params,
    matrix: "Matrix",
    asked: "Allocation",
    overrides: Sequence[str],
    detach: bool,
) -> None:
    """Submit what lacks; unless it is to ``detach``, wait for it and write the records.

    Weights are made available here, where there is a network; what this host is counts nowhere.
    """
    from visionquant.bench import loading, round_tasks
    from visionquant.bench.slurm import Slurm, Submission
    from visionquant.weights import checkpoint

    if project.results is None:
        found = "no folder for what the cluster measures"
        raise StudyError("sweep --executor slurm", found, "name one that all nodes see with --results DIR")
    with lock.held(project):
        before = _submission(project) if _path(project).is_file() else None
        if before is None and project.environment.is_file():
            found = f"{project.shown(project.local)} holds what one machine measured"
            raise StudyError("sweep --executor slurm", found, "name another folder with --results DIR")
        known = Slurm(project.root, project.local / "jobs", asked).look(failures=1)
        for model in matrix.models:
            checkpoint.download(project, params, model, loading.agreement)
        tasks = round_tasks.tasks_of(project, params, matrix)
        now = Submission(
            allocation=asked,
            models=matrix.models,
            precisions=matrix.precisions,
            batch_sizes=matrix.batch_sizes,
            overrides=tuple(overrides),
            jobs={},
        )
        earlier = {name: jobs[-1:] for name, jobs in before.jobs.items()} if before else {}
        under_way = {name: list(jobs) for name, jobs in earlier.items() if name in tasks and jobs[0].id in known}
        faults = _run(project, now, _lacking(project, tasks), under_way, 0 if detach else float("inf"))
        if detach:
            print(f"{len(_lacking(project, tasks))} of {len(tasks)} tasks are submitted; see `visionquant jobs`")
        else:
            _collect(project, params, tasks, faults)


def take(project: Project, params: Params, matrix: "Matrix", number: int) -> None:
    """Round ``number`` of the model of ``matrix``: what a task runs."""
    from visionquant.bench import one_round, round_tasks
    from visionquant.bench.command import Command
    from visionquant.cli.progress import Lines

    if len(matrix.models) > 1:
        raise StudyError("sweep --round", f"{len(matrix.models)} models", "name one with --model")
    tasks = round_tasks.tasks_of(project, params, matrix)
    task = next((task for task in tasks.values() if task.number == number), None)
    if task is None:
        raise StudyError(f"sweep --round {number}", f"the protocol has {len(tasks)} rounds", "name one of them")
    with Lines() as lines:
        taken = one_round.take(project, params, task, Command(lines))
    print(f"{task.name}: {'measured' if taken else 'was there'}")


def refuse(project: Project) -> None:
    """Let nothing be measured here among what a cluster measured. StudyError: it was."""
    if _path(project).is_file():
        found = f"{project.shown(project.local)} holds what a cluster measured"
        raise StudyError("sweep", found, "add --executor slurm, or name another folder with --results")


def collect(project: Project) -> None:
    """Write the records of all tasks that left theirs; StudyError: some did not."""
    with lock.held(project):
        params, _, tasks = _opened(project)
        _collect(project, params, tasks, {})


@verb("write")
def jobs(project: Project, params: Params) -> None:
    """Say how far the tasks of `sweep --executor slurm --detach` are; what was lost is submitted again.

    Settings are those that they were submitted under. Exit code 1 where a task failed in all its attempts.
    """
    from visionquant.bench import slurm

    _, submission, tasks = _opened(project)
    lacking = _lacking(project, tasks)
    executor = _slurm(project, submission)
    executor.look(failures=1)
    faults = _run(project, submission, lacking, submission.jobs, slurm.ABSENT)
    submission, known, lacking = _submission(project), executor.look(failures=1), _lacking(project, tasks)
    for name in lacking:
        tries = submission.jobs.get(name, [])
        state = faults.get(name) or known.get(tries[-1].id if tries else "", "not listed").lower()
        print(f"{name}: {state}; attempt {len(tries)} of {submission.allocation.attempts}")
    print(f"{len(tasks) - len(lacking)} of {len(tasks)} tasks measured; `visionquant sweep --collect` writes records")
    _require(faults, tasks)


def _path(project: Project) -> Path:
    return project.local / "jobs.json"


def _submission(project: Project) -> "Submission":
    from visionquant.bench.slurm import Submission

    return files.load(_path(project), Submission, "run `visionquant sweep --executor slurm` first")


def _opened(project: Project) -> tuple[Params, "Submission", Tasks]:
    """What was submitted, and the settings that it was submitted under."""
    from visionquant.bench import round_tasks
    from visionquant.bench.command import Matrix

    kept = _submission(project)
    params = parameters.load(project, kept.overrides)
    matrix = Matrix.of(params, kept.models, kept.precisions, kept.batch_sizes)
    return params, kept, round_tasks.tasks_of(project, params, matrix)


def _slurm(project: Project, submission: "Submission") -> "Slurm":
    from visionquant.bench.slurm import Slurm

    return Slurm(project.root, project.local / "jobs", submission.allocation)


def _lacking(project: Project, tasks: Tasks) -> Tasks:
    from visionquant.bench import round_tasks

    return {name: task for name, task in tasks.items() if round_tasks.task_fault(project, task)}


def _run(
    project: Project, submission: "Submission", tasks: Tasks, jobs: dict[str, list["Job"]], polls: float
) -> dict[str, str]:
    """Submit ``tasks``, or wait for the ``jobs`` that they have; every change is written down."""
    from visionquant.bench import executor as executors
    from visionquant.bench import round_tasks

    jobs = {name: list(of) for name, of in jobs.items()}
    options: dict[str, Iterable[object]] = {
        "--precision": submission.precisions,
        "--batch-size": submission.batch_sizes,
        "--set": submission.overrides,
        "--results": [project.local],
    }
    commands = {
        name: command({"--model": task.matrix.models, "--round": [task.number], **options})
        for name, task in tasks.items()
    }

    def keep() -> None:
        files.save(_path(project), submission.model_copy(update={"jobs": jobs}), indent=1)

    keep()
    executor = _slurm(project, submission)
    return executors.run(
        executor,
        commands,
        lambda name: round_tasks.task_fault(project, tasks[name]),
        tell=print,
        poll_s=POLL_S,
        attempts=submission.allocation.attempts,
        jobs=jobs,
        keep=keep,
        polls=polls,
    )


def _collect(project: Project, params: Params, tasks: Tasks, faults: Mapping[str, str]) -> None:
    from visionquant.bench import round_tasks
    from visionquant.cli.progress import line

    lacking = {name: round_tasks.task_fault(project, task) for name, task in tasks.items()}
    lacking = {name: faults.get(name, why) for name, why in lacking.items() if why}
    done = [task for name, task in tasks.items() if name not in lacking]
    for record in round_tasks.collect(project, params, done, whole=not lacking):
        print(line(record))
    if simulated := sorted({str(found.node) for task in done if (found := round_tasks.record_of(task)).simulated}):
        print(f"nodes that one host plays: {', '.join(simulated)}; these times mean nothing")
    _require(lacking, tasks)


def _require(faults: Mapping[str, str], tasks: Tasks) -> None:
    for name, why in faults.items():
        found = f"{len(faults)} of {len(tasks)} tasks left no valid record, e.g. {name}: {why}"
        raise StudyError("sweep --executor slurm", found, "`visionquant jobs`, or the same sweep, goes on")
