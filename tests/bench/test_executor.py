"""Commands run by an executor: order, ends, logs, cancelling, and records as the only proof that one has worked."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import made
import pytest
import tiny

from visionquant import cli
from visionquant.bench import executor, pair_fingerprint
from visionquant.bench.command import Matrix
from visionquant.bench.executor import Job, Local, State
from visionquant.cli import cluster
from visionquant.core import files
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.settings.params import Params
from visionquant.weights.sources import Manifest

MODELS = ("tiny-vit", "tiny-deit", "tiny-beit")


def parts(params: Params) -> dict[str, Matrix]:
    """Of each model its part of the study."""
    return {part.models[0]: part for part in Matrix.of(params, MODELS, ["fp32"], [1]).by_model()}


@pytest.fixture
def study(tmp_path: Path) -> tuple[Project, Params]:
    return tiny.project(tmp_path, tiny.settings(MODELS, ("fp32",)))


class Scripted:
    """Polls of a job give its command's ``states`` in turn; once it has ended, ``work`` does what it would.

    ``work`` is given the command and returns the log; ``cancelled`` are the jobs that were.
    """

    def __init__(
        self, states: Mapping[tuple[str, ...], Sequence[State]], work: Callable[[tuple[str, ...]], str]
    ) -> None:
        self._states, self._work = {command: list(given) for command, given in states.items()}, work
        self._logs: dict[Job, str] = {}
        self.cancelled: list[Job] = []

    def submit(self, command: Sequence[str]) -> Job:
        return Job(" ".join(command), tuple(command))

    def poll(self, job: Job) -> State:
        if states := self._states.get(job.command):
            return states.pop(0)
        if job not in self._logs:
            self._logs[job] = self._work(job.command)
        return "ended"

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job)

    def log(self, job: Job) -> str:
        return self._logs.get(job, "")


def run(study: tuple[Project, Params], scripted: Scripted, tell: Callable[[str], None] = str) -> dict[str, str]:
    """By commands that are their models' names."""
    of = parts(study[1])
    return executor.run(
        scripted, {model: (model,) for model in of}, lambda model: executor.record_fault(*study, of[model]), tell, 0.0
    )


def leave(study: tuple[Project, Params], model: str, batch_sizes: Sequence[int] = (1,), **changed: object) -> None:
    """A record as a command of this code leaves one, from some other machine."""
    project, params = study
    manifest = Manifest(model=model, weights="seeded", source="made up", config_sha256="0")
    files.save(project.manifest(model), manifest)
    asked = executor.blank(project, params, (model, "fp32"), manifest, made.CPU)
    cells = tuple(made.cell(size, [[1.0] * 3] * 2) for size in batch_sizes)
    made.write(project.record(model, "fp32"), asked.model_copy(update={"cells": cells, **changed}))


def test_a_study_is_measured_where_every_job_left_its_records(study: tuple[Project, Params]) -> None:
    """However long a job was queued, and whatever its log says."""
    said: list[str] = []

    def work(command: tuple[str, ...]) -> str:
        leave(study, command[0])
        return "Segmentation fault"

    states: dict[tuple[str, ...], list[State]] = {
        ("tiny-vit",): ["queued", "queued", "running"],
        ("tiny-beit",): ["running"],
    }
    scripted = Scripted(states, work)
    assert run(study, scripted, said.append) == {}
    assert said == ["tiny-deit: measured", "tiny-beit: measured", "tiny-vit: measured"]


def test_a_job_without_its_records_is_named_with_its_logs_last_line(study: tuple[Project, Params]) -> None:
    def work(command: tuple[str, ...]) -> str:
        if command[0] == "tiny-deit":
            return "begins\nvisionquant: data/.lock: process 7 is measuring here\n"
        leave(study, command[0], batch_sizes=(2,) if command[0] == "tiny-beit" else (1,))
        return ""

    scripted = Scripted({}, work)
    assert run(study, scripted) == {
        "tiny-deit": "tiny-deit-fp32: no record; visionquant: data/.lock: process 7 is measuring here",
        "tiny-beit": "tiny-beit-fp32: batch sizes 1 are missing; its log is empty",
    }
    assert scripted.cancelled == []


def test_records_of_other_settings_code_or_weights_prove_nothing(study: tuple[Project, Params]) -> None:
    project, params = study
    part = parts(params)["tiny-vit"]
    leave(study, "tiny-vit")
    assert executor.record_fault(project, params, part) == ""
    other = params.protocol.model_copy(update={"rounds": 8})
    with_other = params.model_copy(update={"protocols": {**params.protocols, "tiny": other}})
    assert executor.record_fault(project, with_other, part) == "tiny-vit-fp32: recorded under other settings: protocol"
    changed = pair_fingerprint.state(project.root, params.precisions["fp32"]).model_copy(
        update={"measuring_sha256": "beef" * 16}
    )
    leave(study, "tiny-vit", code=changed)
    assert "measured by other code" in executor.record_fault(project, params, part)
    path = project.record("tiny-vit", "fp32")
    path.write_text(path.read_text()[:-9])
    assert "not JSON" in executor.record_fault(project, params, part)


def test_an_interruption_cancels_what_has_not_ended(study: tuple[Project, Params]) -> None:
    def work(command: tuple[str, ...]) -> str:
        if command[0] == "tiny-deit":
            raise KeyboardInterrupt
        leave(study, command[0])
        return ""

    scripted = Scripted({("tiny-deit",): ["running"], ("tiny-beit",): ["queued", "queued"]}, work)
    with pytest.raises(KeyboardInterrupt):
        run(study, scripted)
    assert [job.command for job in scripted.cancelled] == [("tiny-deit",), ("tiny-beit",)]


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def test_processes_of_this_machine_come_one_after_the_other(tmp_path: Path) -> None:
    local = Local(tmp_path / "logs")
    first = local.submit(python("input()"))  # nothing to read: it raises
    second = local.submit(python("print('second')"))
    while (state := local.poll(second)) != "ended":
        assert state == "queued" or local.poll(first) == "ended"
    assert local.poll(first) == "ended"
    assert "EOFError" in local.log(first)
    assert local.log(second) == "second\n"


PAUSING = python("import signal; print('here', flush=True)\ntry: signal.pause()\nfinally: print('ends')")
DEAF = python(
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('here', flush=True)\nwhile True: signal.pause()"
)


def begun(local: Local, job: executor.Job) -> None:
    """Wait until the job's command runs."""
    while "here" not in local.log(job):
        assert local.poll(job) == "running"


def test_a_process_that_is_cancelled_is_interrupted_and_one_that_is_queued_never_begins(tmp_path: Path) -> None:
    local = Local(tmp_path)
    running, queued = local.submit(PAUSING), local.submit(python("print('never')"))
    begun(local, running)
    local.cancel(queued)
    local.cancel(running)
    assert (local.poll(running), local.poll(queued)) == ("ended", "ended")
    assert "ends" in local.log(running)
    assert "KeyboardInterrupt" in local.log(running)
    assert local.log(queued) == ""
    local.cancel(running)


def test_a_process_that_heeds_no_interruption_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "END_S", 0.1)
    local = Local(tmp_path)
    job = local.submit(DEAF)
    begun(local, job)
    local.cancel(job)
    assert local.poll(job) == "ended"
    assert local._processes[job].returncode == -signal.SIGKILL


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[], Any]:
    """Of a study of one model by a command for it, with a setting and a folder for results: (code, stdout, stderr)."""
    raw = tiny.settings(("tiny-vit",), ("fp32",))
    raw["protocols"]["tiny"] |= {"rounds": 1, "blocks": 1}
    tiny.project(tmp_path, raw)
    words = ("--executor", "local", "--results", str(tmp_path / "elsewhere"), "--set", "study.batch_sizes=[1]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["visionquant", "sweep", "--all-models", "--all-precisions", *words])

    def swept() -> Any:
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code or 0, *capfd.readouterr())

    return swept


def test_a_sweep_by_commands_leaves_records_as_settings_and_folder_were_given(
    sweep: Callable[[], Any], tmp_path: Path
) -> None:
    code, out, err = sweep()
    assert (code, out.splitlines()[1:], err) == (0, ["tiny-vit: measured"], "")
    record = records.read(Project(tmp_path, results=tmp_path / "elsewhere").record("tiny-vit", "fp32"))
    assert [cell.batch_size for cell in record.cells] == [1]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["architectures", "supplement"]


def test_a_sweep_names_the_model_whose_command_left_nothing(
    sweep: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PROGRAM", python("print('begun'); raise SystemExit('broken')"))
    code, out, err = sweep()
    assert (code, out.splitlines()[1:]) == (1, ["tiny-vit: tiny-vit-fp32: no record; broken"])
    assert "1 of 1 models left no valid records, e.g. tiny-vit: tiny-vit-fp32: no record; broken; see the logs" in err
    assert err.count("\n") == 1
