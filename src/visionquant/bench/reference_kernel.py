"""The reference kernel that is timed beside every replicate: a matrix product of fixed size in FP32.

Its time says nothing of a model and all of the machine: clock, threads, and who else is at work. On a GPU it is the
product's time there, and a row of launches that hardly do a thing stands beside it for the host. Tensors are freed
after every reading, so that they count in no memory figure.
"""

from functools import cache
from statistics import median

import torch

from visionquant.bench import torch_flags, worker
from visionquant.bench.clock import Clock, Step, clock_of, one_step
from visionquant.settings.params import Protocol
from visionquant.settings.precision import FP32

SIDE = {"cpu": 512, "cuda": 4096}
WARMUP, READS = 3, 15
LAUNCHES = 200
FIRST_S = {"cpu": 0.0, "cuda": 0.3}  # a GPU needs so long to leave its idle clock
AGAIN_S = {"cpu": 0.0, "cuda": 0.05}  # after the timed passes it is warm
CALIBRATIONS = {"cpu": 7, "cuda": 4}  # a GPU takes seconds to open
Reading = tuple[float, float | None]


def read_ms(device: str, clock: Clock, again: bool = False) -> Reading:
    """Median milliseconds now of the kernel (on a GPU: there) and of the host's launches (None without a GPU).

    Rounded to a tenth of a microsecond; TF32 is off for it. ``again``: not the first reading of this process.
    """
    side, tf32 = SIDE[device], torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.ones(side, side, device=device)
    b, out = torch.ones_like(a), torch.empty_like(a)

    def product(_: int) -> None:
        torch.mm(a, b, out=out)

    def launches(_: int) -> None:
        for _ in range(LAUNCHES):
            one.zero_()

    warm_s = (AGAIN_S if again else FIRST_S)[device]
    begin_s = clock.now_s()
    while clock.now_s() - begin_s < warm_s:
        one_step(product, clock, 0)
    wall_ms, gpu_ms = _medians(product, clock)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    if gpu_ms is None:
        return wall_ms, None
    one = torch.ones(1, device=device)
    return gpu_ms, _medians(launches, clock)[0]


def _medians(step: Step, clock: Clock) -> Reading:
    """Wall and device milliseconds."""
    times = [one_step(step, clock, i) for i in range(WARMUP + READS)][WARMUP:]
    gpu = [ms for _, ms in times if ms is not None]
    return round(median(ms for ms, _ in times), 4), round(median(gpu), 4) if gpu else None


@cache
def calibrate(device: str, protocol: Protocol) -> tuple[Reading, ...]:
    """Readings in ``CALIBRATIONS`` processes of their own: the noise of :func:`read_ms`.

    Taken once by a process and by those forked from it afterwards: on a GPU, where it takes seconds, by a command for
    all its pairs, else by each pair's own process.
    """

    def reading() -> Reading:
        torch_flags.require(device)
        torch_flags.apply(FP32, protocol)
        return read_ms(device, clock_of(device))

    return tuple(worker.in_fork(reading) for _ in range(CALIBRATIONS[device]))
