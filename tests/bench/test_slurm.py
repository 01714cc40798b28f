"""Jobs of a scripted SLURM: what is asked of it, and what each course of a job comes to, records deciding alone."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_slurm import ScriptedSlurm

from visionquant.bench import executor, slurm
from visionquant.bench.executor import Job
from visionquant.bench.slurm import Allocation, Slurm
from visionquant.core.errors import StudyError

Swept = Callable[..., tuple[dict[str, str], list[str], list[Job]]]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "PAUSE_S", 0.0)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedSlurm:
    return ScriptedSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def swept(tmp_path: Path) -> Swept:
    """Run one task of a command, whose record is a file: faults, what was said, its jobs."""

    def run(
        command: str = "touch record", attempts: int = 2, **given: float
    ) -> tuple[dict[str, str], list[str], list[Job]]:
        said: list[str] = []
        jobs: dict[str, list[Job]] = {}
        made = Slurm(tmp_path, tmp_path / "logs", Allocation(attempts=attempts))
        faults = executor.run(
            made,
            {"task": ("sh", "-c", command)},
            lambda task: "" if (tmp_path / "record").exists() else "no record",
            said.append,
            0.0,
            attempts,
            jobs,
            **given,
        )
        return faults, said, jobs["task"]

    return run


def test_a_task_has_a_node_for_itself_and_what_the_options_ask(scripted: ScriptedSlurm, tmp_path: Path) -> None:
    asked = Allocation(partition="gpu", account="lab", constraint="a100", gres="gpu:1", cpus=8, minutes=30, parallel=2)
    made = Slurm(tmp_path, tmp_path / "logs", asked)
    jobs = [made.submit(("echo", "it's")) for _ in range(3)]
    assert [job.id for job in jobs] == ["1", "2", "3"]
    words = scripted.words(1)
    assert {"--exclusive", "--requeue", "--nodes=1", "--partition=gpu", "--account=lab", "--gres=gpu:1"} <= {*words}
    assert {"--constraint=a100", "--cpus-per-task=8", "--time=30", f"--chdir={tmp_path}"} <= {*words}
    names = [word for job in (1, 2, 3) for word in scripted.words(job) if word.startswith("--job-name")]
    assert names[0] == names[2] != names[1]  # of one name one runs at a time
    assert "--dependency=singleton" in words
    assert made.poll(jobs[0]) != "queued"
    assert made.log(jobs[0]) == "it's\n"


def test_without_a_limit_jobs_wait_for_none(scripted: ScriptedSlurm, tmp_path: Path) -> None:
    Slurm(tmp_path, tmp_path / "logs", Allocation()).submit(("true",))
    assert not [word for word in scripted.words(1) if "singleton" in word]


@pytest.mark.parametrize(
    ("plan", "jobs"),
    [
        (["RUN"], 1),
        (["PENDING,CONFIGURING,RUNNING,RUN"], 1),
        (["RUNNING,PREEMPTED,PENDING,RUNNING,RUN"], 1),  # queued again by SLURM
        (["RUNNING,COMPLETING,REQUEUED,PENDING,RUN"], 1),
        (["RUN,COMPLETING,COMPLETING,COMPLETING,COMPLETING"], 1),  # an epilogue without end
        (["RUNNING,NODE_FAIL", "RUN"], 2),
        (["RUNNING,TIMEOUT", "PENDING,RUN"], 2),
        (["RUNNING", "RUN"], 2),  # lost
        (["PENDING:launch failed requeued held," * 4, "RUN"], 2),
        (["PENDING:JobHeldUser,PENDING:JobHeldUser,PENDING:JobHeldUser,PENDING:JobHeldUser,RUN"], 1),
    ],
)
def test_whatever_becomes_of_a_job_its_task_ends_with_one_record(
    scripted: ScriptedSlurm, swept: Swept, plan: list[str], jobs: int
) -> None:
    scripted.plan(*plan)
    faults, said, submitted = swept()
    assert (faults, said[-1], len(submitted)) == ({}, "task: measured", jobs)
    assert scripted.submitted == jobs
    assert not scripted.asked_for_accounting


def test_a_job_that_is_held_or_does_not_complete_is_cancelled_before_another(
    scripted: ScriptedSlurm, swept: Swept
) -> None:
    scripted.plan("PENDING:launch failed requeued held," * 9, "COMPLETING," * 9, "RUN")
    assert swept(attempts=3)[0] == {}
    assert scripted.cancelled == ["1", "2"]


def test_what_a_job_says_of_itself_proves_nothing(swept: Swept, scripted: ScriptedSlurm) -> None:
    assert swept("touch record; echo broken; exit 1")[0] == {}
    (scripted.folder.parent / "record").unlink()
    faults, said, jobs = swept("echo all done")
    assert faults == {"task": "no record; all done"}
    assert said == ["task: no record; all done; submitted again", "task: no record; all done"]
    assert len(jobs) == 2


def test_a_controller_that_does_not_answer_for_a_while_loses_no_job(scripted: ScriptedSlurm, swept: Swept) -> None:
    scripted.plan("RUNNING,RUNNING,RUN")
    scripted.down(slurm.FAILURES - 1)
    assert swept()[0] == {}
    assert scripted.submitted == 1


def test_one_that_answers_no_more_is_named_and_jobs_go_on(scripted: ScriptedSlurm, swept: Swept) -> None:
    scripted.down(slurm.FAILURES)
    with pytest.raises(StudyError, match=r"^squeue: .*Unable to contact slurm controller"):
        swept()
    assert scripted.cancelled == []


def test_an_interruption_cancels_and_a_refused_job_is_named(
    scripted: ScriptedSlurm,
    swept: Swept,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(self: Slurm, job: Job) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Slurm, "poll", interrupt)
    with pytest.raises(KeyboardInterrupt):
        swept()
    assert scripted.cancelled == ["1"]
    scripted.refuse("sbatch: error: invalid partition specified: gpu")
    with pytest.raises(StudyError, match="sbatch: sbatch: error: invalid partition specified: gpu; correct"):
        swept()


def test_so_many_looks_and_no_more(scripted: ScriptedSlurm, swept: Swept) -> None:
    scripted.plan("RUNNING," * 9)
    assert swept(polls=2)[:2] == ({}, [])
    assert scripted.cancelled == []


def test_without_slurm_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    submit = functools.partial(Slurm(tmp_path, tmp_path / "logs", Allocation()).submit, ("true",))
    with pytest.raises(StudyError, match="sbatch: not installed here; run this where jobs are submitted"):
        submit()
