"""HQQ: Linear layers as codes of few bits, each group of weights with a scale and an offset, found without images.

The library quantises and packs; a pass restores the weights by its own reference code and multiplies in floats, on any
device. So accuracy and bytes are the library's, and latency is not that of its fused kernels.
Source: H. Badri and A. Shaji, Half-Quadratic Quantization of Large Machine Learning Models (2023).
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from visionquant.bench.backends import convert
from visionquant.bench.backends.eager import Eager
from visionquant.core.errors import StudyError

INSTALL = 'HQQ is not installed: pip install --editable ".[hqq]"'


class HqqLinear(nn.Module):
    """A Linear layer that restores its weights from ``codes`` at every pass."""

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, linear: nn.Linear, bits: int, group_size: int) -> None:
        from hqq.core.quantize import Quantizer

        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.data
        knobs = {"nbits": bits, "group_size": group_size, "axis": 1, "round_zero": bits == 4}  # the library's own
        codes, meta = Quantizer.quantize(weight, device="cpu", **knobs)
        for name, tensor in (("codes", codes), ("scale", meta.pop("scale")), ("zero", meta.pop("zero"))):
            self.register_buffer(name, tensor.to(weight.dtype) if name != "codes" else tensor)
        self.meta, self.bias = meta, linear.bias

    def weight(self) -> torch.Tensor:
        """(outputs, inputs), in the layer's type."""
        from hqq.core.quantize import Quantizer

        scales = {"scale": self.scale, "zero": self.zero, "compute_dtype": self.scale.dtype}
        restored: torch.Tensor = Quantizer.dequantize(self.codes, self.meta | scales)
        return restored

    def kind(self) -> str:
        """What the layer is, read off its codes."""
        from hqq.core.quantize import Quantizer

        levels = int(Quantizer.unpack[self.meta["packing"]](self.codes, dtype=torch.uint8).max())
        group = self.in_features * self.out_features // self.scale.numel()
        return f"{levels.bit_length()} bit in groups of {group}"

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs)."""
        return functional.linear(inputs, self.weight(), self.bias)


class Hqq(Eager):
    """Linear layers in codes of few bits, the rest in the row's type."""

    def unsupported(self, device: str) -> str:
        return "" if find_spec("hqq") else INSTALL

    def replace_layers(self, net: nn.Module, row: Any, dtype: torch.dtype) -> None:
        linear = {name: module for name, module in net.named_modules() if type(module) is nn.Linear}
        chosen = {name: layer for name, layer in linear.items() if not set(row.skip) & set(name.split("."))}
        subject = convert.subject_of(row)
        if not chosen:
            found = f"no Linear layer was quantised, of {len(linear)} in the model"
            remedy = "shorten `skip` in its row" if linear else "study the model in other precisions"
            raise StudyError(subject, found, remedy)
        for name, layer in chosen.items():
            if layer.weight.numel() % row.group_size:
                found = f"{name} has {layer.weight.numel()} weights, no multiple of {row.group_size}"
                raise StudyError(subject, found, "set another group_size in its row")
            net.set_submodule(name, HqqLinear(layer, row.bits, row.group_size))

    def quantised_layers(self, net: nn.Module) -> dict[str, Any]:
        return {name: module for name, module in net.named_modules() if isinstance(module, HqqLinear)}

    def parts(self, net: nn.Module, row: Any, plain: str) -> Iterator[tuple[str, str, str]]:
        layers, wanted = self.quantised_layers(net), f"{row.bits} bit in groups of {row.group_size}"
        if not layers:
            found = f"no layer is quantised, asked was {wanted}"
            raise StudyError(convert.subject_of(row), found, "report this defect")
        yield from ((name, layer.kind(), wanted) for name, layer in layers.items())
        yield from super().parts(net, row, plain)

    def skipped_layers(self, net: nn.Module, modules: dict[str, str] | None) -> tuple[str, ...]:
        return tuple(name for name, module in net.named_modules() if type(module) is nn.Linear)

    def knobs(self, row: Any) -> dict[str, Any]:
        return row.model_dump(include={"bits", "group_size"})


ENGINE = Hqq()
