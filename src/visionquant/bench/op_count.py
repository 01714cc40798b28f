"""How large a network is, how many operations a forward pass issues, and how long a GPU is at work in it.

The last two tell a launch-bound cell.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, schedule
from torch.profiler import profile as profiling
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from visionquant.records.cell import Launch

DROPOUT = torch.ops.aten.dropout.default  # (input, p, train)
ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
SAFETENSORS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "uint8": "U8", "int64": "I64"}
Spans = Sequence[tuple[float, float]]


def safetensors_bytes(model: nn.Module) -> int:
    """Bytes of the state dict as one safetensors file: 8 for the length, the padded header, the tensors."""
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            end = offset + tensor.nbytes
            kind = SAFETENSORS.get(str(tensor.dtype).removeprefix("torch."), "F32")
            header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, end]}
            offset = end
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + (length + 7) // 8 * 8 + offset


def linear_layers(model: nn.Module) -> int:
    """Linear layers, quantised or not."""
    return sum(isinstance(module, nn.Linear) for module in model.modules())


def macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image (channels, height, width): matrix products, convolutions and attention."""
    parameter = next(model.parameters())
    image = torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that torch dispatches, taken apart as far as torch does itself, without views.

    A dropout that does nothing is nothing then, and a Linear layer with its bias one operation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DROPOUT and not args[2]:
            return args[0]
        if func is not ATTENTION:  # fused on a GPU; with a mask a CPU makes dozens of it
            with self:
                apart = func.decompose(*args, **(kwargs or {}))
            if apart is not NotImplemented:
                return apart
        views = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
        self.count += not views
        return func(*args, **(kwargs or {}))


def profile(step: Callable[[int], Any]) -> Launch | None:
    """Passes on a GPU under torch's profiler.

    None where they tell nothing (another profiler, a container), or two of them differ: records can be lost.
    """
    try:
        first, second = (recorded(step, ProfilerActivity.CUDA, DeviceType.CUDA) for _ in range(2))
    except RuntimeError:
        return None
    if not second or len(first) != len(second):
        return None
    return Launch(gpu_busy_ms=round(covered(second) / 1e3, 4), kernels=len(second))


def recorded(step: Callable[[int], Any], activity: ProfilerActivity, device: DeviceType) -> Spans:
    """Begin and end (us) of what ``device`` did in a profiled pass, after one that warms the profiler up.

    The spans that someone named, as the profiler does with each pass, are no work.
    """
    # One cycle: one that is begun and not ended crashes the next profiler.
    plan = schedule(wait=0, warmup=1, active=1, repeat=1)
    with profiling(activities={ProfilerActivity.CPU, activity}, schedule=plan) as profiler:
        for _ in range(2):
            step(0)
            if device == DeviceType.CUDA:
                torch.cuda.synchronize()
            profiler.step()
    return [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type == device and not (event.is_user_annotation or event.name.startswith("ProfilerStep"))
    ]


def covered(spans: Spans) -> float:
    """Length of the union of ``spans``."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
