"""When an iteration begins and ends: the seam between timed loops and the device.

Wall time is taken around a synchronised step, GPU time from events on the stream; they are two columns. The span
between two events holds the gaps between kernels as well: how launch-bound a cell is, a profiled pass tells
(``op_count.profile``). The order of warm-up, synchronisation and reading is tested without a GPU, by a clock that
writes down what it is asked.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Step = Callable[[int], Any]
HALF, AGREES = 10, 0.02


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


@dataclass(frozen=True)
class TimingPlan:
    """What one process times: counts of steps, and the seconds that timed steps may take (None: no limit).

    ``cold``: first steps of the process that are neither warm-up nor timed. ``warmup_s``: further warm-up, at most,
    until its halves agree.
    """

    cold: int
    warmup: int
    warmup_s: float
    iterations: int
    minimum: int
    budget_s: float | None


@dataclass(frozen=True)
class TimedSteps:
    """What one process saw: milliseconds per step, in order, and why it stopped ("count" or "budget").

    ``settled``: whether the warm-up :func:`converged`. All names are those of a record's replicate.
    """

    cold_ms: tuple[float, ...]
    warmup_ms: tuple[float, ...]
    settled: bool | None
    wall_ms: tuple[float, ...]
    gpu_ms: tuple[float, ...] | None
    stopped_by: Literal["count", "budget"]


def time_steps(step: Step, clock: Clock, plan: TimingPlan, after: Step = lambda i: None) -> TimedSteps:
    """Warm up, then time ``step(i)`` for i = 0, 1, ... until the plan is fulfilled or its budget is spent.

    A step is not begun when one as long as the last would overrun the budget, but ``plan.minimum`` are always timed.
    ``after(i)`` is called behind each timed step, outside of its time.
    """
    cold = [one_step(step, clock, i)[0] for i in range(plan.cold)]
    warmup = _warm_up(step, clock, plan)
    begin, budget_s = clock.now_s(), plan.budget_s
    wall: list[float] = []
    gpu: list[float | None] = []
    stopped_by: Literal["count", "budget"] = "count"
    for i in range(plan.iterations):
        if budget_s is not None and i >= plan.minimum and clock.now_s() - begin + wall[-1] / 1e3 > budget_s:
            stopped_by = "budget"
            break
        wall_ms, gpu_ms = one_step(step, clock, i)
        wall.append(wall_ms)
        gpu.append(gpu_ms)
        after(i)
    events = tuple(value for value in gpu if value is not None)
    by_events = events if len(events) == len(wall) else None
    return TimedSteps(tuple(cold), tuple(warmup), converged(warmup), tuple(wall), by_events, stopped_by)


def _warm_up(step: Step, clock: Clock, plan: TimingPlan) -> list[float]:
    """At least ``plan.warmup`` steps; more while their halves disagree and ``plan.warmup_s`` holds one as fast as any.

    Halves of fewer than four steps agree with nothing, so there are four where they fit.
    """
    times = [one_step(step, clock, i)[0] for i in range(plan.warmup)]
    begin = clock.now_s()
    while not converged(times) and clock.now_s() - begin + min(times, default=0.0) / 1e3 < plan.warmup_s:
        times.append(one_step(step, clock, len(times))[0])
    return times


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
