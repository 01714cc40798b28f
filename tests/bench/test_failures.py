"""What nobody foresaw in one pair is its row, with a traceback in a log; the rest is measured, it is tried again."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny

from visionquant import cli
from visionquant.bench import cell_run, measure, pair_run, pair_worker, plan, reference, replicate, worker
from visionquant.bench.backends.eager import Eager
from visionquant.bench.command import Command, Matrix
from visionquant.core import machine
from visionquant.core.errors import MachineMismatch
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.record import Record
from visionquant.settings import params as parameters
from visionquant.settings.params import Params
from visionquant.weights import checkpoint

PRECISIONS = ("fp32", "nf4")


@pytest.fixture
def study(tmp_path: Path) -> tuple[Project, Params]:
    raw = tiny.settings(("tiny-vit",), PRECISIONS)
    raw["protocols"]["tiny"] |= {"replicates": 1, "iterations": 2, "minimum_iterations": 1}
    project, params = tiny.project(tmp_path, raw)
    machine.declare(project, machine.probe("cpu"))
    checkpoint.download(project, params, "tiny-vit")
    reference.make(project, params, "tiny-vit")
    return project, params


def measured(study: tuple[Project, Params], precisions: tuple[str, ...] = ("nf4",), **more: Any) -> list[Any]:
    """The cells that this call measured anew."""
    new: list[Any] = []
    matrix = Matrix.of(study[1], ["tiny-vit"], precisions, **more)
    measure.measure(*study, matrix, Command(tiny.observer(cell=lambda pair, cell: new.append((pair[1], cell)))))
    return new


def planned(study: tuple[Project, Params]) -> tuple[int, ...]:
    planned = plan.of_study(*study, Matrix.of(study[1], ["tiny-vit"], ["nf4"], [1, 2]))
    return planned[0].batch_sizes if planned else ()


def test_a_replicate_that_breaks_fails_its_cell_alone_and_is_tried_again(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, _ = study
    real = replicate.run

    def breaking(subject: Any, batch_size: int, number: int, position: int) -> Any:
        if batch_size == 1:
            raise KeyError("surprise")
        return real(subject, batch_size, number, position)

    with monkeypatch.context() as patch:
        patch.setattr(replicate, "run", breaking)
        (_, broken), (_, other) = measured(study)
    assert (broken.batch_size, broken.status) == (1, "failed")
    assert broken.reason == "KeyError: 'surprise'; traceback in data/machines/local/failures/tiny-vit-nf4.log"
    assert other.status in tiny.MEASURED
    log = project.root / "data/machines/local" / "failures" / "tiny-vit-nf4.log"
    assert log.read_text().startswith("Traceback (most recent call last):\n")
    assert "in breaking" in log.read_text()
    before = records.read(project.record("tiny-vit", "nf4"))
    assert planned(study) == (1,)
    assert measured(study, batch_sizes=[2]) == []  # and what is not asked for is not lost
    assert records.read(project.record("tiny-vit", "nf4")) == before
    assert [cell.batch_size for _, cell in measured(study)] == [1]
    after = records.read(project.record("tiny-vit", "nf4"))
    assert (after.failure, after.cell(2)) == ("", before.cell(2))
    assert planned(study) == ()
    assert not log.exists()


@pytest.mark.parametrize("dies", [False, True], ids=["raises", "dies"])
def test_a_pair_that_breaks_leaves_the_other_of_its_turns(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    real = Eager.prove

    def breaking(self: Eager, model: Any, precision: Any, device: str) -> Any:
        if precision.method == "bitsandbytes_nf4":
            if dies:
                os._exit(1)
            raise TypeError("a shape\nthat nobody foresaw")
        return real(self, model, precision, device)

    monkeypatch.setattr(Eager, "prove", breaking)
    found = measured(study, PRECISIONS)
    assert [(cell.batch_size, cell.status) for name, cell in found if name == "nf4"] == [(1, "failed"), (2, "failed")]
    assert all(cell.status in tiny.MEASURED for name, cell in found if name == "fp32")
    line = "the process ended with code 1 and no answer" if dies else "TypeError: a shape; "
    assert all(cell.reason.startswith(line) for name, cell in found if name == "nf4")
    record = records.read(study[0].record("tiny-vit", "nf4"))
    assert record.conversion is None
    assert record.failure.startswith(line)


def test_a_model_that_does_not_load_fails_all_its_pairs_and_the_next_model_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny.settings(("tiny-deit", "tiny-vit"), ("fp32",))
    raw["study"]["batch_sizes"] = [1]
    project, params = tiny.project(tmp_path, raw)
    from visionquant.bench import loading

    real = loading.load

    def breaking(project: Project, model: str, *arguments: Any) -> Any:
        if model == "tiny-deit":
            raise TypeError("a config that nobody foresaw")
        return real(project, model, *arguments)

    found: list[Record] = []
    matrix, command = Matrix.of(params), Command(tiny.observer(pair=found.append))
    with monkeypatch.context() as patch:
        patch.setattr(loading, "load", breaking)
        assert measure.sweep(project, params, matrix, command)
    assert [record.cells[0].status == "failed" for record in found] == [True, False]
    reason = "FP32: TypeError: a config that nobody foresaw; traceback in data/machines/local/failures/tiny-deit.log"
    assert found[0].cells[0].reason == reason
    assert "in breaking" in project.failure("tiny-deit").read_text()
    assert reference.read(project, "tiny-deit").failed
    found.clear()
    assert measure.sweep(project, params, matrix, command)
    assert [record.failure for record in found] == ["", ""]
    assert not project.failure("tiny-deit").exists()


def test_what_is_wrong_with_the_machine_ends_the_study(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any) -> Any:
        raise MachineMismatch("study.device", "no such card", "buy one")

    monkeypatch.setattr(Eager, "prove", refusing)
    with pytest.raises(MachineMismatch, match=r"study\.device: no such card; buy one"):
        measured(study)
    assert not study[0].record("tiny-vit", "nf4").exists()


def test_a_pair_that_can_not_be_converted_is_not_prepared_again_at_every_call(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory and unsupported are results: plan and measuring agree that there is nothing to do."""

    def starving(*_: Any) -> Any:
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(Eager, "convert", starving)
        assert [cell.status for _, cell in measured(study)] == ["out_of_memory", "out_of_memory"]
    before = study[0].record("tiny-vit", "nf4").read_bytes()
    assert planned(study) == ()
    with monkeypatch.context() as patch:
        patch.setattr(pair_worker, "serve", lambda *_: pytest.fail("prepared again"))
        assert measured(study) == []
    assert study[0].record("tiny-vit", "nf4").read_bytes() == before
    assert [cell.status in tiny.MEASURED for _, cell in measured(study, again=True)] == [True, True]


def test_a_replicate_that_hangs_is_ended_and_fails_its_cell_alone(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traceback says where; the pair's own process goes on, and the next run tries the cell again."""
    project, _ = study
    real, patience_s = replicate.run, pair_run.patience_s

    def hanging(subject: Any, batch_size: int, number: int, position: int) -> Any:
        if batch_size == 1:
            while True:
                signal.pause()
        return real(subject, batch_size, number, position)

    with monkeypatch.context() as patch:
        patch.setattr(replicate, "run", hanging)
        patch.setattr(
            pair_run,
            "patience_s",
            lambda protocol, size, pass_s: 0.5 if size == 1 else patience_s(protocol, size, pass_s),
        )
        (_, hung), (_, other) = measured(study)
    assert (hung.batch_size, hung.status) == (1, "failed")
    assert hung.reason == (
        "no answer in 0.5 s, so the process was ended; traceback in data/machines/local/failures/tiny-vit-nf4.log"
    )
    assert "in hanging" in project.failure("tiny-vit-nf4").read_text()
    assert other.status in tiny.MEASURED
    assert [cell.batch_size for _, cell in measured(study)] == [1]


def test_a_replicate_gets_far_more_time_than_the_protocol_gives_it(study: tuple[Project, Params]) -> None:
    params = parameters.load(Project(tiny.ROOT))
    for name, protocol in params.protocols.items():
        foreseen_s = cell_run.spent_s(protocol, 0.1)
        assert 600 <= pair_run.patience_s(protocol, 1, 0.1) < 7200, name
        assert pair_run.patience_s(protocol, 1, 0.1) > 5 * foreseen_s / protocol.replicates
        assert pair_run.patience_s(protocol, 1, None) > cell_run.spent_s(protocol, 20.0) / protocol.replicates
    slow = params.protocol.model_copy(update={"limit_s": 1000.0})
    assert pair_run.patience_s(slow, 1, 0.1) > 20 * 1000.0


def test_the_exit_code_says_at_the_end_that_pairs_failed(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    project, _ = study
    raw = tiny.settings(("tiny-vit",), PRECISIONS)
    raw["protocols"]["tiny"] |= {"replicates": 1, "iterations": 2, "minimum_iterations": 1}
    raw["study"]["batch_sizes"] = [1]
    raw["precisions"]["nf4"]["skip"] = ["layers", "layer", "encoder", "pooler"]
    tiny.write_settings(project.root, raw)
    monkeypatch.chdir(project.root)

    def code_of(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr("sys.argv", ["visionquant", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return (caught.value.code or 0, *capfd.readouterr())

    code, _, err = code_of("sweep", "--all-models", "--all-precisions")
    assert code == 3
    assert err.startswith(
        "visionquant: 1 of 2 pairs failed: each row says why, tracebacks are in data/machines/local/failures; the next"
    )
    assert err.count("\n") == 1
    assert records.read(project.record("tiny-vit", "fp32")).cells[0].status in tiny.MEASURED
    code, out, err = code_of("measure", "--model", "tiny-vit", "--precision", "nf4")
    assert code == 3
    assert "1: failed; precision bitsandbytes_nf4: no Linear layer was quantised, of 13 in the model; shorten" in out
    assert err.count("\n") == 1
    assert code_of("measure", "--model", "tiny-vit", "--precision", "nf4", "--keep-going")[0] == 0
    code, out, _ = code_of("summary")
    assert code == 3
    assert "1 failed" in out


def test_a_kind_of_mistake_survives_the_way_between_processes() -> None:
    def task() -> None:
        raise MachineMismatch("study.device", "no such card", "buy one")

    with pytest.raises(MachineMismatch, match=r"study\.device: no such card; buy one"):
        worker.in_fork(task)


def test_a_defect_has_a_line_and_a_traceback() -> None:
    def task() -> None:
        worker.in_fork(lambda: {}["surprise"])

    with pytest.raises(worker.Defect, match="Traceback") as caught:
        worker.in_fork(task)
    assert caught.value.line == "KeyError: 'surprise'"
