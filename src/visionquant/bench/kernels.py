"""Reference kernels: fixed work that says nothing of a model and all of the machine.

They take turns with the arms: a matrix product in FP32 (clock, threads), a copy of more than any cache holds (memory
traffic), and a matrix product in INT8. What moves the machine moves at least one of them; that is shown, and corrects
nothing.
"""

import torch

from visionquant.bench import device as devices
from visionquant.bench.clock import Step
from visionquant.records.cell import KERNELS

FILL_MS, FEWEST = 10.0, 5  # of a slot, and its passes: one alone may be interrupted, and then says nothing


def step_of(kernel: str, device: str) -> Step:
    """The kernel of that name, ready to run. RuntimeError, NotImplementedError: torch has none here."""
    plan = devices.of(device).kernel
    if kernel == KERNELS[1]:
        source = torch.ones(plan.stream_bytes // 4, device=device)
        target = torch.empty_like(source)
        return lambda i: target.copy_(source)
    if kernel == KERNELS[2]:
        codes = torch.ones(plan.side, plan.side, dtype=torch.int8, device=device)
        torch._int_mm(codes, codes)
        return lambda i: torch._int_mm(codes, codes)
    a = torch.ones(plan.side, plan.side, device=device)
    out = torch.empty_like(a)
    return lambda i: torch.mm(a, a, out=out)
