"""One pair from settings to record, on a tiny network, with real forks and real files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny

from visionquant.bench import reference
from visionquant.core import machine
from visionquant.core.errors import CodeChanged, MachineMismatch, StudyError
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.cell import Cell
from visionquant.settings.params import Params, parse
from visionquant.weights import checkpoint


@pytest.fixture
def study(tmp_path: Path) -> tuple[Project, Params]:
    project, params = tiny.project(tmp_path, tiny.settings(("tiny-vit",), ("fp32", "fp16", "int8", "nf4")))
    ready(project, params)
    return project, params


def ready(project: Project, params: Params) -> None:
    machine.declare(project, machine.probe(params.study.device))
    for model in params.study.models:
        checkpoint.download(project, params, model)
        reference.make(project, params, model)


def changed(raw: dict[str, Any] | None = None, **protocol: Any) -> Params:
    raw = raw or tiny.settings(("tiny-vit",), ("fp32", "fp16", "int8", "nf4"))
    raw["protocols"]["tiny"] |= protocol
    return parse(raw)


def measured_sizes(project: Project, params: Params, precision: str = "nf4", **more: Any) -> list[int]:
    """Batch sizes that this call measured anew."""
    new: list[int] = []
    tiny.measure(project, params, "tiny-vit", precision, cell=lambda _, cell: new.append(cell.batch_size), **more)
    return new


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "nf4"])
def test_a_record_holds_what_the_protocol_asked_for(study: tuple[Project, Params], precision: str) -> None:
    project, params = study
    record = tiny.measure(project, params, "tiny-vit", precision)
    assert records.read(project.record("tiny-vit", precision)) == record
    assert [cell.batch_size for cell in record.cells] == [1, 2]
    for cell in record.cells:
        assert cell.status in tiny.MEASURED
        assert len(cell.replicates) == params.protocol.replicates
        assert sum(len(one.wall_ms) for one in cell.replicates) == params.protocol.iterations
        assert all(len(one.warmup_ms) == params.protocol.warmup_iterations for one in cell.replicates)
        assert all(one.gpu_ms is None for one in cell.replicates)
        for one in cell.replicates:
            assert one.throughput is not None
            assert one.throughput.images == 2 * cell.batch_size
        assert cell.memory is not None
        assert record.size is not None
        assert cell.memory.stored_weights == record.size.stored_weights
        assert cell.memory.allocated_after is None
    assert record.settings.weights.kind == "seeded"
    assert record.fidelity is not None
    assert record.fidelity.images == 4
    assert not project.progress("tiny-vit", precision).exists()
    if precision in ("int8", "nf4"):
        assert record.conversion is not None
        assert record.conversion.quantized_modules > 0


def test_a_finished_pair_is_left_alone_and_again_measures_it_anew(study: tuple[Project, Params]) -> None:
    project, params = study
    assert measured_sizes(project, params) == [1, 2]
    before = project.record("tiny-vit", "nf4").read_bytes()
    assert measured_sizes(project, params) == []
    assert project.record("tiny-vit", "nf4").read_bytes() == before
    assert measured_sizes(project, params, again=True) == [1, 2]


def test_only_a_missing_batch_size_is_measured(study: tuple[Project, Params]) -> None:
    project, params = study
    measured_sizes(project, params)
    raw = tiny.settings(("tiny-vit",), ("nf4",))
    raw["study"]["batch_sizes"] = [1, 2, 3]
    assert measured_sizes(project, parse(raw)) == [3]
    raw["study"]["batch_sizes"] = [3]
    before = project.record("tiny-vit", "nf4").read_bytes()
    assert measured_sizes(project, parse(raw)) == []
    assert project.record("tiny-vit", "nf4").read_bytes() == before  # a size that is not asked for is not lost


def test_a_setting_changed_and_changed_back_is_measured_anew(study: tuple[Project, Params]) -> None:
    project, params = study
    measured_sizes(project, params)
    other = changed(iterations=8)
    assert measured_sizes(project, other) == [1, 2]
    assert measured_sizes(project, params) == [1, 2]


def test_a_run_that_breaks_keeps_the_old_record_and_the_finished_cells(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, params = study
    measured_sizes(project, params)
    old = project.record("tiny-vit", "nf4").read_bytes()
    other = changed(iterations=8)

    def interrupted(pair: tuple[str, str], cell: Cell) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.measure(project, other, "tiny-vit", "nf4", cell=interrupted)
    assert project.record("tiny-vit", "nf4").read_bytes() == old
    assert measured_sizes(project, other) == [2]


def test_a_killed_process_loses_only_the_cell_in_flight(study: tuple[Project, Params]) -> None:
    project, _ = study
    raw = tiny.settings(("tiny-vit",), ("nf4",))
    raw["protocols"]["tiny"] |= {"iterations": 200, "minimum_iterations": 1}
    raw["study"]["batch_sizes"] = [1, 64]
    tiny.write_settings(project.root, raw)
    params = parse(raw)
    command = "from visionquant.cli import main; main()"
    arguments = ["measure", "--model", "tiny-vit", "--precision", "nf4"]
    with subprocess.Popen([sys.executable, "-c", command, *arguments], cwd=project.root) as running:
        progress = project.progress("tiny-vit", "nf4")
        while running.poll() is None and not (progress.exists() and records.under_way(progress).record.cells):
            time.sleep(0.05)  # however long a machine at work takes
        os.kill(running.pid, signal.SIGKILL)
    assert [cell.batch_size for cell in records.under_way(progress).record.cells] == [1]
    assert not project.record("tiny-vit", "nf4").exists()
    kept = records.under_way(progress).record.cells[0]
    raw["study"]["batch_sizes"] = [1]
    record = tiny.measure(project, parse(raw), "tiny-vit", "nf4", cell=lambda *_: pytest.fail("measured again"))
    assert record.cells == (kept,)
    assert params.study.batch_sizes == (1, 64)


def test_a_broken_record_is_named_and_not_overwritten(study: tuple[Project, Params]) -> None:
    project, params = study
    path = project.record("tiny-vit", "nf4")
    path.parent.mkdir(parents=True)
    path.write_text('{"schema_version": 1, "model"')
    with pytest.raises(StudyError, match=r"tiny-vit-nf4\.json: broken: not JSON"):
        measured_sizes(project, params)
    assert path.read_text() == '{"schema_version": 1, "model"'


def test_another_machine_than_the_declared_one_is_refused(study: tuple[Project, Params]) -> None:
    project, params = study
    declared = json.loads(project.environment.read_text())
    project.environment.write_text(json.dumps({**declared, "cpu": "Another CPU", "torch": "1.0"}))
    with pytest.raises(MachineMismatch, match=r"Another CPU.*torch .*run `visionquant environment`"):
        measured_sizes(project, params)
    assert not project.record("tiny-vit", "nf4").exists()


def test_a_reference_of_other_settings_is_refused(study: tuple[Project, Params]) -> None:
    project, _ = study
    with pytest.raises(StudyError, match="visionquant reference --model tiny-vit"):
        measured_sizes(project, changed(seed=5))


def test_code_that_changes_under_way_writes_no_record(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, params = study
    from visionquant.bench import pair_fingerprint

    edited = {**pair_fingerprint.AT_IMPORT, "visionquant/bench/clock.py": b"HALF = 11"}
    monkeypatch.setattr(pair_fingerprint, "modules", lambda: edited)
    with pytest.raises(CodeChanged, match="run the same command again"):
        measured_sizes(project, params)
    assert not project.record("tiny-vit", "nf4").exists()
    assert not project.progress("tiny-vit", "nf4").exists()


def test_outputs_that_are_not_finite_are_a_row_with_a_reason(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, params = study
    from visionquant.bench.backends.eager import Eager

    real = Eager.convert

    def overflowing(*arguments: Any) -> Any:
        converted = real(*arguments)
        converted.layernorm.weight.data.fill_(float("inf"))
        return converted

    monkeypatch.setattr(Eager, "convert", overflowing)
    record = tiny.measure(project, params, "tiny-vit", "fp16")
    assert {cell.status for cell in record.cells} == {"non_finite"}
    assert all("NaN" in cell.reason and cell.replicates for cell in record.cells)
    assert record.fidelity is not None
    assert record.fidelity.nan_count > 0
    assert record.fidelity.cosine is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError("no memory"), "out_of_memory"),
        (NotImplementedError("\"rms\" not implemented for 'Half'"), "unsupported"),
    ],
)
def test_a_model_that_cannot_be_converted_is_a_row_with_a_reason(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    project, params = study
    from visionquant.bench.backends.eager import Eager

    def failing(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(Eager, "convert", failing)
    record = tiny.measure(project, params, "tiny-vit", "int8")
    assert [(cell.batch_size, cell.status) for cell in record.cells] == [(1, status), (2, status)]
    assert all(str(error) in cell.reason for cell in record.cells)


def test_what_was_measured_outlives_a_later_failure(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, params = study
    from visionquant.bench.backends.eager import Eager

    before = tiny.measure(project, params, "tiny-vit", "int8")

    def failing(*_: Any) -> Any:
        raise MemoryError("no memory")

    monkeypatch.setattr(Eager, "convert", failing)
    after = tiny.measure(project, params, "tiny-vit", "int8", [1, 2, 3])
    assert after.cells[:2] == before.cells
    assert (after.cells[2].batch_size, after.cells[2].status) == (3, "out_of_memory")


def test_without_a_reference_a_pair_is_timed_all_the_same(study: tuple[Project, Params]) -> None:
    project, params = study
    made = reference.read(project, "tiny-vit")
    why = "FP32: the process was killed (signal 9), as the kernel does when memory runs out"
    without = reference.Reference(made.identity, None, "", None, why)
    project.reference("tiny-vit").write_bytes(reference._packed(without))
    assert reference.read(project, "tiny-vit") == without
    reference.make(project, params, "tiny-vit")  # up to date, so left alone
    record = tiny.measure(project, params, "tiny-vit", "nf4")
    assert record.fidelity is None
    assert len(record.cells) == 2
    assert {cell.status for cell in record.cells} <= tiny.MEASURED


def test_again_begins_anew_with_facts_and_elapsed_time(study: tuple[Project, Params]) -> None:
    project, params = study
    first = tiny.measure(project, params, "tiny-vit", "nf4")
    record = first.model_copy(update={"elapsed_s": 1e6})
    records.write(project.record("tiny-vit", "nf4"), record)
    assert tiny.measure(project, params, "tiny-vit", "nf4", [2], again=True).elapsed_s > 1e6
    assert tiny.measure(project, params, "tiny-vit", "nf4", again=True).elapsed_s < 1e6


def test_a_folder_that_cannot_be_written_is_one_line_before_any_timing(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, params = study
    (project.root / "data/machines/local" / "progress").write_text("a file where the folder should be")
    with pytest.raises(StudyError, match=r"data/machines/local/progress/tiny-vit-nf4\.json: .*run again"):
        measured_sizes(project, params)
