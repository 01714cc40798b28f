"""A precision put into effect, and the proof that it was.

Layers are replaced, their weights wrapped in bitsandbytes' own parameter classes, and quantised by the move to the
device: a layer built without its weights would keep random ones (the supplement's listing does), and a precision that
quantises nothing would time the baseline. Both are refused here. What is not quantised takes the row's dtype.
"""

from typing import Any

import torch
from torch import nn

from visionquant.bench.backends import bnb, mixed, onnx_graph, onnx_proof, ort
from visionquant.core.errors import StudyError
from visionquant.records.record import Conversion
from visionquant.settings.precision import (
    FloatPrecision,
    Int8Precision,
    MixedPrecision,
    OnnxRuntimePrecision,
    Precision,
)
from visionquant.weights import architectures


def dtype_of(precision: Precision, device: str) -> torch.dtype:
    """The type of everything that ``precision`` does not quantise, on ``device``."""
    name = precision.cpu_dtype if device == "cpu" else precision.dtype
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def cast(model: nn.Module, precision: Precision, device: str) -> None:
    """Change a model to the row's dtype where it lies, as far as that can be done before its layers are replaced.

    Weights are quantised from that dtype; the rules of a mixed policy may keep float32.
    """
    if not isinstance(precision, MixedPrecision | OnnxRuntimePrecision):
        model.to(dtype_of(precision, device))


def convert(
    model: nn.Module, precision: Precision, device: str, shape: tuple[int, int, int] | None = None
) -> nn.Module:
    """Put ``model`` (FP32, on the CPU) into ``precision`` on ``device``; the model is changed, proved and returned.

    A graph of ONNX Runtime takes images of one ``shape`` (channels, height, width), that of the config if None.

    Raises:
        StudyError: nothing was quantised by a precision that quantises, a rule matches nothing, ONNX Runtime is not
            here, or what came of it is not what was asked.
    """
    if isinstance(precision, OnnxRuntimePrecision):
        why = onnx_graph.unsupported(device)
        if why:
            raise StudyError("precision onnxruntime", why, "leave the precision out")
        sizes = shape or architectures.shape(model.config.to_dict())  # type: ignore[union-attr, operator]
        graph = onnx_graph.export(model, precision, torch.zeros(2, *sizes))
        return ort.Network(graph, ort.options_of(precision))
    dtype = dtype_of(precision, device)
    model.train()  # a LeViT keeps what a pass derived from its weights, in FP32, until it is trained again
    if isinstance(precision, MixedPrecision):
        return _proved(mixed.convert(model, precision, dtype).to(device).eval(), precision, device)
    cast(model, precision, device)
    if not isinstance(precision, FloatPrecision):
        names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        chosen = [name for name in names if not _skipped(name, precision.skip)]
        if not chosen:
            raise StudyError(
                f"precision {precision.method}",
                f"no Linear layer was quantised, of {len(names)} in the model",
                "shorten `skip` in its row" if names else "study the model in other precisions",
            )
        for name in chosen:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, bnb.quantised(model.get_submodule(name), precision, dtype))
    return _proved(model.to(device).eval(), precision, device)


def _proved(model: nn.Module, precision: Precision, device: str) -> nn.Module:
    if device != "meta":
        prove(model, precision, device)
    return model


def _skipped(name: str, skip: tuple[str, ...]) -> bool:
    return any(part in skip for part in name.split("."))


def prove(model: nn.Module, precision: Precision, device: str) -> Conversion:
    """What the parameters of a converted model really are; it is in evaluation mode, which decides what code runs.

    Raises:
        StudyError: the model is not what ``precision`` says; names the part that differs and both values.
    """
    if isinstance(precision, OnnxRuntimePrecision):
        if not isinstance(model, ort.Network):
            raise StudyError("precision onnxruntime", "the model is no graph", "report this defect")
        return onnx_proof.prove(model, precision)
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        what = f"{training or 'the model'} is in training mode"
        raise StudyError(_asked(precision), f"{what}, where other code runs", "call .eval() on the model")
    quantised: dict[str, Any] = {
        name: module for name, module in model.named_modules() if type(module).__name__ in bnb.QUANTISED
    }
    kept = tuple(name for name, module in model.named_modules() if type(module) is nn.Linear)
    weights = sum(module.in_features * module.out_features for module in quantised.values())
    dtypes: dict[str, int] = {}
    for parameter in model.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + parameter.numel()
    others = sum(p.numel() for p in model.parameters() if type(p) is nn.Parameter)
    knobs: dict[str, str | int | float | bool] = {
        "class": type(model).__name__,
        "method": precision.method,
        "dtype": str(dtype_of(precision, device)).removeprefix("torch."),
        "attention": str(getattr(getattr(model, "config", None), "_attn_implementation", "unknown")),
    }
    if device == "cuda":
        knobs |= {"cuda": str(torch.version.cuda), "cudnn": int(torch.backends.cudnn.version() or 0)}  # type: ignore[no-untyped-call]
    modules: dict[str, str] | None = None
    if isinstance(precision, MixedPrecision):
        modules = mixed.prove(model, precision, dtype_of(precision, device))
        knobs |= {"threshold": precision.threshold, "blocksize": precision.blocksize}
        knobs |= {"double_quantization": precision.double_quantization}
        kept = tuple(name for name in kept if modules[name] not in ("int8", "nf4"))
    else:
        plain = str(knobs["dtype"])
        wanted = plain if isinstance(precision, FloatPrecision) else bnb.asked(precision)
        if wanted != plain and not quantised:
            raise StudyError(_asked(precision), f"no layer is quantised, asked was {wanted}", "report this defect")
        parts = [(name, bnb.found(layer), wanted) for name, layer in quantised.items()]
        parts += [
            (name, str(one.dtype).removeprefix("torch."), plain)
            for name, one in model.named_parameters()
            if type(one) is nn.Parameter and one.is_floating_point()
        ]
        bnb.require(_asked(precision), parts)
        if isinstance(precision, FloatPrecision):
            knobs["tf32"], kept = precision.tf32, ()
        elif isinstance(precision, Int8Precision):
            knobs["threshold"] = precision.threshold
        else:
            knobs |= {"blocksize": precision.blocksize, "double_quantization": precision.double_quantization}
    return Conversion(
        quantized_modules=len(quantised),
        quantized_share=weights / (weights + others) if weights else 0.0,
        skipped_modules=kept,
        dtypes=dtypes,
        knobs=knobs,
        modules=modules,
    )


def _asked(precision: Precision) -> str:
    return f"precision {precision.method.removeprefix('bitsandbytes_')}"
