"""The reference kernel that is timed beside every replicate: a matrix product of fixed size in FP32.

Its time says nothing of a model and all of the machine: clock, threads, and who else is at work. Tensors are freed
after every reading, so that they count in no memory figure.
"""

from statistics import median

import torch

from visionquant.bench import backend, isolate
from visionquant.bench.clock import Clock, clock_of, one_step
from visionquant.params import Protocol
from visionquant.precision import FP32

SIDE = {"cpu": 512, "cuda": 2048}
WARMUP, READS = 3, 15
WARM_S = {"cpu": 0.0, "cuda": 0.3}  # a GPU needs so long to leave its idle clock
CALIBRATIONS = {"cpu": 7, "cuda": 4}  # a GPU takes seconds to open


def read_ms(device: str, clock: Clock) -> float:
    """Median milliseconds of the kernel now, rounded to a tenth of a microsecond; TF32 is off for it."""
    side, tf32 = SIDE[device], torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.ones(side, side, device=device)
    b, out = torch.ones_like(a), torch.empty_like(a)

    def step(_: int) -> None:
        torch.mm(a, b, out=out)

    begin_s = clock.now_s()
    while clock.now_s() - begin_s < WARM_S[device]:
        one_step(step, clock, 0)
    times = [one_step(step, clock, i)[0] for i in range(WARMUP + READS)][WARMUP:]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return round(median(times), 4)


def calibrate(device: str, protocol: Protocol) -> tuple[float, ...]:
    """Readings in ``CALIBRATIONS`` processes of their own: the kernel's noise."""

    def reading() -> float:
        backend.require(device)
        backend.apply(FP32, protocol)
        return read_ms(device, clock_of(device))

    return tuple(isolate.in_fork(reading) for _ in range(CALIBRATIONS[device]))
