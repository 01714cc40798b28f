"""Joules of a window of forward passes, where the machine has a counter that can be read.

On an NVIDIA GPU the counter of the whole board (NVML), on Intel and AMD CPUs that of the package (RAPL, which the
kernel mostly shows to root alone). A window lasts at least five seconds and fifty updates of the counter, or is no
result; what the idle machine draws was taken before anything was loaded and is shown beside it.
"""

import time
from pathlib import Path
from typing import Any, Protocol

from visionquant.bench.clock import Clock, Step
from visionquant.environment import open_gpu
from visionquant.samples import Energy

RAPL = Path("/sys/class/powercap")
UPDATES = 50
POLL_S = 0.02
LONGEST = 3  # times the seconds asked for, while waiting for updates


class Counter(Protocol):
    """An energy counter that only ever grows."""

    name: str

    def joules(self) -> float:
        """Joules so far."""


class Rapl:
    """The package counters of Linux's powercap, summed over packages; wraps are undone."""

    name = "RAPL package"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        self._last = [self._microjoules(zone) for zone in zones]
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self._total = 0.0

    @staticmethod
    def _microjoules(zone: Path) -> int:
        return int((zone / "energy_uj").read_text())

    def joules(self) -> float:
        for i, zone in enumerate(self._zones):
            now = self._microjoules(zone)
            self._total += (now - self._last[i]) % (self._ranges[i] + 1) / 1e6
            self._last[i] = now
        return self._total


class Board:
    """NVML's counter of a whole GPU, since its driver was loaded."""

    name = "NVML board"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


def find(device: str, rapl: Path = RAPL) -> Counter | str:
    """The counter of the device that is measured, or why there is none."""
    if device == "cuda":
        return _board()
    zones = sorted(zone for zone in rapl.glob("intel-rapl:*") if zone.name.count(":") == 1) if rapl.is_dir() else []
    if not zones:
        return "this machine shows no RAPL counter"
    try:
        return Rapl(zones)
    except PermissionError:
        return "the RAPL counter is readable by root alone"
    except (OSError, ValueError):
        return "the RAPL counter can't be read"


def _board() -> Counter | str:
    opened = open_gpu().__enter__()  # stays open as long as this process: the counter is read again and again
    if opened is None:
        return "NVML can't be opened"
    nvml, handle = opened
    try:
        board = Board(nvml, handle)
        board.joules()
    except nvml.NVMLError:
        return "this GPU has no energy counter"
    return board


def idle_w(counter: Counter, seconds: float) -> float:
    """Watts of the machine as it is now, over ``seconds``."""
    start_j, start_s = counter.joules(), time.monotonic()
    time.sleep(seconds)
    return round((counter.joules() - start_j) / (time.monotonic() - start_s), 3)


def window(
    step: Step, clock: Clock, counter: Counter, seconds: float, batch_size: int, idle: float, updates: int = UPDATES
) -> Energy | str:
    """Pass batches for at least ``seconds`` and read the counter meanwhile, or say why that is no measurement."""
    clock.synchronize()
    start_s, start_j = clock.now_s(), counter.joules()
    seen, changes, looked_s, now_s, count = start_j, 0, start_s, start_s, 0
    while now_s - start_s < seconds or changes < updates:
        if now_s - start_s > LONGEST * seconds:
            return f"the counter changed {changes} times in {now_s - start_s:.1f} s, {updates} are needed"
        step(count)
        count += 1
        now_s = clock.now_s()
        if now_s - looked_s >= POLL_S:
            clock.synchronize()
            now_s, now_j = clock.now_s(), counter.joules()
            changes, seen, looked_s = changes + (now_j != seen), now_j, now_s
    clock.synchronize()
    now_s, seen = clock.now_s(), counter.joules()
    return Energy(
        counter=counter.name,
        joules=round(seen - start_j, 4),
        seconds=round(now_s - start_s, 4),
        images=count * batch_size,
        updates=changes,
        idle_w=idle,
    )
