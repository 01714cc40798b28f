"""When an iteration begins and ends: the seam between timed loops and the device.

Wall time is taken around a synchronised step, GPU time from events on the stream; they are two columns, and their
difference says how launch-bound a cell is. ``Clock`` is a protocol so that the order of warm-up, synchronisation and
reading is tested without a GPU, by a clock that writes down what it is asked.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Step = Callable[[int], Any]


class Clock(Protocol):
    """A device's way to tell the time."""

    def synchronize(self) -> None:
        """Wait until the device has nothing left to do."""

    def now_s(self) -> float:
        """Monotonic seconds."""

    def mark(self) -> Any:
        """Put a mark into the device's queue, or None where there is no queue."""

    def between_ms(self, start: Any, end: Any) -> float | None:
        """Device milliseconds between two marks, after a synchronisation; None without a queue."""


class CpuClock:
    """perf_counter; a CPU step is finished when it returns."""

    def synchronize(self) -> None:
        return None

    def now_s(self) -> float:
        return time.perf_counter()

    def mark(self) -> Any:
        return None

    def between_ms(self, start: Any, end: Any) -> float | None:
        return None


class CudaClock(CpuClock):
    """perf_counter around torch.cuda.synchronize, and CUDA events."""

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def synchronize(self) -> None:
        self._torch.cuda.synchronize()

    def mark(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def between_ms(self, start: Any, end: Any) -> float | None:
        return float(start.elapsed_time(end))


@dataclass(frozen=True)
class Plan:
    """What one process times: counts of steps, and the seconds that timed steps may take (None: no limit)."""

    warmup: int
    iterations: int
    minimum: int
    budget_s: float | None


@dataclass(frozen=True)
class Samples:
    """What one process saw: milliseconds per step, in order, and why it stopped ("count" or "budget")."""

    warmup_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]
    gpu_ms: tuple[float, ...] | None
    stopped_by: str


def time_steps(step: Step, clock: Clock, plan: Plan) -> Samples:
    """Warm up, then time ``step(i)`` for i = 0, 1, ... until the plan is fulfilled or its budget is spent.

    A step is not begun when one as long as the last would overrun the budget, but ``plan.minimum`` are always timed.
    """
    warmup = [_one(step, clock, i)[0] for i in range(plan.warmup)]
    begin = clock.now_s()
    wall: list[float] = []
    gpu: list[float | None] = []
    stopped_by = "count"
    for i in range(plan.iterations):
        if i >= plan.minimum and plan.budget_s is not None:
            if clock.now_s() - begin + wall[-1] / 1e3 > plan.budget_s:
                stopped_by = "budget"
                break
        wall_ms, gpu_ms = _one(step, clock, i)
        wall.append(wall_ms)
        gpu.append(gpu_ms)
    events = tuple(value for value in gpu if value is not None)
    return Samples(tuple(warmup), tuple(wall), events if len(events) == len(wall) else None, stopped_by)


def _one(step: Step, clock: Clock, i: int) -> tuple[float, float | None]:
    clock.synchronize()
    start_s, start = clock.now_s(), clock.mark()
    step(i)
    end = clock.mark()
    clock.synchronize()
    wall_ms = round((clock.now_s() - start_s) * 1e3, 4)
    gpu_ms = clock.between_ms(start, end)
    return wall_ms, None if gpu_ms is None else round(gpu_ms, 4)


def time_window(step: Step, clock: Clock, count: int) -> float:
    """Seconds for ``count`` steps with one synchronisation before and one after."""
    clock.synchronize()
    start_s = clock.now_s()
    for i in range(count):
        step(i)
    clock.synchronize()
    return clock.now_s() - start_s
