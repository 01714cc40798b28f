"""What else the machine was doing, from files in the kernel's format and from this kernel."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from visionquant.bench import host
from visionquant.bench.host import Reading, Shares
from visionquant.core import processors
from visionquant.records import cell

TICKS = os.sysconf("SC_CLK_TCK")


def kernel(folder: Path, busy_s: float = 0.0, steal_s: float = 0.0, waiting_s: float = 0.0) -> tuple[Path, Path]:
    """What it tells after so many seconds of all cores, beside a lot of idling."""
    ticks = [busy_s - 1, 0.25, 0.75, 1e4 + busy_s, 50, 0, 0, steal_s, 7, 7]
    stat, pressure = folder / "stat", folder / "pressure"
    stat.write_text("cpu  " + " ".join(str(round(one * TICKS)) for one in ticks) + "\ncpu0 0\n")
    pressure.write_text(f"some avg10=0.00 avg60=0.00 avg300=0.00 total={waiting_s * 1e6:.0f}\nfull total=1\n")
    return stat, pressure


def test_a_reading_is_what_the_kernel_tells(tmp_path: Path) -> None:
    found = Reading.now(*kernel(tmp_path, busy_s=10, steal_s=3, waiting_s=2.5))
    assert found[:3] == (10.0, 3.0, 2.5)


def test_what_this_process_did_not_use_others_did() -> None:
    """Two of four cores for ten seconds, of which one was its own; steal and waiting are of the cores that it uses."""
    before = Reading(100.0, 5.0, 1.0, own_s=3.0, wall_s=50.0)
    after = Reading(120.0, 6.0, 2.0, own_s=13.0, wall_s=60.0)
    assert before.until(after, 4) == pytest.approx((0.25, 0.025, 0.1), abs=2e-3)
    assert before.until(after, 2) == pytest.approx((0.5, 0.05, 0.1), abs=2e-3)


def test_shares_stay_between_none_and_all_and_ticks_that_may_be_chance_accuse_nobody() -> None:
    before = Reading(100.0, 5.0, 1.0, own_s=0.0, wall_s=0.0)
    assert before.until(before._replace(wall_s=0.05, busy_s=100.02, steal_s=5.01), 1) == Shares(0.0, 0.0, 0.0)
    assert before.until(before._replace(wall_s=0.05, own_s=1.0), 1) == Shares(0.0, 0.0, 0.0)
    assert before.until(Reading(200.0, 200.0, 200.0, own_s=0.0, wall_s=1.0), 1) == Shares(1.0, 1.0, 1.0)


def test_a_kernel_that_tells_nothing_leaves_it_unknown_and_nobody_busy(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("cpu\n")
    for stat in (tmp_path / "nothing", tmp_path / "broken"):
        before = Reading.now(stat, tmp_path / "nothing")
        found = before.until(before._replace(wall_s=before.wall_s + 1), 2)
        assert found == Shares(None, None, None)
        assert not found.busy
    full = Reading(1.0, 1.0, 1.0, 0.0, 0.0)
    assert full.until(full, 2) == Shares(None, None, None)  # no time has passed


@pytest.mark.parametrize("name", ["others", "steal", "pressure"])
def test_a_span_is_busy_beyond_each_limit(name: str) -> None:
    limit = getattr(cell, f"BUSY_{name.upper()}")
    assert not Shares(0.0, None, 0.0)._replace(**{name: limit}).busy
    assert Shares(0.0, None, 0.0)._replace(**{name: limit + 0.01}).busy


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine of two cores with a time of its own, all of which others use until ``quiet_at`` seconds."""
    made = SimpleNamespace(s=0.0, quiet_at=0.0)
    real = Reading.now

    def sleep(seconds: float) -> None:
        made.s += seconds

    def now() -> Reading:
        return real(*kernel(tmp_path, busy_s=100 + 2 * min(made.s, made.quiet_at)))

    monkeypatch.setattr(host, "time", SimpleNamespace(monotonic=lambda: made.s, sleep=sleep, process_time=lambda: 0.0))
    monkeypatch.setattr(host.Reading, "now", now)
    monkeypatch.setattr(processors, "usable", lambda: 2)
    return made


@pytest.mark.parametrize(
    ("quiet_at", "most_s", "waited_s", "told"),
    [(0.0, 60.0, 0.25, 0), (10.0, 60.0, 10.25, 8), (100.0, 5.0, 5.0, 4), (100.0, 0.0, 0.0, 0)],
)
def test_others_are_waited_for_as_long_as_they_work_and_no_longer_than_asked(
    machine: Any, quiet_at: float, most_s: float, waited_s: float, told: int
) -> None:
    machine.quiet_at = quiet_at
    left: list[float] = []
    assert host.wait_for_quiet(most_s, left.append) == pytest.approx(waited_s)
    assert machine.s == pytest.approx(waited_s)
    assert len(left) == told
    assert left == sorted(left, reverse=True)
    assert all(0 < each < most_s for each in left)


@pytest.mark.skipif(not host.STAT.is_file(), reason="no /proc here")
def test_this_kernel_tells_what_others_use() -> None:
    """A process that is forked from here is another."""
    cores = os.cpu_count() or 1
    before = Reading.now()
    children = [os.fork() for _ in range(2)]
    if 0 in children:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    after = Reading.now()
    assert after.own_s - before.own_s < 0.3
    found = before.until(after, cores)
    assert found.others is not None
    assert found.others * (after.wall_s - before.wall_s) * cores > 0.5


def test_the_peak_of_a_process_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peak = host.peak_bytes()
    if peak is not None:
        assert peak >= host.resident_bytes() > 2**20
    monkeypatch.setattr(host, "STATUS", tmp_path / "nothing")
    assert host.peak_bytes() is None


def test_a_control_groups_limit_is_less_what_it_can_not_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "GROUP", tmp_path)
    free = host.available_bytes()
    for name, text in {"max": "9000000", "current": "5000000", "stat": "anon 1\ninactive_file 1000000"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert host.available_bytes() == 5_000_000
    (tmp_path / "memory.max").write_text("max")
    assert host.available_bytes() == pytest.approx(free, rel=0.5)
