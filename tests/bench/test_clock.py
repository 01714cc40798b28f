from typing import Any

import pytest
import torch

from visionquant.bench.clock import Clock, TimingPlan, time_steps, time_window
from visionquant.bench.device import CudaClock


def plan(
    warmup: int, iterations: int, minimum: int, budget_s: float | None, warmup_s: float = 0.0, cold: int = 0
) -> TimingPlan:
    return TimingPlan(
        cold=cold, warmup=warmup, warmup_s=warmup_s, iterations=iterations, minimum=minimum, budget_s=budget_s
    )


class ScriptedClock:
    """A device whose steps take as long as the script says; it writes down what it is asked."""

    def __init__(self, step_ms: list[float]) -> None:
        self.step_ms, self.time_s, self.asked, self.done = step_ms, 0.0, [], 0

    def synchronize(self) -> None:
        self.asked.append("sync")

    def now_s(self) -> float:
        self.asked.append("now")
        return self.time_s

    def mark(self) -> Any:
        self.asked.append("mark")
        return self.time_s

    def between_ms(self, start: Any, end: Any) -> float | None:
        return (end - start) * 1e3 / 2

    def step(self, i: int) -> None:
        self.asked.append(f"step {i}")
        self.time_s += self.step_ms[min(self.done, len(self.step_ms) - 1)] / 1e3
        self.done += 1


def test_the_number_of_samples_is_the_plans_and_not_the_warmups() -> None:
    clock = ScriptedClock([5.0])
    samples = time_steps(clock.step, clock, plan(warmup=3, iterations=7, minimum=1, budget_s=None))
    assert (len(samples.warmup_ms), len(samples.wall_ms)) == (3, 7)
    assert samples.stopped_by == "count"


def test_every_step_stands_between_two_synchronisations_with_the_readings_outside_the_marks() -> None:
    clock = ScriptedClock([5.0])
    time_steps(clock.step, clock, plan(warmup=0, iterations=1, minimum=1, budget_s=None))
    asked = clock.asked
    at = asked.index("step 0")
    assert asked[at - 3 : at + 4] == ["sync", "now", "mark", "step 0", "mark", "sync", "now"]


def test_wall_and_device_times_are_two_columns() -> None:
    clock = ScriptedClock([5.0])
    samples = time_steps(clock.step, clock, plan(warmup=0, iterations=4, minimum=1, budget_s=None))
    assert samples.wall_ms == (5.0,) * 4
    assert samples.gpu_ms == (2.5,) * 4


def test_a_budget_ends_the_timing_before_it_is_overrun() -> None:
    clock = ScriptedClock([100.0])
    samples = time_steps(clock.step, clock, plan(warmup=1, iterations=1000, minimum=1, budget_s=0.55))
    assert samples.stopped_by == "budget"
    assert len(samples.wall_ms) == 5
    assert clock.time_s <= 0.1 + 0.55  # a cold warm-up does not eat the budget


def test_the_minimum_is_timed_whatever_the_budget() -> None:
    clock = ScriptedClock([100.0])
    samples = time_steps(clock.step, clock, plan(warmup=1, iterations=1000, minimum=3, budget_s=0.001))
    assert len(samples.wall_ms) == 3
    assert samples.stopped_by == "budget"


def test_timed_steps_begin_at_zero_after_the_warmup() -> None:
    clock = ScriptedClock([1.0])
    time_steps(clock.step, clock, plan(warmup=2, iterations=2, minimum=1, budget_s=None))
    assert [asked for asked in clock.asked if asked.startswith("step")] == ["step 0", "step 1", "step 0", "step 1"]


def test_the_throughput_window_synchronises_only_around_all_steps() -> None:
    clock = ScriptedClock([10.0])
    seconds = time_window(clock.step, clock, 5)
    assert abs(seconds - 0.05) < 1e-9
    assert clock.asked == ["sync", "now", *(f"step {i}" for i in range(5)), "sync", "now"]


def test_a_cpu_has_no_device_times() -> None:
    samples = time_steps(lambda i: None, Clock(), plan(warmup=1, iterations=3, minimum=1, budget_s=None))
    assert samples.gpu_ms is None
    assert all(ms >= 0 for ms in samples.wall_ms)


def test_the_cold_pass_of_a_process_is_no_warm_up_and_four_warm_it_where_they_fit() -> None:
    """As the quick protocol on a GPU: one warm-up pass at least, a tenth of a second more at most."""
    clock = ScriptedClock([1500.0, *[10.0] * 50])
    samples = time_steps(clock.step, clock, plan(1, 1, 1, None, warmup_s=0.1, cold=1))
    assert samples.cold_ms == (1500.0,)
    assert samples.warmup_ms == (10.0,) * 4
    assert samples.settled
    clock = ScriptedClock([1500.0, *[60.0] * 50])
    samples = time_steps(clock.step, clock, plan(1, 1, 1, None, warmup_s=0.1, cold=1))
    assert samples.warmup_ms == (60.0,) * 2  # a third would not fit


def test_a_warm_up_is_bounded_by_its_fastest_pass_and_not_by_its_last() -> None:
    """Second passes are slow too: allocations, handles, a clock that rises."""
    clock = ScriptedClock([10.0, 120.0, *[10.0] * 50])
    samples = time_steps(clock.step, clock, plan(2, 1, 1, None, warmup_s=0.1))
    assert len(samples.warmup_ms) >= 4


def test_what_is_looked_at_between_two_timed_steps_counts_in_neither() -> None:
    clock = ScriptedClock([5.0])
    seen = []

    def look(i: int) -> None:
        seen.append(i)
        clock.time_s += 1.0

    samples = time_steps(clock.step, clock, plan(2, 3, 1, None), look)
    assert seen == [0, 1, 2]
    assert samples.wall_ms == (5.0,) * 3


def test_two_events_serve_all_steps_and_are_made_before_any(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            made.append(self)
            self.at = -1

        def record(self) -> None:
            self.at = len(asked)
            asked.append(self)

        def elapsed_time(self, end: "Event") -> float:
            return float(end.at - self.at)

    asked: list[Event] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    clock = CudaClock()
    assert len(made) == 2
    samples = time_steps(lambda i: None, clock, plan(0, 5, 1, None))
    assert samples.gpu_ms == (1.0,) * 5
    assert len(made) == 2
