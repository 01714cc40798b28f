"""torch itself: every parameter cast to the row's type, layers called one after the other."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from visionquant.bench import device as devices
from visionquant.bench import op_count
from visionquant.bench.backends import convert
from visionquant.bench.backends.convert import type_name
from visionquant.core.errors import StudyError
from visionquant.records.record import Conversion


class Eager(convert.Backend):
    """The engine of modules; those that replace some of them say how in the methods that follow ``prove``."""

    def cast(self, net: nn.Module, row: Any, device: str) -> None:
        """What happens to all parameters, before layers are replaced."""
        net.to(convert.dtype_of(row, device))

    def convert(self, net: nn.Module, row: Any, device: str, shape: convert.Shape | None) -> nn.Module:
        net.train()  # a LeViT keeps what a pass derived from its weights, in FP32, until it is trained again
        self.cast(net, row, device)
        self.replace_layers(net, row, convert.dtype_of(row, device))
        return net.to(device).eval()

    def prove(self, net: nn.Module, row: Any, device: str) -> Conversion:
        subject, plain = convert.subject_of(row), row.dtype_on(device)
        if training := [name or "the model" for name, module in net.named_modules() if module.training]:
            found = f"{training[0]} is in training mode, where other code runs"
            raise StudyError(subject, found, "call .eval() on the model")
        quantised, modules = self.quantised_layers(net), self.types_of_modules(net, row)
        convert.require_all(subject, self.parts(net, row, plain))
        weights = sum(layer.in_features * layer.out_features for layer in quantised.values())
        others = sum(one.numel() for one in net.parameters() if type(one) is nn.Parameter)
        dtypes: Counter[str] = Counter()
        for parameter in net.parameters():
            dtypes[type_name(parameter.dtype)] += parameter.numel()
        attention = str(getattr(getattr(net, "config", None), "_attn_implementation", "unknown"))
        knobs = {"class": type(net).__name__, "method": row.method, "dtype": plain, "attention": attention}
        return Conversion(
            quantized_modules=len(quantised),
            quantized_share=weights / (weights + others) if weights else 0.0,
            skipped_modules=self.skipped_layers(net, modules),
            dtypes=dict(dtypes),
            knobs=knobs | devices.of(device).versions() | self.knobs(row),
            modules=modules,
        )

    def replace_layers(self, net: nn.Module, row: Any, dtype: torch.dtype) -> None:
        """Put quantised layers in the place of others; ``dtype`` is what they compute in."""

    def quantised_layers(self, net: nn.Module) -> dict[str, Any]:
        """By name."""
        return {}

    def parts(self, net: nn.Module, row: Any, plain: str) -> Iterator[tuple[str, str, str]]:
        """Of each part of the network its name, what it is, and what it has to be; ``plain``: the row's type."""
        for name, parameter in net.named_parameters():
            if type(parameter) is not nn.Parameter:
                yield name, f"quantised ({type(parameter).__name__})", plain
            elif parameter.is_floating_point():
                yield name, type_name(parameter.dtype), plain

    def types_of_modules(self, net: nn.Module, row: Any) -> dict[str, str] | None:
        """Of each module with parameters of its own, where a row decides by module."""
        return None

    def skipped_layers(self, net: nn.Module, modules: dict[str, str] | None) -> tuple[str, ...]:
        """Linear layers that were not quantised by an engine that quantises."""
        return ()

    def knobs(self, row: Any) -> dict[str, Any]:
        """What else of the row the record of a conversion shows."""
        return {"tf32": row.tf32}

    def stored_tensors(self, net: nn.Module) -> Iterator[torch.Tensor]:
        """Every tensor that must be kept to run ``net``."""
        yield from net.parameters()
        yield from net.buffers()

    def bytes_of(self, net: nn.Module) -> tuple[int, int]:
        storages = (tensor.untyped_storage() for tensor in self.stored_tensors(net))
        stored = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
        return stored, op_count.safetensors_bytes(net)


ENGINE = Eager()
