"""What the machine's counters tell: Joules of a window of forward passes, and how the GPU was meanwhile.

Energy of an NVIDIA GPU is that of the whole board (NVML), of Intel and AMD CPUs that of the package (RAPL, which the
kernel mostly shows to root alone). A window lasts at least five seconds and fifty updates of the counter, or is no
result; what the idle machine draws was taken before anything was loaded and is shown beside it.

Clocks, temperature, power and throttling are asked for ten times a second by a process of its own without torch:
``python -m visionquant.bench.telemetry`` writes a JSON object a line, with its own cost, and ends with its parent.
"""

import json
import operator
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, reduce
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

from visionquant.bench.clock import Clock, Step
from visionquant.core.driver import open_gpu
from visionquant.records.cell import Energy, GpuConditions

RAPL = Path("/sys/class/powercap")
UPDATES = 50
LOOK_S, POLL_S, QUEUE_S = 1.0, 0.002, 0.25
LONGEST = 3  # times the seconds asked for, where updates are slow
# A GPU that was just at work draws more than an idle one for some seconds.
REST_S, REST_MOST_S, REST_LOOK_S = 2.0, 30.0, 0.1
STEADY_SHARE, STEADY_W = 0.03, 1.0  # of power, whichever is more
PERIOD_S = 0.1
# nvml.h, nvmlClocksEventReasons; idle and application clocks are no throttling
REASONS = {4: "power cap", 8: "hardware slowdown", 32: "thermal (software)", 64: "thermal (hardware)"}
REASONS |= {128: "power brake"}


class EnergyCounter(Protocol):
    """An energy counter that only ever grows."""

    name: str

    def joules(self) -> float:
        """Joules so far."""


class Idle(NamedTuple):
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
        last, self._last = self._last, [self._microjoules(zone) for zone in self._zones]
        steps = zip(self._last, last, self._ranges, strict=True)
        self._total += sum((now - before) % (most + 1) for now, before, most in steps) / 1e6
        return self._total


def packages(rapl: Path = RAPL) -> EnergyCounter | str:
    """The CPU's counter, or why there is none; zones that are parts of a package, or hold one, do not count."""
    try:
        names = sorted(rapl.glob("intel-rapl:*/name"))
        zones = [path.parent for path in names if path.read_text(encoding="utf-8").startswith("package")]
        return Rapl(zones) if zones else "this machine shows no RAPL counter"
    except PermissionError:
        return "the RAPL counter is readable by root alone"
    except (OSError, ValueError):
        return "the RAPL counter can't be read"


class Board:
    """NVML's counter of a whole GPU, since its driver was loaded."""

    name = "NVML board"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def state(self) -> tuple[str, float]:
        """Performance state (P0 is the fastest; empty where it is hidden) and watts now, zero where they are hidden."""
        state = _read(self._nvml, self._handle, "nvmlDeviceGetPerformanceState")
        watts = _read(self._nvml, self._handle, "nvmlDeviceGetPowerUsage")
        return "" if state is None else f"P{state:g}", (watts or 0.0) / 1e3


@contextmanager
def board() -> Iterator[EnergyCounter | str]:
    """The GPU's counter, with NVML open meanwhile, or why there is none."""
    with open_gpu() as opened:
        if opened is None:
            yield "NVML can't be opened"
        elif _read(*opened, "nvmlDeviceGetTotalEnergyConsumption") is None:
            yield "this GPU has no energy counter"
        else:
            yield Board(*opened)


def keep_open() -> None:
    """Leave NVML open in this process, which forks no more: opening it for a question takes longer than many a slot."""
    with suppress(Exception):  # there is none
        import pynvml

        pynvml.nvmlInit()


def computing() -> set[int] | None:
    """The processes that compute on the GPU; None where NVML does not tell."""
    with open_gpu() as opened:
        if opened is not None:
            with suppress(opened[0].NVMLError):
                return {process.pid for process in opened[0].nvmlDeviceGetComputeRunningProcesses(opened[1])}
    return None


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


def rest(state_and_watts: Callable[[], tuple[str, float]]) -> str:
    """Wait until both were the same for ``REST_S``, ``REST_MOST_S`` at most; the state, and whether that failed."""
    begin_s = time.monotonic()
    seen = [(begin_s, *state_and_watts())]
    while True:
        state = seen[-1][1]
        lately = [sample for sample in seen if sample[0] >= seen[-1][0] - REST_S]
        watts = [sample[2] for sample in lately]
        steady = max(watts) - min(watts) <= max(STEADY_W, STEADY_SHARE * max(watts))
        if len(lately) < len(seen) and steady and all(sample[1] == state for sample in lately):
            return state
        if seen[-1][0] - begin_s >= REST_MOST_S:
            return f"{state}, not at rest after {REST_MOST_S:g} s".lstrip(", ")
        time.sleep(REST_LOOK_S)
        seen.append((time.monotonic(), *state_and_watts()))


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


def _read(nvml: Any, handle: Any, name: str, *arguments: Any) -> float | None:
    """What a function of NVML says of this GPU, None where it hides that or the library is older."""
    with suppress(nvml.NVMLError, AttributeError):
        return float(getattr(nvml, name)(handle, *arguments))
    return None


def look(nvml: Any, handle: Any) -> dict[str, Any]:
    """One sample: MHz, degrees Celsius, watts, and the bits of the reasons to throttle; None what this GPU hides."""
    read = partial(_read, nvml, handle)
    reasons, power_mw = read("nvmlDeviceGetCurrentClocksEventReasons"), read("nvmlDeviceGetPowerUsage")
    return {
        "sm_mhz": read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "memory_mhz": read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        "temperature_c": read("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "power_w": None if power_mw is None else power_mw / 1e3,
        "reasons": read("nvmlDeviceGetCurrentClocksThrottleReasons") if reasons is None else reasons,
    }


def run() -> None:
    """Sample until the parent is gone."""
    parent = os.getppid()
    with open_gpu() as opened, suppress(BrokenPipeError):
        while opened is not None and os.getppid() == parent:
            spent_s = time.process_time()  # os.times ticks in 10 ms
            sample = {"at_s": time.monotonic(), "cpu_s": spent_s, **look(*opened)}
            sys.stdout.write(json.dumps(sample) + "\n")
            sys.stdout.flush()
            time.sleep(PERIOD_S)


class Sampler:
    """The sampling process and what it has said so far; a thread takes up its lines."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "visionquant.bench.telemetry"]
        self.samples: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if line.endswith("\n"):  # the last may be cut
                    self.samples.append(json.loads(line))

    def between(self, start_s: float, end_s: float) -> GpuConditions | None:
        """Sum up what was seen from ``start_s`` to ``end_s`` (time.monotonic), None if nothing was."""
        return summary([sample for sample in self.samples if start_s <= sample["at_s"] <= end_s])

    def stop(self) -> None:
        """End the process and take up its last lines."""
        self.process.kill()
        self.process.wait()
        self._listener.join()


def summary(samples: list[dict[str, Any]]) -> GpuConditions | None:
    """Lowest, median or highest of each reading, and what the sampler itself cost."""
    if not samples:
        return None
    bits = reduce(operator.or_, (int(sample["reasons"] or 0) for sample in samples))

    def over(name: str, choose: Any) -> float | None:
        seen = [sample[name] for sample in samples if sample[name] is not None]
        return round(choose(seen), 2) if seen else None

    wall_s, cpu_s = (samples[-1][name] - samples[0][name] for name in ("at_s", "cpu_s"))
    return GpuConditions(
        samples=len(samples),
        sm_mhz_low=over("sm_mhz", min),
        sm_mhz_median=over("sm_mhz", median),
        memory_mhz_median=over("memory_mhz", median),
        temperature_c_high=over("temperature_c", max),
        power_w_median=over("power_w", median),
        throttle_reasons=tuple(name for bit, name in REASONS.items() if bits & bit),
        sampler_share=round(cpu_s / wall_s if wall_s > 0 else 0.0, 5),
    )


if __name__ == "__main__":
    run()
