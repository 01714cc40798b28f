"""One process has all arms of a round, on a device made up on a CPU: what fails there takes no other along."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted
import tiny

from visionquant.bench import device as devices
from visionquant.bench import prepared, sampling
from visionquant.bench.command import Command, Matrix
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.cell import BASELINE, KERNELS, PLACEBO, Launch
from visionquant.records.record import Record
from visionquant.settings.params import Params

PRECISIONS = ("fp32", "bf16", "nf4")
MADE: list[str] = []  # networks of this process


class Shared(devices.Device):
    """A device with memory of its own."""

    a_process_an_arm = in_host_memory = False
    cold_passes = 1

    def allocated_bytes(self) -> int | None:
        return 100

    def peaks(self, run: Callable[[], object]) -> tuple[int | None, int | None]:
        run()
        return 300, 400

    def profile(self, step: Callable[[int], Any]) -> Launch | None:
        step(0)
        return Launch(gpu_busy_ms=1.5, kernels=7)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Project, Params]]:
    monkeypatch.setitem(devices.KINDS, "cpu", Shared)
    devices.of.cache_clear()
    yield tiny.project(tmp_path, tiny.settings(precisions=PRECISIONS))
    devices.of.cache_clear()


def watch(
    monkeypatch: pytest.MonkeyPatch, path: Path, trouble: Callable[[str], object]
) -> Callable[[], list[list[str]]]:
    """Have ``trouble`` at each network that an arm's process makes; gives the networks of each process."""
    real = prepared.network_of

    def network_of(source: Any, precision: str, *given: Any) -> Any:
        MADE.append(precision)
        with path.open("a") as log:
            log.write(f"{os.getpid()} {precision}\n")
        trouble(precision)
        return real(source, precision, *given)

    def seen() -> list[list[str]]:
        found: dict[str, list[str]] = {}
        for pid, precision in map(str.split, path.read_text().splitlines()):
            found.setdefault(pid, []).append(precision)
        return [sorted(each) for each in found.values()]

    monkeypatch.setattr(prepared, "network_of", network_of)
    return seen


def sweep(study: tuple[Project, Params], **asked: Any) -> dict[str, Record]:
    project, params = study
    with scripted.others(kernels=True):
        sampling.sweep(project, params, Matrix.of(params), Command(**asked))
    return {name: records.write(project.record("tiny-vit", name)) for name in PRECISIONS}


def test_arms_share_a_process_and_each_is_examined_in_one_of_its_own(
    study: tuple[Project, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch, tmp_path / "log", lambda precision: None)
    found = sweep(study, rounds=1)
    assert seen() == [["fp32"], ["bf16"], ["nf4"], ["bf16", "fp32", "fp32", "nf4"]]
    for name, record in found.items():
        assert [cell.batch_size for cell in record.cells] == [1, 2]
        for cell in record.cells:
            (one,) = cell.rounds
            assert {slot.arm for slot in one.slots} == {BASELINE, PLACEBO, name, *(KERNELS if name == BASELINE else ())}
            assert one.host_peak is None
            assert cell.memory is not None
            memory = cell.memory
            assert (memory.allocated_after, memory.peak_allocated, memory.peak_reserved) == (100, 300, 400)
            assert cell.launch is not None
            assert cell.audit is not None
            assert cell.audit.kept > 0


def too_many(precision: str) -> None:
    if len(MADE) > 3:
        MADE.remove(precision)
        raise RuntimeError("CUDA out of memory")


def dies_beside_bf16(precision: str) -> None:
    if precision == "nf4" and "bf16" in MADE:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("trouble", [too_many, dies_beside_bf16])
def test_what_fails_together_is_measured_apart(
    study: tuple[Project, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[str], None]
) -> None:
    seen = watch(monkeypatch, tmp_path / "log", trouble)
    for name, record in sweep(study).items():
        for cell in record.cells:
            assert cell.status in tiny.MEASURED, cell.reason
            assert len(cell.rounds) >= 2
            for one in cell.rounds:
                assert {BASELINE, PLACEBO, name} <= {slot.arm for slot in one.slots}
    together = [made for made in seen() if {"bf16", "nf4"} <= {*made}]
    assert len(together) == 1  # all the same in the next round would fail again


def test_what_fails_alone_is_told_and_the_others_are_measured(
    study: tuple[Project, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(precision: str) -> None:
        if precision == "nf4":
            raise RuntimeError("CUDA out of memory")

    seen = watch(monkeypatch, tmp_path / "log", never)
    found = sweep(study, rounds=1)
    assert {cell.status for cell in found["nf4"].cells} == {"out_of_memory"}
    assert all(cell.status in tiny.MEASURED for name in ("fp32", "bf16") for cell in found[name].cells)
    assert ["bf16", "fp32", "fp32"] in seen()
