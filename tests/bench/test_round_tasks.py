"""Tasks of one round: what each leaves, what counts, and the one record that rounds become; then a sweep of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import pytest
import tiny
from scripted_slurm import ScriptedSlurm

from visionquant import cli
from visionquant.bench import executor, one_round, round_tasks, slurm
from visionquant.bench.command import Command, Matrix
from visionquant.bench.round_tasks import RoundTask
from visionquant.cli import cluster
from visionquant.core import machine
from visionquant.core.errors import MachineMismatch, StudyError
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.records import record as records
from visionquant.records.cell import Cell
from visionquant.settings import params as parameters
from visionquant.settings.params import Params
from visionquant.weights import checkpoint

Study = tuple[Project, Params, Matrix]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two rounds of a model at batch size 1, one at 2, in FP32 and BF16."""
    raw = tiny.settings(("tiny-vit",), ("fp32", "bf16"))
    raw["protocols"]["tiny"] |= {"rounds_of_batches": 1, "blocks": 1}
    project, params = tiny.project(tmp_path, raw)
    project = Project(tmp_path, results=tmp_path / "cluster")
    checkpoint.download(project, params, "tiny-vit")
    return project, params, Matrix.of(params)


def tasks(study: Study) -> list[RoundTask]:
    return list(round_tasks.tasks_of(*study).values())


def take(study: Study, task: RoundTask, **told: Any) -> bool:
    return one_round.take(study[0], study[1], task, Command(tiny.observer(**told)))


def left(study: Study) -> list[str]:
    return sorted(path.name for path in (study[0].local / "tasks").iterdir())


def test_rounds_taken_apart_are_one_record_of_all(study: Study) -> None:
    project, params, matrix = study
    first, second = tasks(study)
    assert [task.matrix.batch_sizes for task in (first, second)] == [(1, 2), (1,)]
    assert take(study, second)
    assert round_tasks.task_fault(project, first) == "no record"
    assert take(study, first)
    assert not take(study, first)
    assert left(study) == sorted([first.name, second.name])
    assert not round_tasks.record_of(first).simulated
    for record in round_tasks.collect(project, params, [second, first], whole=True):
        cells = {cell.batch_size: cell for cell in record.cells}
        assert {size: cell.planned for size, cell in cells.items()} == {1: 2, 2: 1}
        assert [one.number for one in cells[1].rounds] == [*range(1, len(cells[1].rounds) + 1)]
        assert {cell.status for cell in record.cells} <= tiny.MEASURED
        assert cells[1].memory is not None
    assert executor.record_fault(project, params, matrix) == ""
    assert not archive.local(project, params).missing  # pages read it as any other


def test_of_two_runs_of_a_task_one_leaves_its_record(study: Study) -> None:
    task, ran = tasks(study)[1], []

    def meanwhile(model: str) -> None:
        if not ran:
            ran.append(model)
            assert take(study, task)

    assert not take(study, task, preparing=meanwhile)
    assert ran
    assert round_tasks.task_fault(study[0], task) == ""
    assert left(study) == [task.name]


def test_what_fails_leaves_nothing(study: Study) -> None:
    def fail(model: str) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        take(study, tasks(study)[1], preparing=fail)
    assert left(study) == []


def test_the_first_task_declares_the_machine_and_another_one_is_refused(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, second = study[0], tasks(study)[1]
    machine.declare(project, machine.probe("cpu").model_copy(update={"cpu": "Another CPU"}))
    with pytest.raises(MachineMismatch, match=r"this node has cpu .* \(not Another CPU\); choose nodes of one kind"):
        take(study, second)
    assert left(study) == []
    project.environment.unlink()
    assert take(study, second)
    assert machine.declared(project) == machine.probe("cpu")
    machine.declare(project, machine.probe("cpu").model_copy(update={"cpu": "Another CPU"}))
    assert "is of another machine than the set: cpu" in round_tasks.task_fault(project, second)


def test_a_record_counts_only_whole_and_for_what_was_asked(study: Study) -> None:
    project, params, matrix = study
    task = tasks(study)[1]
    take(study, task)
    path = task.samples("bf16")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert round_tasks.task_fault(project, task).startswith("tiny-vit-bf16.json.gz is missing or altered: remove ")
    with pytest.raises(StudyError, match="missing or altered"):
        take(study, task)
    path.write_bytes(whole)
    assert round_tasks.task_fault(project, task) == ""
    changed = params.protocol.model_copy(update={"slot_passes": 3})
    other = params.model_copy(update={"protocols": {**params.protocols, "tiny": changed}})
    assert not {task.name for task in tasks((project, other, matrix))} & {task.name for task in tasks(study)}
    kept = task.folder / "task.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "id": "0"}))
    assert round_tasks.task_fault(project, task).startswith("the record of another task")


def test_a_cell_that_failed_in_one_round_says_so_and_keeps_the_others(study: Study) -> None:
    ok = made.cell(1, [[1.0], [2.0]])
    failed = Cell(batch_size=1, status="out_of_memory", reason="2 GiB")
    parts = [made.record("vit-base-224-production", "fp32", cells) for cells in ((failed,), (ok,), (ok,))]
    (cell,) = round_tasks.merged(parts, study[1].protocol).cells
    assert (cell.status, cell.reason, cell.memory) == ("out_of_memory", "2 GiB", ok.memory)
    assert [one.number for one in cell.rounds] == [1, 2, 3, 4]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str], str]]:
    """A command in a checkout of one model in FP32, of two rounds, with results elsewhere: code, lines, stderr."""
    raw = tiny.settings(("tiny-vit",), ("fp32",))
    raw["study"]["batch_sizes"] = [1]
    raw["protocols"]["tiny"] |= {"blocks": 1}
    tiny.project(tmp_path, raw)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "PAUSE_S", 0.0)
    monkeypatch.setattr(cluster, "POLL_S", 0.0)

    def run(*words: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.argv", ["visionquant", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), out.splitlines(), err

    return run


SWEEP = ("sweep", "--all-models", "--all-precisions", "--executor", "slurm", "--results", "cluster")


def test_a_detached_sweep_is_looked_at_and_collected(
    command: Callable[..., tuple[int, list[str], str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is lost and its task submitted again; another fails as often as it may, and is named."""
    scripted = ScriptedSlurm(tmp_path / "slurm", monkeypatch, ["PENDING", "RUNNING," * 9])
    (tmp_path / "lab.yaml").write_text("partition: gpu\nattempts: 5\n")
    options = ("--allocation", "lab.yaml", "--attempts", "2", "--minutes", "9.5", "--detach")
    code, out, err = command(*SWEEP, *options)
    assert (code, out, err) == (0, ["2 of 2 tasks are submitted; see `visionquant jobs`"], "")
    assert {"--partition=gpu", "--time=10"} <= {*scripted.words(1)}
    scripted.plan("RUNNING," * 9)
    code, out, err = command("jobs", "--results", "cluster")
    assert (code, err) == (0, "")
    assert out[0].endswith("no record; its log is empty; submitted again")
    assert [line.partition(": ")[2] for line in out[1:3]] == ["running; attempt 2 of 2", "running; attempt 1 of 2"]
    assert out[3].startswith("0 of 2 tasks measured")
    for job in (2, 3):
        (scripted.folder / f"{job}.states").write_text("RUN\n" if job == 3 else "")
    scripted.plan("TIMEOUT")
    code, out, err = command("jobs", "--results", "cluster")
    assert (code, [line.partition(": ")[2] for line in out[:2]]) == (
        0,
        ["measured", "no record; its log is empty; submitted again"],
    )
    code, out, err = command("jobs", "--results", "cluster")
    assert code == 1
    assert "1 of 2 tasks left no valid record, e.g. tiny-vit-2-" in err
    code, out, err = command("sweep", "--collect", "--results", "cluster")
    assert (code, len(out)) == (1, 2)
    assert out[0].startswith("tiny-vit fp32 (seeded weights)  1: ")
    assert out[1] == "nodes that one host plays: n1; these times mean nothing"
    assert "e.g. tiny-vit-2-" in err
    code, out, err = command(*SWEEP)  # it goes on with what lacks
    assert (code, err) == (0, "")
    assert scripted.submitted == 5
    project = Project(tmp_path, results=tmp_path / "cluster")
    (cell,) = records.read(project.record("tiny-vit", "fp32")).cells
    assert [one.number for one in cell.rounds][:2] == [1, 2]
    assert executor.record_fault(project, parameters.load(project), Matrix.of(parameters.load(project))) == ""
    assert not (tmp_path / "data" / "machines").exists()  # the host that submits is no machine of the study
    code, out, err = command("sweep", "--all-models", "--all-precisions", "--results", "cluster")
    assert (code, err.count("holds what a cluster measured")) == (1, 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (SWEEP[:5], "name one that all nodes see with --results DIR"),
        ((*SWEEP, "--again"), "it takes neither --again"),
        ((*SWEEP[:3], "--gres", "gpu:1"), "options of a cluster; add --executor slurm"),
        ((*SWEEP, "--allocation", "bad.yaml"), "bad.yaml: partitions: "),
        ((*SWEEP, "--allocation", "none.yaml"), "none.yaml"),
        (SWEEP, "squeue: not installed here"),
        (("jobs",), "run `visionquant sweep --executor slurm` first"),
        (("sweep", "--collect"), "run `visionquant sweep --executor slurm` first"),
        (("sweep", "--model", "tiny-vit", "--all-precisions", "--round", "9", "--results", "x"), "tiny-vit"),
    ],
)
def test_what_a_cluster_can_not_do_is_one_line(
    command: Callable[..., tuple[int, list[str], str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    says: str,
) -> None:
    (tmp_path / "bad.yaml").write_text("partitions: gpu\n")
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = command(*words)
    assert code == 1
    assert says in err
    assert err.count("\n") == 1
