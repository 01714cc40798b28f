"""A mixed-precision policy put into effect: rules on module names, values converted where types meet, and the proof.

The first rule whose pattern matches a module's dotted name, or that of a module around it, decides its type; rules that
quantise take Linear layers alone. A module that stands in another type than what surrounds it gets its inputs converted
and gives its outputs back in the type around it, by hooks: their time in Python and the conversions are part of what a
policy costs, and are measured with it. Images arrive in the row's dtype, and what flows
between modules that no rule holds together has it too: a residual stream outside every rule, above all.

The supplement's listing looks for ``nn.MultiheadAttention``, which none of the study's models has, and converts modules
without converting what flows between them.
"""

import re
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from visionquant.bench.backends import bnb
from visionquant.core.errors import StudyError
from visionquant.settings.precision import Int8Precision, MixedPrecision, Nf4Precision

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def assign(model: nn.Module, precision: MixedPrecision) -> dict[str, str]:
    """What the rules make of each module by its dotted name: "fp32", "fp16", "bf16", "int8", "nf4", or "" for none.

    Raises:
        StudyError: a rule takes no module, because none has such a name or earlier rules took them all.
    """
    found: dict[str, str] = {"": ""}
    taken = [0] * len(precision.rules)
    for name, module in model.named_modules():
        if not name:
            continue
        around_it = name.rpartition(".")[0]
        if isinstance(model.get_submodule(around_it), nn.MultiheadAttention):
            found[name] = found[around_it]  # which reads the weights of this layer and never calls it
            continue
        parts = name.split(".")
        around = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
        found[name] = ""
        for number, rule in enumerate(precision.rules):
            if rule.to not in FLOATS and not isinstance(module, nn.Linear):
                continue
            if any(re.search(rule.modules, one) for one in around):
                found[name] = rule.to
                taken[number] += any(True for _ in module.parameters(recurse=False))
                break
    for rule, count in zip(precision.rules, taken, strict=True):
        if not count:
            what = "module with parameters" if rule.to in FLOATS else "Linear layer"
            linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
            named = next(linear, next(name for name, _ in model.named_parameters()).rpartition(".")[0])
            raise StudyError(
                f"precision rule {rule.modules!r}",
                f"no {what} of this model matches it, or earlier rules take all that do",
                f"correct it in params.yaml; a name here is {named}",
            )
    return found


def convert(model: nn.Module, precision: MixedPrecision, dtype: torch.dtype) -> nn.Module:
    """Change ``model`` (FP32, on the CPU) by the rules; ``dtype`` is that of what no rule takes and of the input.

    Raises:
        StudyError: a rule takes nothing.
    """
    kinds = assign(model, precision)
    for name, module in list(model.named_modules()):
        kind = kinds[name]
        own = FLOATS.get(kind, dtype)
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(own)
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, key, buffer.to(own))
        if kind in ("int8", "nf4"):
            parent, _, leaf = name.rpartition(".")
            row = precision.int8 if kind == "int8" else precision.nf4
            module = bnb.quantised(module, row, dtype)
            setattr(model.get_submodule(parent), leaf, module)
        around = _type_around(model, name, kinds, dtype)
        if own != around and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            _border(module, own, around)
    return model


def _type_around(model: nn.Module, name: str, kinds: dict[str, str], dtype: torch.dtype) -> torch.dtype:
    """The type that the module which calls this one works in; a list of modules calls nothing."""
    while name:
        name = name.rpartition(".")[0]
        if not isinstance(model.get_submodule(name), nn.ModuleList | nn.ModuleDict):
            break
    return FLOATS.get(kinds[name], dtype)


def _border(module: nn.Module, own: torch.dtype, around: torch.dtype) -> None:
    def inwards(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return _to(args, own), _to(kwargs, own)

    def outwards(_: nn.Module, __: Any, output: Any) -> Any:
        return _to(output, around)

    module.register_forward_pre_hook(inwards, with_kwargs=True)
    module.register_forward_hook(outwards)


def _to(values: Any, dtype: torch.dtype) -> Any:
    def one(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return tree_map(one, values)


def prove(model: nn.Module, precision: MixedPrecision, dtype: torch.dtype) -> dict[str, str]:
    """What each module with parameters of its own really is, by name: a torch type, "int8" or "nf4".

    Raises:
        StudyError: one is not what the rules say.
    """
    asked, found, parts = assign(model, precision), {}, []
    rows: dict[str, Int8Precision | Nf4Precision] = {"int8": precision.int8, "nf4": precision.nf4}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        kind = asked[name]
        found[name] = _type(own) if kind not in rows else kind
        is_ = bnb.found(module) if type(module).__name__ in bnb.QUANTISED else _type(own)
        wanted = bnb.asked(rows[kind]) if kind in rows else str(FLOATS.get(kind, dtype)).removeprefix("torch.")
        parts.append((name, is_, wanted))
    bnb.require("precision mixed", parts)
    return found


def _type(own: list[nn.Parameter]) -> str:
    return "+".join(sorted({str(one.dtype).removeprefix("torch.") for one in own}))
