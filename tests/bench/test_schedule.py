"""Pairs that take turns: seeded order, positions and times in the record, a stop rule, a machine that moves."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import tiny

from visionquant.bench import cell_run, measure, pair_worker, reference, reference_kernel, worker
from visionquant.bench.command import Command, Matrix
from visionquant.core import machine
from visionquant.core.paths import Project
from visionquant.records import record
from visionquant.records.cell import Cell, Sentinel
from visionquant.records.record import Record
from visionquant.settings.params import Params, parse
from visionquant.weights import checkpoint
from visionquant.weights.sources import HubFile, Manifest

PRECISIONS = ("fp32", "int8", "nf4")


@pytest.fixture(autouse=True)
def steady_sentinel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise so wide that no test machine is called unsteady."""
    monkeypatch.setattr(
        reference_kernel, "calibrate", lambda device, protocol: ((0.1, None), (1.0, None), (10.0, None))
    )


def study(root: Path, **protocol: Any) -> tuple[Project, Params]:
    root.mkdir(exist_ok=True)
    raw = tiny.settings(("tiny-vit",), PRECISIONS)
    raw["protocols"]["tiny"] |= {"replicates": 3, "iterations": 12, **protocol}
    return tiny.project(root, raw)


def matrix(params: Params, *batch_sizes: int) -> Matrix:
    return Matrix.of(params, ["tiny-vit"], PRECISIONS, batch_sizes)


def swept(project: Project, params: Params) -> list[Record]:
    found: list[Record] = []
    measure.sweep(project, params, matrix(params), Command(tiny.observer(pair=found.append)))
    return found


def turns(records: list[Record], batch_size: int) -> list[str]:
    """Precisions by position."""
    seen = [
        (one.position, record.precision)
        for record in records
        for found in [record.cell(batch_size)]
        if found
        for one in found.replicates
    ]
    return [precision for _, precision in sorted(seen)]


def test_replicates_of_a_models_pairs_take_turns_in_seeded_order(tmp_path: Path) -> None:
    records = swept(*study(tmp_path / "a"))
    order = turns(records, 1)
    assert len(order) == 9
    for first in (0, 3, 6):  # every round has each precision once
        assert sorted(order[first : first + 3]) == sorted(PRECISIONS)
    assert [order[i : i + 3] for i in (0, 3, 6)] != [list(PRECISIONS)] * 3
    assert order == turns(swept(*study(tmp_path / "b")), 1)
    assert order != turns(swept(*study(tmp_path / "c", seed=4)), 1) or turns(records, 2) != order
    found = records[0].cell(1)
    assert found is not None
    assert found.interleaved_with == {"int8", "nf4"}
    times = sorted((one.position, one.started_at) for record in records for c in record.cells for one in c.replicates)
    assert len({position for position, _ in times}) == 18
    assert [time for _, time in times] == sorted(time for _, time in times)


def test_a_pair_alone_is_interleaved_with_nothing(tmp_path: Path) -> None:
    project, params = study(tmp_path)
    ready(project, params)
    assert {found.interleaved_with for found in tiny.measure(project, params, "tiny-vit", "fp32").cells} == {
        frozenset()
    }


def ready(project: Project, params: Params) -> None:
    machine.declare(project, machine.probe("cpu"))
    checkpoint.download(project, params, "tiny-vit")
    reference.make(project, params, "tiny-vit")


def test_pairs_that_do_not_fit_into_memory_together_come_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Manifest(model="vit-base-224-production", weights="seeded", source="", config_sha256="")
    assert measure._groups(Project(tiny.ROOT), model, PRECISIONS) == [["fp32", "int8", "nf4"]]
    monkeypatch.setattr(measure.host, "available_bytes", lambda: 2**30)  # three times 0.32 GiB are more than half
    assert measure._groups(Project(tiny.ROOT), model, PRECISIONS) == [["fp32"], ["int8"], ["nf4"]]


def test_without_committed_counts_the_files_of_a_model_say_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, _ = tiny.project(tmp_path)
    file = HubFile(name="model.safetensors", bytes=7 * 2**30, sha256="0")
    manifest = Manifest(model="mine", weights="pretrained", source="", files=(file,), config_sha256="")
    monkeypatch.setattr("visionquant.bench.host.available_bytes", lambda: 30 * 2**30)
    assert measure._groups(project, manifest, PRECISIONS) == [["fp32"], ["int8"], ["nf4"]]
    pair_worker._require_memory(project, manifest)
    monkeypatch.setattr("visionquant.bench.host.available_bytes", lambda: 2**30)
    with pytest.raises(worker.Failed, match=r"foreseen: weights of 7\.0 GiB, 1\.0 GiB free"):
        pair_worker._require_memory(project, manifest)


def test_time_that_is_up_keeps_replicates_and_the_next_run_goes_on(tmp_path: Path) -> None:
    project, params = study(tmp_path)
    assert not measure.sweep(project, params, matrix(params), Command(until_s=0.0))
    assert not list((project.local / "latency").glob("*"))
    seen: list[tuple[str, int]] = []

    def in_the_middle(pair: tuple[str, str], course: cell_run.CellRun) -> None:
        seen.append((pair[1], len(course.runs)))
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure.sweep(project, params, matrix(params), Command(tiny.observer(replicate=in_the_middle)))
    again: list[tuple[str, int]] = []
    observer = tiny.observer(replicate=lambda pair, course: again.append((pair[1], len(course.runs))))
    measure.sweep(project, params, matrix(params, 1), Command(observer))
    assert not set(seen) & set(again)  # no replicate was measured twice
    assert len(list((project.local / "latency").glob("*.json"))) == 3


def test_replicates_of_one_batch_size_outlive_a_run_of_another(tmp_path: Path) -> None:
    project, params = study(tmp_path)
    ready(project, params)

    def interrupted(pair: tuple[str, str], course: cell_run.CellRun) -> None:
        raise KeyboardInterrupt

    for batch_size in (2, 1):
        with pytest.raises(KeyboardInterrupt):
            tiny.measure(project, params, "tiny-vit", "fp32", [batch_size], replicate=interrupted)
    progress = [record.under_way(path) for path in (project.local / "progress").glob("*.json")]
    assert sorted(pending.batch_size for one in progress for pending in one.pending if pending.runs) == [1, 2]
    seen: list[int] = []
    tiny.measure(project, params, "tiny-vit", "fp32", replicate=lambda pair, course: seen.append(len(course.runs)))
    assert seen == [2, 2]  # the first of three was there in both cells


def test_a_goal_adds_processes_until_the_interval_is_narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that all take a millisecond, however busy this machine is, then its own times."""
    project, params = study(tmp_path, goal=0.9, most_replicates=12, replicates=2, iterations=24)
    ready(project, params)
    real = cell_run.CellRun.add

    def steady(self: cell_run.CellRun, run: Any) -> Cell | None:
        replicate = run.replicate.model_copy(update={"wall_ms": (1.0, 1.0)})
        return real(self, run.model_copy(update={"replicate": replicate}))

    with monkeypatch.context() as patch:
        patch.setattr(cell_run.CellRun, "add", steady)
        found = tiny.measure(project, params, "tiny-vit", "fp32", [1]).cells[0]
    assert (found.stopped_by, len(found.replicates)) == ("goal", 2 + cell_run.AFTER_GOAL)
    raw = tiny.settings(("tiny-vit",), PRECISIONS)
    raw["protocols"]["tiny"] |= {"replicates": 2, "most_replicates": 4, "goal": 1e-9, "iterations": 8}
    strict = parse(raw)
    reference.make(project, strict, "tiny-vit")
    found = tiny.measure(project, strict, "tiny-vit", "fp32", [1]).cells[0]
    assert (found.stopped_by, len(found.replicates)) == ("count", 4)
    raw["protocols"]["tiny"] |= {"budget_s": 1e-6}
    found = tiny.measure(project, parse(raw), "tiny-vit", "fp32", [1]).cells[0]
    assert (found.stopped_by, len(found.replicates)) == ("budget", 2)


@pytest.mark.parametrize(("steady_after", "attempts", "status"), [(2, 2, "ok"), (99, 3, "unsteady")])
def test_a_cell_whose_machine_moved_is_measured_again_and_then_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steady_after: int, attempts: int, status: str
) -> None:
    """The reference kernel alternates between 1 and 2 ms until so many attempts are over."""
    project, params = study(tmp_path)
    ready(project, params)
    monkeypatch.setattr(
        reference_kernel, "calibrate", lambda device, protocol: ((1.0, None), (1.01, None), (0.99, None))
    )
    earlier = itertools.count()
    real = cell_run.CellRun.add

    def moving(self: cell_run.CellRun, run: Any) -> Cell | None:
        restless = len(self.earlier) < steady_after and next(earlier) % 2
        ms = 2.0 if restless else 1.0
        replicate = run.replicate.model_copy(update={"sentinel": Sentinel(before_ms=ms, after_ms=ms)})
        return real(self, run.model_copy(update={"replicate": replicate}))

    monkeypatch.setattr(cell_run.CellRun, "add", moving)
    found = tiny.measure(project, params, "tiny-vit", "fp32", [1]).cells[0]
    assert (found.status, len(found.earlier)) == (status, attempts)
    assert len(found.replicates) == 3
    assert all(len(one.medians_ms) == 3 for one in found.earlier)
    if status == "unsteady":
        assert "in each of 4 attempts" in found.reason
