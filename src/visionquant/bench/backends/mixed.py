"""A mixed-precision policy put into effect: rules on module names, values converted where types meet, and the proof.

The first rule whose pattern matches a module's dotted name, or that of a module around it, decides its type; rules that
quantise take Linear layers alone. A module that stands in another type than what surrounds it gets its inputs converted
and gives its outputs back in the type around it, by hooks: their time in Python and the conversions are part of what a
policy costs, and are measured with it. Images arrive in the row's dtype, and what flows between
modules that no rule holds together has it too: a residual stream outside every rule, above all.

The supplement's listing looks for ``nn.MultiheadAttention``, which none of the study's models has, and converts modules
without converting what flows between them.
"""

import re
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from visionquant.bench.backends import bnb
from visionquant.bench.backends.bnb import QUANTISED
from visionquant.bench.backends.convert import type_name
from visionquant.core.errors import StudyError
from visionquant.settings.precision import MixedPrecision

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LISTS = nn.ModuleList | nn.ModuleDict  # which call nothing themselves


class Mixed(bnb.BitsAndBytes):
    """Each module in the type of the first rule that takes it."""

    def cast(self, net: nn.Module, row: Any, device: str) -> None:
        """Nothing: weights are quantised from float32, which rules may keep."""

    def replace_layers(self, net: nn.Module, row: Any, dtype: torch.dtype) -> None:
        kinds, rows = assign(net, row), row.quantized_rows
        for name, module in list(net.named_modules()):
            own = FLOATS.get(kinds[name], dtype)
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(own)
            for key, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point():
                    setattr(module, key, buffer.to(own))
            if kinds[name] in rows:
                module = bnb.quantised(module, rows[kinds[name]], dtype)
                bnb.replace(net, name, module)
            around = _type_around(net, name, kinds, dtype)
            if own != around and not isinstance(module, LISTS):
                _border(module, own, around)

    def parts(self, net: nn.Module, row: Any, plain: str) -> Iterator[tuple[str, str, str]]:
        kinds, rows = assign(net, row), row.quantized_rows
        for name, module in net.named_modules():
            if own := list(module.parameters(recurse=False)):
                kind = kinds[name]
                is_ = bnb.kind_of(module) if type(module).__name__ in QUANTISED else _types(own)
                dtype = type_name(FLOATS[kind]) if kind in FLOATS else plain
                yield name, is_, bnb.asked(rows[kind]) if kind in rows else dtype

    def types_of_modules(self, net: nn.Module, row: Any) -> dict[str, str] | None:
        kinds, quantised = assign(net, row), row.quantized_rows
        owners = {name: list(module.parameters(recurse=False)) for name, module in net.named_modules()}
        return {name: kinds[name] if kinds[name] in quantised else _types(own) for name, own in owners.items() if own}

    def skipped_layers(self, net: nn.Module, modules: dict[str, str] | None) -> tuple[str, ...]:
        layers = super().skipped_layers(net, modules)
        return tuple(name for name in layers if (modules or {}).get(name) not in ("int8", "nf4"))


def assign(model: nn.Module, precision: MixedPrecision) -> dict[str, str]:
    """Of each module by dotted name "fp32", "fp16", "bf16", "int8", "nf4", or ""; a StudyError if a rule takes none."""
    kinds: dict[str, str] = {}
    taken = [0] * len(precision.rules)
    for name, module in model.named_modules():
        kinds[name], parent = "", name.rpartition(".")[0]
        if name and isinstance(model.get_submodule(parent), nn.MultiheadAttention):
            kinds[name] = kinds[parent]  # which reads the weights of this layer and never calls it
            continue
        around = list(accumulate(name.split("."), "{}.{}".format)) if name else []
        for number, rule in enumerate(precision.rules):
            if rule.to not in FLOATS and not isinstance(module, nn.Linear):
                continue
            if any(re.search(rule.modules, name_around) for name_around in around):
                kinds[name] = rule.to
                taken[number] += any(True for _ in module.parameters(recurse=False))
                break
    for rule, count in zip(precision.rules, taken, strict=True):
        if not count:
            what = "module with parameters" if rule.to in FLOATS else "Linear layer"
            linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
            example = next(linear, next(name for name, _ in model.named_parameters()).rpartition(".")[0])
            found = f"no {what} of this model matches it, or earlier rules take all that do"
            remedy = f"correct it in params.yaml; a name here is {example}"
            raise StudyError(f"precision rule {rule.modules!r}", found, remedy)
    return kinds


def _type_around(model: nn.Module, name: str, kinds: dict[str, str], dtype: torch.dtype) -> torch.dtype:
    """The type that the module which calls this one works in."""
    while name:
        name = name.rpartition(".")[0]
        if not isinstance(model.get_submodule(name), LISTS):
            break
    return FLOATS.get(kinds[name], dtype)


def _border(module: nn.Module, own: torch.dtype, around: torch.dtype) -> None:
    module.register_forward_pre_hook(partial(_entering, own), with_kwargs=True)
    module.register_forward_hook(partial(_leaving, around))


def _entering(dtype: torch.dtype, _: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return _to(args, dtype), _to(kwargs, dtype)


def _leaving(dtype: torch.dtype, _: nn.Module, __: Any, output: Any) -> Any:
    return _to(output, dtype)


def _to(values: Any, dtype: torch.dtype) -> Any:
    def converted(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return tree_map(converted, values)


def _types(own: list[nn.Parameter]) -> str:
    return "+".join(sorted({type_name(parameter.dtype) for parameter in own}))


ENGINE = Mixed()
