"""Commands that leave verified records, run by an executor: here as processes, on a cluster as its jobs.

A task is a command line that measures one model's group of a matrix, or a round of it: what is compared never comes
from two machines. An executor starts, watches and ends commands and no more: whether one has done its work is told by
the records that it left, never by an exit code or a scheduler's word. How it measures, forks included, is its affair.
"""

import itertools
import math
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from os import getpid
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from visionquant.bench import worker
from visionquant.bench.command import Matrix, blank
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.record import current, stale
from visionquant.settings.params import Params
from visionquant.weights import sources

State = Literal["queued", "running", "ended"]  # a job that the executor does not know any more has ended
END_S = 30.0  # for a command to end when it is interrupted: it writes down what is finished


class Job(NamedTuple):
    """A command that was submitted; ``id`` is the executor's own name of it, text that can be written down."""

    id: str
    command: tuple[str, ...]


class Executor(Protocol):
    """Runs command lines; that a command fails is no error of it."""

    def submit(self, command: Sequence[str]) -> Job:
        """Take a command on, to run now or later."""

    def poll(self, job: Job) -> State:
        """How far a job is."""

    def cancel(self, job: Job) -> None:
        """End a job, or never begin it; one that has ended is left alone."""

    def log(self, job: Job) -> str:
        """What its command has written so far, errors included."""


class Local:
    """Processes of this machine, one at a time, since they time it; what they write goes to files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, itertools.count(1)
        self._queued: list[Job] = []
        self._processes: dict[Job, subprocess.Popen[bytes]] = {}

    def submit(self, command: Sequence[str]) -> Job:
        self._queued.append(Job(str(next(self._numbers)), tuple(command)))
        return self._queued[-1]

    def poll(self, job: Job) -> State:
        running = [begun for begun, process in self._processes.items() if process.poll() is None]
        if self._queued and not running:
            running = [self._queued.pop(0)]
            self._begin(*running)
        return "queued" if job in self._queued else "running" if job in running else "ended"

    def cancel(self, job: Job) -> None:
        if job in self._queued:
            self._queued.remove(job)
        elif (process := self._processes.get(job)) is not None:
            process.send_signal(signal.SIGINT)  # nothing where it has ended
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, job: Job) -> str:
        path = self._folder / f"{job.id}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def _begin(self, job: Job) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        parent = getpid()
        with (self._folder / f"{job.id}.log").open("wb") as log:
            self._processes[job] = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # a terminal's Ctrl-C is for this process, which cancels its jobs
                preexec_fn=lambda: worker.die_with(parent),
            )


def run(
    executor: Executor,
    tasks: Mapping[str, Sequence[str]],
    fault_of: Callable[[str], str],
    tell: Callable[[str], None] = lambda line: None,
    poll_s: float = 1.0,
    attempts: int = 1,
    jobs: dict[str, list[Job]] | None = None,
    keep: Callable[[], None] = lambda: None,
    polls: float = math.inf,
) -> dict[str, str]:
    """Submit the command of each task and wait for all; what is under way is cancelled at an interruption.

    Args:
        fault_of: what is wrong with the records that a task is to leave, e.g. :func:`record_fault`.
        tell: takes a line on each task that has ended.
        attempts: how often a task is submitted at most.
        jobs: of each task those submitted before, the last of which is waited for; new ones are added.
        keep: called at each change of ``jobs``.
        polls: how often every job is looked at, at most.

    Returns of each task that left no valid records in so many attempts what is wrong, and the last line of its log.

    Raises:
        StudyError: the executor can't be asked; what it runs goes on.
    """
    jobs, faults, waiting = {} if jobs is None else jobs, dict[str, str](), dict[str, Job]()

    def submit(task: str) -> None:
        waiting[task] = executor.submit(tasks[task])
        jobs.setdefault(task, []).append(waiting[task])
        keep()

    try:
        for task in tasks:
            if jobs.get(task):
                waiting[task] = jobs[task][-1]
            else:
                submit(task)
        while waiting and polls > 0:
            for task, job in [(task, job) for task, job in waiting.items() if executor.poll(job) == "ended"]:
                del waiting[task]
                fault, again = fault_of(task), ""
                if fault:
                    last = executor.log(job).strip().rpartition("\n")[2]
                    fault = f"{fault}; {last or 'its log is empty'}"
                    if len(jobs[task]) < attempts:
                        submit(task)
                        again = "; submitted again"
                    else:
                        faults[task] = fault
                tell(f"{task}: {fault or 'measured'}{again}")
            polls -= 1
            time.sleep(poll_s if waiting and polls > 0 else 0.0)
    except BaseException as error:
        if not isinstance(error, StudyError):
            for job in waiting.values():
                executor.cancel(job)
        raise
    return faults


def record_fault(project: Project, params: Params, part: Matrix) -> str:
    """Why the records of a part are not all there, of these settings, weights and code; empty where they are.

    The machine is whichever they name: it is the executor's choice. A cell that failed is there.
    """
    for pair in part.pairs:
        name = "-".join(pair)
        try:
            record = current(project.record(*pair))
            if record is None:
                return f"{name}: no record"
            if why := stale(record, params):
                return f"{name}: {why}"
            manifest = sources.manifest_of(project, params, record.model)
        except StudyError as error:
            return str(error)
        if not record.goes_on_as(blank(project, params, pair, manifest, record.environment)):
            return f"{name}: measured by other code, or with other weights"
        if missing := [size for size in part.batch_sizes if record.cell(size) is None]:
            return f"{name}: batch sizes {' '.join(map(str, missing))} are missing"
    return ""
