"""Jobs of a SLURM cluster, by its own commands: sbatch, squeue and scancel.

Not by submitit: it learns a job's state from accounting alone, so that on a cluster without accounting one that was
lost is waited for without end, and it pickles what it runs. Without its states, results and pickles one call of
sbatch is left. A job that was preempted or whose node failed is queued again by SLURM itself, under the same number.
"""

import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from visionquant.bench.executor import Job, State
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Count, Frozen
from visionquant.records.record import sha256_of

ABSENT = 3  # answers of squeue, one after the other, in which a job that has ended is not found
FAILURES = 30  # calls of squeue, one after the other, that may fail: the controller may be starting anew
QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT")
PAUSE_S, CALL_S = 5.0, 60.0  # between two calls of squeue at least; for an answer


class Allocation(Frozen):
    """What each task asks of the cluster, ``minutes`` at most; ``parallel`` tasks at once, None for no limit.

    Each is submitted ``attempts`` times at most. A node is never shared.
    """

    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    gres: str | None = None
    cpus: Count | None = None
    minutes: Count = 60
    parallel: Count | None = None
    attempts: Count = 3

    @property
    def words(self) -> list[str]:
        """As options of sbatch."""
        named = {name: getattr(self, name) for name in ("partition", "account", "constraint", "gres")}
        named |= {"cpus-per-task": self.cpus, "time": self.minutes}
        return [f"--{name}={value}" for name, value in named.items() if value is not None]


class Submission(Frozen):
    """What was submitted, under which settings, and of each task its jobs so far, the last one last."""

    allocation: Allocation
    models: tuple[str, ...]
    precisions: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    overrides: tuple[str, ...]
    jobs: dict[str, list[Job]]


class Slurm:
    """Commands as jobs, each alone on a node, begun in ``root``; what they write goes to files in ``folder``.

    Of jobs with one name SLURM runs one at a time: ``parallel`` names keep to that limit when nobody watches.
    """

    def __init__(self, root: Path, folder: Path, asked: Allocation) -> None:
        self._root, self._folder, self._asked = root, folder, asked
        self._name = f"visionquant-{sha256_of(str(folder))[:6]}"
        self._submitted, self._looks, self._failures = 0, 0, 0
        self._listed: dict[str, str] = {}
        self._looked_s = -PAUSE_S
        self._seen = Counter[str]()  # in which look a job was last found queued or running

    def submit(self, command: Sequence[str]) -> Job:
        """StudyError: SLURM is not here, or does not take it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        words = [f"--chdir={self._root}", f"--output={self._folder}/%j.log", "--open-mode=append", "--parsable"]
        words += ["--requeue", "--exclusive", "--mem=0", "--nodes=1", "--ntasks=1", *self._asked.words]
        if self._asked.parallel:
            words += [f"--job-name={self._name}-{self._submitted % self._asked.parallel}", "--dependency=singleton"]
        else:
            words += [f"--job-name={self._name}"]
        text = _call("sbatch", *words, f"--wrap=exec {shlex.join(command)}")
        self._submitted += 1
        job = Job(text.strip().partition(";")[0], tuple(command))
        self._seen[job.id] = self._looks
        return job

    def poll(self, job: Job) -> State:
        """StudyError: squeue failed ``FAILURES`` times, one after the other."""
        if time.monotonic() - self._looked_s >= PAUSE_S:
            self.look()
        state = self._listed.get(job.id)
        if state in (*QUEUED, *RUNNING):
            self._seen[job.id] = self._looks
            return "queued" if state in QUEUED else "running"
        if self._looks - self._seen.setdefault(job.id, self._looks - 1) < ABSENT:
            return "running"
        if state is not None:  # held, or its node does not answer: it may hold up others
            self.cancel(job)
        return "ended"

    def cancel(self, job: Job) -> None:
        try:
            _call("scancel", job.id)
        except StudyError:  # it has ended, or SLURM can't be asked: the records tell
            return

    def log(self, job: Job) -> str:
        path = self._folder / f"{job.id}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def look(self, failures: int = FAILURES) -> dict[str, str]:
        """The state of each of this user's jobs that squeue knows, by number; the last ones where it fails."""
        self._looked_s = time.monotonic()
        try:
            text = _call("squeue", "--me", "--noheader", "--format=%i|%T|%r")
        except StudyError:
            self._failures += 1
            if self._failures >= failures:
                raise
            return self._listed
        self._failures = 0
        self._looks += 1
        rows = [line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2]
        self._listed = {name: "HELD" if "held" in why and state == "PENDING" else state for name, state, why in rows}
        return self._listed


def _call(*words: str) -> str:
    """What one of SLURM's commands answers. StudyError: it is not here, fails, or does not answer."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=CALL_S,
        )
    except FileNotFoundError:
        raise StudyError(words[0], "not installed here", "run this where jobs are submitted to SLURM") from None
    except subprocess.TimeoutExpired:
        raise StudyError(words[0], f"no answer in {CALL_S:.0f} s", "run the same command again later") from None
    if done.returncode:
        found = done.stderr.strip() or f"exit code {done.returncode}"
        raise StudyError(words[0], found, "correct what it names, or run the same command again later")
    return done.stdout
