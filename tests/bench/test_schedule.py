"""Pairs that take turns: seeded order, positions and times in the record, a stop rule, a machine that moves."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import tiny

from visionquant.bench import cell_run, measure, reference, reference_kernel, sweep
from visionquant.core import machine
from visionquant.core.paths import Project
from visionquant.records.cell import Cell, Sentinel
from visionquant.records.record import Record
from visionquant.settings.params import Params, parse
from visionquant.weights import hub

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


def swept(project: Project, params: Params) -> list[Record]:
    found: list[Record] = []
    sweep.sweep(project, params, ["tiny-vit"], PRECISIONS, [1, 2], on_pair=found.append)
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
    hub.download(project, params, "tiny-vit")
    reference.make(project, params, "tiny-vit")


def test_pairs_that_do_not_fit_into_memory_together_come_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = "vit-base-224-production"
    assert measure._groups(Project(tiny.ROOT), model, PRECISIONS) == [["fp32", "int8", "nf4"]]
    monkeypatch.setattr(
        measure.memory, "available_host_bytes", lambda: 2**30
    )  # three times 0.32 GiB are more than half
    assert measure._groups(Project(tiny.ROOT), model, PRECISIONS) == [["fp32"], ["int8"], ["nf4"]]


def test_time_that_is_up_keeps_replicates_and_the_next_run_goes_on(tmp_path: Path) -> None:
    project, params = study(tmp_path)
    assert not sweep.sweep(project, params, ["tiny-vit"], PRECISIONS, [1, 2], minutes=0.0)
    assert not list(project.measured.glob("*"))
    seen: list[tuple[str, int]] = []

    def in_the_middle(model: str, precision: str, course: cell_run.Course) -> None:
        seen.append((precision, len(course.runs)))
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(project, params, ["tiny-vit"], PRECISIONS, [1, 2], on_replicate=in_the_middle)
    again: list[tuple[str, int]] = []
    sweep.sweep(
        project,
        params,
        ["tiny-vit"],
        PRECISIONS,
        [1],
        on_replicate=lambda model, precision, course: again.append((precision, len(course.runs))),
    )
    assert not set(seen) & set(again)  # no replicate was measured twice
    assert len(list(project.measured.glob("*.json"))) == 3


def test_a_goal_adds_processes_until_the_interval_is_narrow(tmp_path: Path) -> None:
    project, params = study(tmp_path, goal=0.9, most_replicates=12, replicates=2, iterations=24)
    ready(project, params)
    found = tiny.measure(project, params, "tiny-vit", "fp32").cells[0]
    assert found.stopped_by == "goal"
    assert 2 <= len(found.replicates) < 12
    raw = tiny.settings(("tiny-vit",), PRECISIONS)
    raw["protocols"]["tiny"] |= {"replicates": 2, "most_replicates": 4, "goal": 1e-9, "iterations": 8}
    strict = parse(raw)
    reference.make(project, strict, "tiny-vit")
    found = tiny.measure(project, strict, "tiny-vit", "fp32").cells[0]
    assert (found.stopped_by, len(found.replicates)) == ("count", 4)
    raw["protocols"]["tiny"] |= {"budget_s": 1e-6}
    found = tiny.measure(project, parse(raw), "tiny-vit", "fp32").cells[0]
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
    real = cell_run.Course.add

    def moving(self: cell_run.Course, run: Any) -> Cell | None:
        restless = len(self.earlier) < steady_after and next(earlier) % 2
        ms = 2.0 if restless else 1.0
        replicate = run.replicate.model_copy(update={"sentinel": Sentinel(before_ms=ms, after_ms=ms)})
        return real(self, run.model_copy(update={"replicate": replicate}))

    monkeypatch.setattr(cell_run.Course, "add", moving)
    found = tiny.measure(project, params, "tiny-vit", "fp32", [1]).cells[0]
    assert (found.status, len(found.earlier)) == (status, attempts)
    assert len(found.replicates) == 3
    assert all(len(one.medians_ms) == 3 for one in found.earlier)
    if status == "unsteady":
        assert "in each of 4 attempts" in found.reason
