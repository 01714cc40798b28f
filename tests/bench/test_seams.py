"""A new kind of device is one class, a new engine one module and one row: both are made up here and go all the way."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import pytest
import tiny
import torch
from torch import nn

from visionquant.bench import device as devices
from visionquant.bench import replicate, worker
from visionquant.bench.backends import convert
from visionquant.bench.backends.eager import Eager
from visionquant.bench.clock import Clock
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.records.cell import Launch
from visionquant.settings.params import Protocol
from visionquant.settings.precision import FP32, PrecisionRow


class ScriptedClock(Clock):
    """Of a device that takes 2 ms a step, by its own marks."""

    def __init__(self) -> None:
        self.marks = 0

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def between_ms(self, start: int, end: int) -> float:
        return 2.0 * (end - start)


class Scripted(devices.Device):
    """A device with a queue and memory of its own, on a CPU."""

    half = torch.float16
    forks_warm = in_host_memory = False
    cold_passes = 2
    kernel = devices.KernelPlan(side=8, first_s=0.0, again_s=0.0, readings=2)

    def clock(self) -> Clock:
        return ScriptedClock()

    def allocated_bytes(self) -> int | None:
        return 100

    def peaks(self, run: Callable[[], object]) -> tuple[int | None, int | None]:
        run()
        return 300, 400

    def computing(self) -> set[int] | None:
        return None

    def profile(self, step: Callable[[int], Any]) -> Launch | None:
        step(0)
        return Launch(gpu_busy_ms=1.5, kernels=7)


class Plain(nn.Module):
    def forward(self, images: torch.Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=images)


def test_a_replicate_asks_all_that_it_wants_to_know_of_a_device_of_that_device() -> None:
    subject = replicate.ReadyPair(
        Plain,
        FP32,
        Protocol(**tiny.PROTOCOL),
        Scripted(),
        torch.float32,
        torch.ones(16, 3, 8, 8),
        replicate.ExpectedOutput(None, None, None, True),
        None,
        frozenset({1}),
    )
    run = worker.in_fork(lambda: replicate.run(subject, 1, 0, 0))
    assert len(run.replicate.cold_ms) == 2
    assert run.replicate.gpu_ms is not None
    assert set(run.replicate.gpu_ms) == {2.0}
    assert run.replicate.sentinel is not None
    assert run.replicate.sentinel.before_ms == 2.0
    assert run.replicate.conditions.isolation != "clean"
    assert (run.workspace, run.allocated_after, run.peak_allocated, run.peak_reserved) == (0, 100, 300, 400)
    assert run.launch == Launch(gpu_busy_ms=1.5, kernels=7)


def test_a_kind_is_found_by_its_row_and_an_unknown_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "KINDS", {**devices.KINDS, "scripted": Scripted})
    assert isinstance(devices.of("scripted"), Scripted)
    with pytest.raises(StudyError, match="device: no kind named mps; one of cpu, cuda, scripted"):
        devices.of("mps")


def test_an_engine_that_lacks_a_part_is_an_error_when_it_is_made_and_no_unsupported_cell() -> None:
    class Half(convert.Backend):
        def convert(self, net: nn.Module, row: PrecisionRow, device: str, shape: convert.Shape | None) -> nn.Module:
            return net

    with pytest.raises(TypeError, match=r"abstract methods '?bytes_of'?, '?prove'?"):
        Half()  # type: ignore[abstract]


def test_an_engine_is_found_by_its_row_and_its_library_becomes_part_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "_engine_libraries", set())

    class HalvedPrecision(PrecisionRow):
        engine, family, libraries = "halved", "float", ("scipy",)
        method: Literal["halved"]
        dtype: Literal["float32"] = "float32"
        cpu_dtype: Literal["float32"] = "float32"

    class Halved(Eager):
        """Every weight by two."""

        def unsupported(self, device: str) -> str:
            return "" if device == "cpu" else "halved runs on a CPU alone"

        def replace_layers(self, net: nn.Module, row: Any, dtype: torch.dtype) -> None:
            for parameter in net.parameters():
                parameter.data /= 2

        def knobs(self, row: Any) -> dict[str, Any]:
            return {"by": 2}

    module = ModuleType("visionquant.bench.backends.halved")
    vars(module)["ENGINE"] = Halved()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row, net = HalvedPrecision(method="halved"), nn.Linear(4, 4)
    before = net.weight.detach().clone()
    converted, proof = convert.proved(net, row, "cpu")
    assert torch.equal(converted.get_parameter("weight"), before / 2)
    assert proof is not None
    assert (proof.knobs["method"], proof.knobs["by"]) == ("halved", 2)
    with pytest.raises(StudyError, match="precision halved: halved runs on a CPU alone; leave the precision out"):
        convert.proved(net, row, "cuda")
    assert list(machine.probe("cpu").libraries) == ["scipy"]
