"""A precision put into effect, and the proof that it was.

Layers are replaced, their weights wrapped in bitsandbytes' own parameter classes, and quantised by the move to the
device: a layer built without its weights would keep random ones (the supplement's listing does), and a precision that
quantises nothing would time the baseline. Both are refused here. What is not quantised takes the row's dtype.
"""

from typing import Any

import torch
from torch import nn

from visionquant import zoo
from visionquant.bench import mixed, onnx_graph, onnx_proof, onnx_session
from visionquant.bench.layers import quantised
from visionquant.errors import StudyError
from visionquant.precision import FloatPrecision, Int8Precision, MixedPrecision, OnnxRuntimePrecision, Precision
from visionquant.records import Conversion

QUANTISED = ("Linear8bitLt", "Linear4bit")  # bitsandbytes' classes


def dtype_of(precision: Precision, device: str) -> torch.dtype:
    """The type of everything that ``precision`` does not quantise, on ``device``."""
    name = precision.cpu_dtype if device == "cpu" else precision.dtype
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def convert(
    model: nn.Module, precision: Precision, device: str, shape: tuple[int, int, int] | None = None
) -> nn.Module:
    """Put ``model`` (FP32, on the CPU) into ``precision`` on ``device``; the model is changed and returned.

    A graph of ONNX Runtime takes images of one ``shape`` (channels, height, width), that of the config if None.

    Raises:
        StudyError: nothing was quantised by a precision that quantises, a rule matches nothing, or ONNX Runtime is not
            here.
    """
    if isinstance(precision, OnnxRuntimePrecision):
        why = onnx_graph.unsupported(device)
        if why:
            raise StudyError("precision onnxruntime", why, "leave the precision out")
        graph = onnx_graph.export(model, precision, torch.zeros(2, *(shape or zoo.shape(model.config.to_dict()))))  # type: ignore[union-attr, operator]
        return onnx_session.Network(graph, onnx_session.options_of(precision))
    dtype = dtype_of(precision, device)
    if isinstance(precision, MixedPrecision):
        return mixed.convert(model, precision, dtype).to(device).eval()
    model.to(dtype)
    if not isinstance(precision, FloatPrecision):
        names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        chosen = [name for name in names if not _skipped(name, precision.skip)]
        if not chosen:
            raise StudyError(
                f"precision {precision.method}", "no Linear layer was quantised", "shorten `skip` in its row"
            )
        for name in chosen:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, quantised(model.get_submodule(name), precision, dtype))
    return model.to(device).eval()


def _skipped(name: str, skip: tuple[str, ...]) -> bool:
    return any(part in skip for part in name.split("."))


def prove(model: nn.Module, precision: Precision, device: str) -> Conversion:
    """What the parameters of a converted model really are.

    Raises:
        StudyError: the model is not what ``precision`` says.
    """
    if isinstance(precision, OnnxRuntimePrecision):
        if not isinstance(model, onnx_session.Network):
            raise StudyError("precision onnxruntime", "the model is no graph", "report this defect")
        return onnx_proof.prove(model, precision)
    # By name, so that a float precision does not wait for a library that it does not use.
    layers: dict[str, Any] = {
        name: module for name, module in model.named_modules() if type(module).__name__ in QUANTISED
    }
    kept = tuple(name for name, module in model.named_modules() if type(module) is nn.Linear)
    weights = sum(module.in_features * module.out_features for module in layers.values())
    dtypes: dict[str, int] = {}
    for parameter in model.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + parameter.numel()
    others = sum(p.numel() for p in model.parameters() if type(p) is nn.Parameter)
    knobs: dict[str, str | int | float | bool] = {
        "method": precision.method,
        "dtype": str(dtype_of(precision, device)).removeprefix("torch."),
        "attention": str(getattr(model.config, "_attn_implementation", "unknown")),
    }
    if device == "cuda":
        knobs |= {"cuda": str(torch.version.cuda), "cudnn": int(torch.backends.cudnn.version() or 0)}  # type: ignore[no-untyped-call]
    modules: dict[str, str] | None = None
    if isinstance(precision, FloatPrecision):
        knobs["tf32"] = precision.tf32
        expected = {str(dtype_of(precision, device)).removeprefix("torch.")}
        if set(dtypes) != expected or layers:
            raise StudyError(f"precision {precision.method}", f"parameters are {dtypes}", "report this defect")
        kept = ()
    elif isinstance(precision, MixedPrecision):
        modules = mixed.prove(model, precision, dtype_of(precision, device))
        knobs |= {"threshold": precision.threshold, "blocksize": precision.blocksize}
        knobs |= {"double_quantization": precision.double_quantization}
        kept = tuple(name for name in kept if modules[name] not in ("int8", "nf4"))
    elif isinstance(precision, Int8Precision):
        knobs["threshold"] = precision.threshold
        wrong = [name for name, module in layers.items() if module.weight.dtype != torch.int8]
        if wrong or not layers:
            raise StudyError("precision int8", f"{len(wrong)} of {len(layers)} layers hold no int8", "report this")
    else:
        states = [module.weight.quant_state for module in layers.values()]
        knobs |= {"blocksize": precision.blocksize, "double_quantization": precision.double_quantization}
        good = [s for s in states if s.quant_type == "nf4" and s.blocksize == precision.blocksize]
        if not layers or len(good) != len(states) or any(s.nested != precision.double_quantization for s in states):
            raise StudyError("precision nf4", f"{len(good)} of {len(layers)} layers are nf4", "report this defect")
    return Conversion(
        quantized_modules=len(layers),
        quantized_share=weights / (weights + others) if weights else 0.0,
        skipped_modules=kept,
        dtypes=dtypes,
        knobs=knobs,
        modules=modules,
    )
