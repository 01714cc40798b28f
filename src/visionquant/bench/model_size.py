"""Counts and bytes of a model as it stands: parameters, buffers and quantisation state, each storage once."""

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from visionquant.bench.backends.ort import Network


def stored_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Every tensor that must be kept to run ``model``: parameters, buffers, and what bitsandbytes hangs beside them."""
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        yield from _tensors(getattr(weight, "SCB", None))
        state = getattr(module, "state", None)
        yield from _tensors(getattr(state, "CB", None), getattr(state, "SCB", None))
        quant = getattr(weight, "quant_state", None)
        yield from _tensors(*(getattr(quant, name, None) for name in ("absmax", "code", "offset")))
        nested = getattr(quant, "state2", None)
        yield from _tensors(*(getattr(nested, name, None) for name in ("absmax", "code")))


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all stored tensors, each storage counted once; of a graph those of its initialisers."""
    if isinstance(model, Network):
        return model.graph.stored_bytes
    seen: dict[int, int] = {}
    for tensor in stored_tensors(model):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def file_bytes(model: nn.Module) -> int:
    """Bytes of the state dict as one safetensors file: 8 for the length, the padded header, the tensors.

    Of a graph, those of its ONNX file with its weights.
    """
    if isinstance(model, Network):
        return model.graph.file_bytes
    header: dict[str, Any] = {}
    offset = 0
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        kind = _SAFETENSORS.get(tensor.dtype, "F32")
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
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


def _tensors(*values: Any) -> Iterator[torch.Tensor]:
    yield from (value for value in values if isinstance(value, torch.Tensor))


_SAFETENSORS = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int64: "I64",
}
