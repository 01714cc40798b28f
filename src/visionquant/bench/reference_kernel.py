"""The reference kernel that is timed beside every replicate: a matrix product of fixed size in FP32.

Its time says nothing of a model and all of the machine: clock, threads, and who else is at work. On a GPU it is the
product's time there, and a row of launches that hardly do a thing stands beside it for the host. Tensors are freed
after every reading, so that they count in no memory figure.
"""

from functools import cache
from statistics import median

import torch

from visionquant.bench import device as devices
from visionquant.bench import torch_flags, worker
from visionquant.bench.clock import Clock, Step, one_step
from visionquant.records.cell import Sentinel
from visionquant.settings.params import Protocol
from visionquant.settings.precision import FP32

WARMUP, READS = 3, 15
LAUNCHES = 200
Reading = tuple[float, float | None]


def read_ms(device: str, clock: Clock, again: bool = False) -> Reading:
    """Median milliseconds now of the kernel (on a GPU: there) and of the host's launches (None without a GPU).

    Rounded to a tenth of a microsecond; TF32 is off for it. ``again``: not the first reading of this process.
    """
    plan, tf32 = devices.of(device).kernel, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.ones(plan.side, plan.side, device=device)
    b, out = torch.ones_like(a), torch.empty_like(a)

    def product(_: int) -> None:
        torch.mm(a, b, out=out)

    def launches(_: int) -> None:
        for _ in range(LAUNCHES):
            number.zero_()

    warm_s, begin_s = plan.again_s if again else plan.first_s, clock.now_s()
    while clock.now_s() - begin_s < warm_s:
        one_step(product, clock, 0)
    wall_ms, device_ms = _medians(product, clock)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    if device_ms is None:
        return wall_ms, None
    number = torch.ones(1, device=device)
    return device_ms, _medians(launches, clock)[0]


def _medians(step: Step, clock: Clock) -> Reading:
    """Wall and device milliseconds."""
    times = [one_step(step, clock, i) for i in range(WARMUP + READS)][WARMUP:]
    on_device = [ms for _, ms in times if ms is not None]
    return round(median(ms for ms, _ in times), 4), round(median(on_device), 4) if on_device else None


def sentinel(before: Reading, after: Reading) -> Sentinel:
    """Two readings as a record holds them."""
    (kernel_before, host_before), (kernel_after, host_after), host = before, after, None
    if host_before is not None and host_after is not None:
        host = Sentinel(before_ms=host_before, after_ms=host_after)
    return Sentinel(before_ms=kernel_before, after_ms=kernel_after, host=host)


@cache
def calibrate(device: str, protocol: Protocol) -> tuple[Reading, ...]:
    """Readings in processes of their own: the noise of :func:`read_ms`.

    Taken once by a process and by those forked from it afterwards: on a GPU, where it takes seconds, by a command for
    all its pairs, else by each pair's own process.
    """
    used = devices.of(device)

    def reading() -> Reading:
        used.require()
        torch_flags.apply(FP32, protocol)
        return read_ms(device, used.clock())

    return tuple(worker.in_fork(reading) for _ in range(used.kernel.readings))
