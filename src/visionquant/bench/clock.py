"""When a pass begins and ends: the seam between timed loops and the device.

Wall time is taken around a synchronised step, GPU time from events on the stream; they are two columns. The span
between two events holds the gaps between kernels as well: how launch-bound a cell is, a profiled pass tells
(``op_count.profile``). The order of warm-up, synchronisation and reading is tested without a GPU, by a clock that
writes down what it is asked.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

Step = Callable[[int], Any]
HALF, AGREES = 10, 0.02
SLOW_S = 2.0  # a pass that takes longer: the round's warm-up stands for the discarded pass of its slots
LONG_S = 0.5  # one that takes longer needs no second warm-up pass


class Clock:
    """A CPU's way to tell the time, perf_counter: a step is finished when it returns. Other devices know better."""

    def synchronize(self) -> None:
        """Wait until the device has nothing left to do."""

    def now_s(self) -> float:
        """Monotonic seconds."""
        return time.perf_counter()

    def mark(self) -> Any:
        """Put a mark into the device's queue, good until the next but one; None where there is no queue."""
        return None

    def between_ms(self, start: Any, end: Any) -> float | None:
        """Device milliseconds between two marks, after a synchronisation; None without a queue."""
        return None


class TimedPasses(NamedTuple):
    """Milliseconds of the discarded pass (None: there was none) and of each timed one, wall and device's."""

    discarded_ms: float | None
    wall_ms: tuple[float, ...]
    gpu_ms: tuple[float, ...] | None


def time_slot(
    step: Step,
    clock: Clock,
    passes: int,
    fill_ms: float,
    discard: bool,
    after: Step = lambda i: None,
    begin: Callable[[], None] = lambda: None,
) -> TimedPasses:
    """Discard a pass, if asked to, then time ``step(i)`` for i = 0, 1, ...

    ``passes`` at least, more until they fill ``fill_ms`` milliseconds. ``begin()`` is called before the first timed
    step, ``after(i)`` behind each, outside of its time.
    """
    discarded = one_step(step, clock, 0)[0] if discard else None
    begin()
    wall: list[float] = []
    gpu: list[float | None] = []
    while len(wall) < passes or sum(wall) < fill_ms:
        i = len(wall)
        wall_ms, gpu_ms = one_step(step, clock, i)
        wall.append(wall_ms)
        gpu.append(gpu_ms)
        after(i)
    events = tuple(value for value in gpu if value is not None)
    return TimedPasses(discarded, tuple(wall), events if len(events) == len(wall) else None)


def warm_up(step: Step, clock: Clock, passes: int, more_s: float) -> tuple[float, ...]:
    """Milliseconds of ``passes`` steps (one where it takes over ``LONG_S``), and of more while their halves disagree.

    These take ``more_s`` seconds at most, as far as the last step tells. Halves of fewer than four steps agree with
    nothing, so there are four where they fit.
    """
    times = [one_step(step, clock, 0)[0]]
    while len(times) < passes and times[0] < 1e3 * LONG_S:
        times.append(one_step(step, clock, len(times))[0])
    begin = clock.now_s()
    while not converged(times) and clock.now_s() - begin + min(times) / 1e3 < more_s:
        times.append(one_step(step, clock, len(times))[0])
    return tuple(times)


def converged(times: Sequence[float]) -> bool | None:
    """Whether the last steps of a warm-up are no faster or slower than those before them; None below four steps.

    Two halves of at most ten steps each agree where their medians are within 2 %, or each lies in the other's range.
    """
    k = min(len(times) // 2, HALF)
    if k < 2:
        return None
    first, second = sorted(times[-2 * k : -k]), sorted(times[-k:])
    a, b = median(first), median(second)
    return abs(a / b - 1) <= AGREES or (first[0] <= b <= first[-1] and second[0] <= a <= second[-1])


def one_step(step: Step, clock: Clock, i: int) -> tuple[float, float | None]:
    """Wall and device milliseconds of ``step(i)``, with a synchronisation before and after."""
    clock.synchronize()
    start_s, start = clock.now_s(), clock.mark()
    step(i)
    end = clock.mark()
    clock.synchronize()
    wall_ms, gpu_ms = (clock.now_s() - start_s) * 1e3, clock.between_ms(start, end)
    return round(wall_ms, 4), None if gpu_ms is None else round(gpu_ms, 4)


def time_window(step: Step, clock: Clock, count: int) -> float:
    """Seconds for ``count`` steps with one synchronisation before and one after."""
    clock.synchronize()
    start_s = clock.now_s()
    for i in range(count):
        step(i)
    clock.synchronize()
    return clock.now_s() - start_s
