"""The reference kernel that is timed beside every replicate: a matrix product of fixed size in FP32.

Its time says nothing of a model and all of the machine: clock, threads, and who else is at work. Tensors are freed
after every reading, so that they count in no memory figure.
"""

from statistics import median

import torch

from visionquant.bench import backend, isolate
from visionquant.bench.clock import Clock, clock_of
from visionquant.params import FloatPrecision, Protocol

SIDE = {"cpu": 512, "cuda": 2048}
WARMUP, READS = 3, 15
CALIBRATIONS = 7
FP32 = FloatPrecision(method="float", dtype="float32", cpu_dtype="float32", tf32=False)


def read_ms(device: str, clock: Clock) -> float:
    """Median milliseconds of the kernel now, rounded to a tenth of a microsecond; TF32 is off for it."""
    side, tf32 = SIDE[device], torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.ones(side, side, device=device)
    b, out = torch.ones_like(a), torch.empty_like(a)
    times = []
    for i in range(WARMUP + READS):
        clock.synchronize()
        start_s = clock.now_s()
        torch.mm(a, b, out=out)
        clock.synchronize()
        if i >= WARMUP:
            times.append((clock.now_s() - start_s) * 1e3)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return round(median(times), 4)


def calibrate(device: str, protocol: Protocol) -> tuple[float, ...]:
    """Readings in ``CALIBRATIONS`` processes of their own: the kernel's noise. One process on a GPU, which is slow to
    open.
    """

    def reading() -> tuple[float, ...]:
        backend.require(device)
        backend.apply(FP32, protocol)
        clock = clock_of(device)
        return tuple(read_ms(device, clock) for _ in range(1 if device == "cpu" else CALIBRATIONS))

    rounds = CALIBRATIONS if device == "cpu" else 1
    return tuple(ms for _ in range(rounds) for ms in isolate.in_fork(reading))
