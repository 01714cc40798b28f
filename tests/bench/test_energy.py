"""Energy from real counter files in the kernel's layout, moved on while a window runs."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from visionquant.bench import energy
from visionquant.bench.clock import CpuClock
from visionquant.samples import Energy


def zone(root: Path, name: str, microjoules: int, top: int = 10**12) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{top}\n")
    return folder


class StepClock(CpuClock):
    """A clock that moves on by a step's time when a step runs."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s


def found_counter(root: Path) -> energy.Counter:
    counter = energy.find("cpu", root)
    assert not isinstance(counter, str)
    return counter


def test_packages_are_added_up_subzones_are_not_and_a_wrap_is_undone(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 100), zone(tmp_path, "intel-rapl:1", 900, top=999)
    zone(tmp_path, "intel-rapl:0:0", 7)
    counter = found_counter(tmp_path)
    (first / "energy_uj").write_text("2000100")
    (second / "energy_uj").write_text("100")  # from 900 over 999 to 100: 200
    assert counter.joules() == pytest.approx(2.0 + 200e-6)


def test_where_there_is_no_counter_the_reason_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert energy.find("cpu", tmp_path) == "this machine shows no RAPL counter"
    assert energy.find("cpu", tmp_path / "nothing") == "this machine shows no RAPL counter"
    (tmp_path / "intel-rapl:0").mkdir()
    assert energy.find("cpu", tmp_path) == "the RAPL counter can't be read"

    def refused(zone: Path) -> int:
        raise PermissionError

    monkeypatch.setattr(energy.Rapl, "_microjoules", staticmethod(refused))
    assert energy.find("cpu", tmp_path) == "the RAPL counter is readable by root alone"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert energy.find("cuda", tmp_path) == "NVML can't be opened"


def test_a_window_lasts_for_seconds_and_updates_and_idle_is_taken_off(tmp_path: Path) -> None:
    folder, clock = zone(tmp_path, "intel-rapl:0", 0), StepClock()
    counter = found_counter(tmp_path)
    ticks = itertools.count(1)

    def step(i: int) -> None:
        clock.time_s += 0.05
        (folder / "energy_uj").write_text(str(next(ticks) * 3_000_000))  # 3 J a step: 60 W

    found = energy.window(step, clock, counter, 5.0, 4, 20.0)
    assert isinstance(found, Energy)
    assert found.seconds == pytest.approx(5.0, abs=0.06)
    assert found.updates >= 50
    assert found.joules == pytest.approx(60 * found.seconds)
    assert found.net_j_per_image == pytest.approx((60 - 20) * 0.05 / 4)


def test_a_counter_that_hardly_moves_is_no_measurement(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 0)
    clock = StepClock()

    def step(i: int) -> None:
        clock.time_s += 0.5

    found = energy.window(step, clock, found_counter(tmp_path), 5.0, 1, 0.0)
    assert found == "the counter changed 0 times in 15.5 s, 50 are needed"


def test_idle_watts_are_joules_over_seconds(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 0)
    counter = found_counter(tmp_path)
    pid = os.fork()
    if pid == 0:
        (folder / "energy_uj").write_text("1000000")
        os._exit(0)
    os.waitpid(pid, 0)
    assert energy.idle_w(counter, 0.2) == 0.0  # what was used before the look is not counted ...
    begun: list[Any] = []

    class Running(energy.Rapl):
        def joules(self) -> float:
            begun.append(0)
            return 2.0 * len(begun)

    assert energy.idle_w(Running([folder]), 0.2) == pytest.approx(2.0 / 0.2, rel=0.1)  # ... what is used meanwhile is
