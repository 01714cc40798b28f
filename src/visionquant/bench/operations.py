"""How many operations a forward pass issues, and how long a GPU is at work in it: what tells a launch-bound cell."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from visionquant.samples import Launch

DROPOUT = torch.ops.aten.dropout.default  # (input, p, train)
ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
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
    """One pass on a GPU under torch's profiler, None where that tells nothing (another profiler, a container)."""
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    torch.cuda.synchronize()
    try:
        with profiling(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            step(0)
            torch.cuda.synchronize()
    except RuntimeError:
        return None
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in found.events()
        if event.device_type == DeviceType.CUDA
    ]
    if not spans:
        return None
    return Launch(gpu_busy_ms=round(covered(spans) / 1e3, 4), kernels=len(spans))


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of ``spans``."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
