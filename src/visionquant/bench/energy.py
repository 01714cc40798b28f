"""Joules of a window of forward passes, where the machine has a counter that can be read.

On an NVIDIA GPU the counter of the whole board (NVML), on Intel and AMD CPUs that of the package (RAPL, which the
kernel mostly shows to root alone). A window lasts at least five seconds and fifty updates of the counter, or is no
result; what the idle machine draws was taken before anything was loaded and is shown beside it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from visionquant.bench.clock import Clock, Step
from visionquant.core.driver import open_gpu
from visionquant.records.cell import Energy

RAPL = Path("/sys/class/powercap")
UPDATES = 50
LOOK_S, POLL_S, QUEUE_S = 1.0, 0.002, 0.25
LONGEST = 3  # times the seconds asked for, where updates are slow
# A GPU that was just at work draws more than an idle one for some seconds.
REST_S, REST_MOST_S, REST_LOOK_S = 2.0, 30.0, 0.1
STEADY_SHARE, STEADY_W = 0.03, 1.0  # of power, whichever is more


class EnergyCounter(Protocol):
    """An energy counter that only ever grows."""

    name: str

    def joules(self) -> float:
        """Joules so far."""


@dataclass(frozen=True)
class Idle:
    """Watts of the idle machine; ``state`` of a GPU then, empty without one."""

    watts: float
    state: str = ""


class Rapl:
    """The package counters of Linux's powercap, summed over packages; wraps are undone."""

    name = "RAPL package"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        self._last = [self._microjoules(zone) for zone in zones]
        self._ranges = [int((zone / "max_energy_range_uj").read_text(encoding="utf-8")) for zone in zones]
        self._total = 0.0

    @staticmethod
    def _microjoules(zone: Path) -> int:
        return int((zone / "energy_uj").read_text(encoding="utf-8"))

    def joules(self) -> float:
        for i, zone in enumerate(self._zones):
            now = self._microjoules(zone)
            self._total += (now - self._last[i]) % (self._ranges[i] + 1) / 1e6
            self._last[i] = now
        return self._total


def packages(rapl: Path = RAPL) -> EnergyCounter | str:
    """The CPU's counter, or why there is none; zones that are parts of a package, or hold one, do not count."""
    try:
        zones = [zone for zone in sorted(rapl.glob("intel-rapl:*")) if _name(zone).startswith("package")]
        return Rapl(zones) if zones else "this machine shows no RAPL counter"
    except PermissionError:
        return "the RAPL counter is readable by root alone"
    except (OSError, ValueError):
        return "the RAPL counter can't be read"


def _name(zone: Path) -> str:
    path = zone / "name"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


class Board:
    """NVML's counter of a whole GPU, since its driver was loaded."""

    name = "NVML board"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def state(self) -> tuple[str, float]:
        """Performance state (P0 is the fastest; empty where it is hidden) and watts now, zero where they are hidden."""
        state, watts = "", 0.0
        with suppress(self._nvml.NVMLError):
            state = f"P{self._nvml.nvmlDeviceGetPerformanceState(self._handle)}"
        with suppress(self._nvml.NVMLError):
            watts = self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3
        return state, watts


@contextmanager
def board() -> Iterator[EnergyCounter | str]:
    """The GPU's counter, with NVML open meanwhile, or why there is none."""
    with open_gpu() as opened:
        if opened is None:
            yield "NVML can't be opened"
            return
        counter = Board(*opened)
        try:
            counter.joules()
        except opened[0].NVMLError:
            yield "this GPU has no energy counter"
            return
        yield counter


def period_s(counter: EnergyCounter, look_s: float = LOOK_S) -> float | None:
    """Seconds between two updates of the counter, as seen in ``look_s``; None if there was none."""
    changes, last, begin_s = 0, counter.joules(), time.monotonic()
    while time.monotonic() - begin_s < look_s:
        now = counter.joules()
        changes, last = changes + (now != last), now
        time.sleep(POLL_S)
    return (time.monotonic() - begin_s) / changes if changes else None


def idle(counter: EnergyCounter, seconds: float) -> Idle:
    """The machine as it is now, over ``seconds``; a GPU when it has come to rest."""
    state = rest(counter.state) if isinstance(counter, Board) else ""
    start_j, start_s = counter.joules(), time.monotonic()
    time.sleep(seconds)
    return Idle(round((counter.joules() - start_j) / (time.monotonic() - start_s), 3), state)


def rest(
    look: Callable[[], tuple[str, float]],
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Wait until state and power were the same for ``REST_S``, ``REST_MOST_S`` at most; the state, and if that failed.

    ``look`` tells performance state and watts.
    """
    begin_s = now_s()
    seen = [(begin_s, *look())]
    while True:
        state = seen[-1][1]
        lately = [sample for sample in seen if sample[0] >= seen[-1][0] - REST_S]
        watts = [sample[2] for sample in lately]
        steady = max(watts) - min(watts) <= max(STEADY_W, STEADY_SHARE * max(watts))
        if len(lately) < len(seen) and steady and all(sample[1] == state for sample in lately):
            return state
        if seen[-1][0] - begin_s >= REST_MOST_S:
            return f"{state}, not at rest after {REST_MOST_S:g} s".lstrip(", ")
        sleep(REST_LOOK_S)
        seen.append((now_s(), *look()))


def window(
    step: Step, clock: Clock, counter: EnergyCounter, seconds: float, batch_size: int, idle: Idle
) -> Energy | str:
    """Pass batches for at least ``seconds`` and ``UPDATES`` updates of the counter, or say why that is no measurement.

    A GPU is waited for now and then, so that its queue stays short.
    """
    period = period_s(counter)
    if period is None:
        return "the counter stands still"
    needed_s, most_s = max(seconds, UPDATES * period), LONGEST * seconds
    if needed_s > most_s:
        return f"the counter is updated every {period:.2f} s: {UPDATES} updates take longer than {most_s:g} s"
    clock.synchronize()
    start_s, start_j = clock.now_s(), counter.joules()
    waited_s, count = start_s, 0
    while clock.now_s() - start_s < needed_s:
        step(count)
        count += 1
        if clock.now_s() - waited_s > QUEUE_S:
            clock.synchronize()
            waited_s = clock.now_s()
    clock.synchronize()
    end_s = clock.now_s()
    return Energy(
        counter=counter.name,
        joules=round(counter.joules() - start_j, 4),
        seconds=round(end_s - start_s, 4),
        images=count * batch_size,
        updates=int((end_s - start_s) / period),
        idle_w=idle.watts,
        idle_state=idle.state,
    )
