"""bitsandbytes' layers made from Linear layers, with the weights of these, and what such a layer really is."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from visionquant.core.errors import StudyError
from visionquant.settings.precision import Int8Precision, Nf4Precision

QUANTISED = ("Linear8bitLt", "Linear4bit")  # by name, so that other precisions do not wait for a library


def quantised(linear: nn.Module, precision: Int8Precision | Nf4Precision, dtype: torch.dtype) -> nn.Module:
    """A layer in ``precision`` that computes in ``dtype``; its weight is quantised when it is moved to a device."""
    import bitsandbytes as bnb

    from visionquant.bench.backends import bnb_layers

    assert isinstance(linear, nn.Linear)
    shape: dict[str, Any] = {
        "input_features": linear.in_features,
        "output_features": linear.out_features,
        "bias": linear.bias is not None,
        "device": "meta",
    }
    layer: nn.Module
    if isinstance(precision, Int8Precision):
        layer = bnb_layers.Linear8bitLt(**shape, has_fp16_weights=False, threshold=precision.threshold)
        layer.weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        layer = bnb_layers.Linear4bit(
            **shape, compute_dtype=dtype, compress_statistics=precision.double_quantization, quant_type="nf4"
        )
        layer.weight = bnb.nn.Params4bit(
            linear.weight.data,
            requires_grad=False,
            compress_statistics=precision.double_quantization,
            blocksize=precision.blocksize,
            quant_type="nf4",
            module=layer,
        )
        # The repacked CPU kernel wants whole blocks in a row, and rows by 32. Repacking also takes the quantisation of
        # the scales back, for good: that would be another precision than the row's.
        ragged = linear.in_features % max(32, precision.blocksize) or linear.out_features % 32
        if ragged or precision.double_quantization:
            layer.support_avx512bf16_for_cpu = False
    layer.bias = linear.bias
    return layer.eval()


def asked(precision: Int8Precision | Nf4Precision) -> str:
    """What a layer in ``precision`` has to be, in the words of :func:`found`."""
    if isinstance(precision, Int8Precision):
        return f"int8 with threshold {precision.threshold:g}"
    return _nf4("nf4", precision.blocksize, precision.double_quantization)


def found(layer: Any) -> str:
    """What a quantised layer is, read off its weight and its state."""
    weight = layer.weight
    if type(layer).__module__ != "visionquant.bench.backends.bnb_layers":
        return f"a layer of {type(layer).__module__}, which misreads inputs that are not contiguous"
    if type(layer).__name__ == "Linear4bit":
        state = weight.quant_state
        if state is None:
            return f"not quantised ({weight.dtype})"
        scales = _nf4(state.quant_type, state.blocksize, state.nested)
        was_double = not state.nested and getattr(state, "original_nested", False)
        return f"{scales} since this CPU repacked it" if was_double else scales
    held = layer.state if weight.CB is None else weight
    if layer.state.has_fp16_weights or weight.has_fp16_weights:
        return "quantised anew at each pass"
    if weight.dtype != torch.int8 or held.CB is None or held.CB.dtype != torch.int8 or held.SCB is None:
        return f"without int8 codes ({weight.dtype})"
    return f"int8 with threshold {layer.state.threshold:g}"


def _nf4(kind: str, blocksize: int, double: bool) -> str:
    return f"{kind} in blocks of {blocksize}, scales {'quantised' if double else 'not quantised'}"


def require(subject: str, parts: Iterable[tuple[str, str, str]]) -> None:
    """Insist that of each (name, what it is, what was asked) the last two agree.

    Raises:
        StudyError: names the first that differs, both values, and how many do.
    """
    wrong = [(name, is_, wanted) for name, is_, wanted in parts if is_ != wanted]
    if wrong:
        name, is_, wanted = wrong[0]
        more = f" (and so on, {len(wrong)} in all)" if len(wrong) > 1 else ""
        raise StudyError(subject, f"{name} is {is_}, asked was {wanted}{more}", "report this defect")
