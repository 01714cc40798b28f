"""bitsandbytes' layers made from Linear layers, with the weights of these."""

from typing import Any

import torch
from torch import nn

from visionquant.precision import Int8Precision, Nf4Precision


def quantised(linear: nn.Module, precision: Int8Precision | Nf4Precision, dtype: torch.dtype) -> nn.Module:
    """A layer in ``precision`` that computes in ``dtype``; its weight is quantised when it is moved to a device."""
    import bitsandbytes as bnb

    assert isinstance(linear, nn.Linear)
    shape: dict[str, Any] = {
        "input_features": linear.in_features,
        "output_features": linear.out_features,
        "bias": linear.bias is not None,
        "device": "meta",
    }
    layer: nn.Module
    if isinstance(precision, Int8Precision):
        layer = bnb.nn.Linear8bitLt(**shape, has_fp16_weights=False, threshold=precision.threshold)
        layer.weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(
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
        # The repacked CPU kernel wants whole blocks in a row, and rows by 32.
        if linear.in_features % max(32, precision.blocksize) or linear.out_features % 32:
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    layer.bias = linear.bias
    return layer.eval()
