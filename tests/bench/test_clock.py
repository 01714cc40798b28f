"""The order of warm-up, synchronisation and reading, on a clock that writes down what it is asked."""

from typing import Any

import pytest
import torch

from visionquant.bench import arm, clock
from visionquant.bench.clock import Clock, time_slot, time_window, warm_up
from visionquant.bench.device import CudaClock


class ScriptedClock(Clock):
    """A device whose steps take as long as the script says."""

    def __init__(self, *step_ms: float) -> None:
        self.step_ms, self.time_s, self.asked, self.done = step_ms, 0.0, list[str](), 0

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

    @property
    def steps(self) -> list[str]:
        return [asked for asked in self.asked if asked.startswith("step")]


def test_every_step_stands_between_two_synchronisations_with_the_readings_outside_the_marks() -> None:
    scripted = ScriptedClock(5.0)
    time_slot(scripted.step, scripted, 1, 0.0, discard=False)
    assert scripted.asked == ["sync", "now", "mark", "step 0", "mark", "sync", "now"]


def test_a_slot_discards_a_pass_and_times_the_rest_in_two_columns() -> None:
    scripted = ScriptedClock(50.0, 5.0)
    found = time_slot(scripted.step, scripted, 4, 0.0, discard=True)
    assert found == (50.0, (5.0,) * 4, (2.5,) * 4)
    assert scripted.steps == ["step 0", "step 0", "step 1", "step 2", "step 3"]


@pytest.mark.parametrize(("pass_ms", "count"), [(9.0, 12), (25.0, 4), (200.0, 3)])
def test_a_slot_has_the_passes_that_are_asked_and_more_until_it_is_filled(pass_ms: float, count: int) -> None:
    scripted = ScriptedClock(pass_ms)
    assert len(time_slot(scripted.step, scripted, 3, 100.0, discard=True).wall_ms) == count


def test_where_passes_are_slow_the_warm_up_stands_for_the_discarded_pass() -> None:
    scripted = ScriptedClock(3000.0)
    assert time_slot(scripted.step, scripted, 1, 100.0, discard=False) == (None, (3000.0,), (1500.0,))
    assert arm.is_slow([1e3 * clock.SLOW_S + 1, 1e3 * clock.SLOW_S + 2])
    assert not arm.is_slow([9000.0, 1e3 * clock.SLOW_S - 1])  # the first pass of a process is slow anyway


def test_what_is_looked_at_between_two_timed_steps_counts_in_neither() -> None:
    scripted, seen = ScriptedClock(5.0), list[int]()

    def look(i: int) -> None:
        seen.append(i)
        scripted.time_s += 1.0

    assert time_slot(scripted.step, scripted, 3, 0.0, discard=True, after=look).wall_ms == (5.0,) * 3
    assert seen == [0, 1, 2]


def test_what_is_asked_of_a_slot_begins_behind_the_discarded_pass() -> None:
    scripted = ScriptedClock(5.0)
    time_slot(scripted.step, scripted, 1, 0.0, discard=True, begin=lambda: scripted.asked.append("begin"))
    step = ["sync", "now", "mark", "step 0", "mark", "sync", "now"]
    assert scripted.asked == [*step, "begin", *step]


def test_a_throughput_window_synchronises_only_around_all_steps() -> None:
    scripted = ScriptedClock(10.0)
    assert time_window(scripted.step, scripted, 5) == pytest.approx(0.05)
    assert scripted.asked == ["sync", "now", *(f"step {i}" for i in range(5)), "sync", "now"]


def test_a_cpu_has_no_device_times() -> None:
    found = time_slot(lambda i: None, Clock(), 3, 0.0, discard=True)
    assert found.gpu_ms is None
    assert len(found.wall_ms) == 3


@pytest.mark.parametrize(
    ("step_ms", "passes", "more_s", "count"),
    [
        ([10.0], 2, 0.0, 2),
        ([10.0], 2, 0.1, 4),  # halves of two agree
        ([60.0], 1, 0.1, 2),  # a third does not fit
        ([10.0, 120.0, 10.0], 2, 0.035, 5),  # bounded by its fastest pass; four disagree
        ([600.0], 3, 0.1, 1),  # one that takes long needs no second
        ([5.0, 4.0, 3.0, 2.0, 1.0], 2, 10.0, 15),  # until most of the first half is as fast as the second
    ],
)
def test_a_warm_up_goes_on_until_its_halves_agree_or_its_time_is_up(
    step_ms: list[float], passes: int, more_s: float, count: int
) -> None:
    scripted = ScriptedClock(*step_ms)
    assert len(warm_up(scripted.step, scripted, passes, more_s)) == count


def test_halves_agree_within_two_per_cent_or_in_each_others_range() -> None:
    assert clock.converged([1.0, 1.0, 1.0]) is None
    assert clock.converged([1.0, 1.0, 1.019, 1.019])
    assert not clock.converged([1.0, 1.0, 1.03, 1.03])
    assert clock.converged([1.0, 2.0, 1.4, 1.9])
    assert clock.converged([9.0] * 20 + [1.0] * 20)  # only the last ten of each count


def test_two_events_serve_all_steps_and_are_made_before_any(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = list[Any](), list[Any]()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            made.append(self)

        def record(self) -> None:
            self.at = len(asked)
            asked.append(self)

        def elapsed_time(self, end: "Event") -> float:
            return float(end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    device_clock = CudaClock()
    assert time_slot(lambda i: None, device_clock, 5, 0.0, discard=False).gpu_ms == (1.0,) * 5
    assert len(made) == 2
