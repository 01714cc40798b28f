"""Counts and bytes of a model as it stands."""

import json
from typing import Any

import torch
from torch import nn

_SAFETENSORS = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int64: "I64",
}


def safetensors_bytes(model: nn.Module) -> int:
    """Bytes of the state dict as one safetensors file: 8 for the length, the padded header, the tensors."""
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            kind, end = _SAFETENSORS.get(tensor.dtype, "F32"), offset + tensor.numel() * tensor.element_size()
            header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, end]}
            offset = end
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + (length + 7) // 8 * 8 + offset


def linear_layers(model: nn.Module) -> int:
    """Linear layers, quantised or not."""
    return sum(isinstance(module, nn.Linear) for module in model.modules())


def macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image (channels, height, width).

    torch counts matrix products, convolutions and attention.
    """
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(model.parameters())
    image = torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2
