"""Energy from real counter files in the kernel's layout, moved on while a window runs."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from visionquant.bench import device, telemetry
from visionquant.bench.clock import Clock
from visionquant.records.cell import Energy


def zone(root: Path, name: str, microjoules: int, top: int = 10**12, kind: str = "package-0") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{top}\n")
    (folder / "name").write_text(f"{kind}\n")
    return folder


def found_counter(root: Path) -> telemetry.EnergyCounter:
    counter = telemetry.packages(root)
    assert not isinstance(counter, str)
    return counter


def test_packages_are_added_up_other_zones_are_not_and_a_wrap_is_undone(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 100), zone(tmp_path, "intel-rapl:1", 900, top=999)
    zone(tmp_path, "intel-rapl:0:0", 7, kind="core")
    zone(tmp_path, "intel-rapl:2", 7, kind="psys")
    counter = found_counter(tmp_path)
    (first / "energy_uj").write_text("2000100")
    (second / "energy_uj").write_text("100")  # from 900 over 999 to 100: 200
    assert counter.joules() == pytest.approx(2.0 + 200e-6)


def test_where_there_is_no_counter_the_reason_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert telemetry.packages(tmp_path) == "this machine shows no RAPL counter"
    assert telemetry.packages(tmp_path / "nothing") == "this machine shows no RAPL counter"
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "name").write_text("package-0\n")
    assert telemetry.packages(tmp_path) == "the RAPL counter can't be read"

    def refused(zone: Path) -> int:
        raise PermissionError

    monkeypatch.setattr(telemetry.Rapl, "_microjoules", staticmethod(refused))
    assert telemetry.packages(tmp_path) == "the RAPL counter is readable by root alone"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with telemetry.board() as counter:
        assert counter == "NVML can't be opened"


class Scripted(Clock):
    """A time of its own, in place of the module's and of the clock: reading it takes a microsecond."""

    def __init__(self) -> None:
        self.s = 100.0

    def monotonic(self) -> float:
        self.s += 1e-6
        return self.s

    def sleep(self, seconds: float) -> None:
        self.s += seconds

    now_s = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted()
    monkeypatch.setattr(telemetry, "time", scripted)
    return scripted


class Steady:
    """A counter that grows by so many watts with the time, in steps of ``period_s``."""

    name = "made up"

    def __init__(self, clock: Scripted, watts: float, period_s: float) -> None:
        self.clock, self.watts, self.period_s = clock, watts, period_s

    def joules(self) -> float:
        return self.watts * int(self.clock.monotonic() / self.period_s) * self.period_s


def test_a_window_lasts_for_seconds_and_updates_and_idle_is_taken_off(clock: Scripted) -> None:
    found = telemetry.window(
        lambda i: clock.sleep(0.01), clock, Steady(clock, 60.0, 0.01), 0.6, 4, telemetry.Idle(20.0)
    )
    assert isinstance(found, Energy)
    assert found.seconds >= 0.6
    assert found.updates >= telemetry.UPDATES
    assert found.joules == pytest.approx(60 * found.seconds, rel=0.05)
    assert found.net_j_per_image == pytest.approx(40 * found.seconds / found.images, rel=0.1)


def test_a_slow_counter_makes_the_window_longer_or_impossible(clock: Scripted) -> None:
    found = telemetry.window(lambda i: clock.sleep(0.01), clock, Steady(clock, 60.0, 0.02), 0.5, 1, telemetry.Idle(0.0))
    assert isinstance(found, Energy)
    assert found.seconds >= 0.9  # fifty updates
    found = telemetry.window(lambda i: None, clock, Steady(clock, 60.0, 0.2), 0.5, 1, telemetry.Idle(0.0))
    assert isinstance(found, str)
    assert found.startswith("the counter is updated every 0.2")


def test_a_counter_that_stands_still_is_no_measurement(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 0)
    found = telemetry.window(lambda i: None, Clock(), found_counter(tmp_path), 5.0, 1, telemetry.Idle(0.0))
    assert found == "the counter stands still"


LIBRARY = """
class NVMLError(Exception):
    pass

opened = 0

def nvmlInit():
    global opened
    opened += 1

def nvmlShutdown():
    global opened
    opened -= 1

def nvmlDeviceGetTotalEnergyConsumption(handle):
    if not opened:
        raise NVMLError("uninitialized")
    return 5000

nvmlDeviceGetPerformanceState = lambda handle: 8
nvmlDeviceGetPowerUsage = lambda handle: 15000
nvmlDeviceGetCount = lambda: 1
nvmlDeviceGetHandleByIndex = lambda i: "card"
"""


def test_the_boards_counter_is_open_as_long_as_it_is_read_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pynvml.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with device.of("cuda").energy_counter() as counter:
        assert isinstance(counter, telemetry.Board)
        assert counter.joules() == 5.0
        assert counter.state() == ("P8", 15.0)
        monkeypatch.setattr(telemetry, "REST_S", 0.0)
        assert telemetry.idle(counter, 0.01) == telemetry.Idle(0.0, "P8")
        assert sys.modules["pynvml"].opened == 1
    assert sys.modules.pop("pynvml").opened == 0


def test_idle_watts_are_joules_over_seconds(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 0)
    counter = found_counter(tmp_path)
    pid = os.fork()
    if pid == 0:
        (folder / "energy_uj").write_text("1000000")
        os._exit(0)
    os.waitpid(pid, 0)
    assert telemetry.idle(counter, 0.2) == telemetry.Idle(0.0)  # what was used before the look is not counted ...
    begun: list[Any] = []

    class Running(telemetry.Rapl):
        def joules(self) -> float:
            begun.append(0)
            return 2.0 * len(begun)

    assert telemetry.idle(Running([folder]), 0.2).watts == pytest.approx(
        2.0 / 0.2, rel=0.1
    )  # ... what is used meanwhile is


def test_a_warm_card_is_waited_for_until_it_rests(clock: Scripted) -> None:
    """Four seconds in P2 at falling power, then P8; one that never rests is looked at all the same, and says so."""
    begin_s = clock.s

    def cooling() -> tuple[str, float]:
        s = clock.s - begin_s
        return ("P2", 90 - 10 * s) if s < 4 else ("P8", 15 + s % 0.5)

    assert telemetry.rest(cooling) == "P8"
    assert clock.s - begin_s == pytest.approx(6.05, abs=0.2)
    begin_s = clock.s
    assert telemetry.rest(lambda: ("P0", 40 + 30 * (clock.s % 1))) == "P0, not at rest after 30 s"
    assert clock.s - begin_s == pytest.approx(30.05, abs=0.2)
