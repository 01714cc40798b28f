"""A new kind of device is one class, a new engine one module and one row: both are made up here and go all the way."""

import sys
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from torch import nn

from visionquant.bench import device as devices
from visionquant.bench.backends import convert
from visionquant.bench.backends.eager import Eager
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.settings.precision import PrecisionRow


class Scripted(devices.Device):
    """A kind of its own."""


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
