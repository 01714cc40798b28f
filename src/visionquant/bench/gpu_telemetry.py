"""A process of its own that asks NVML ten times a second how the GPU is: clocks, temperature, power, throttling.

It does not import torch; what it costs it measures itself. Run as ``python -m visionquant.bench.gpu_telemetry``; it
writes a JSON object a line and ends with its parent.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from visionquant.records.cell import GpuConditions

PERIOD_S = 0.1
REASONS = {  # nvml.h, nvmlClocksEventReasons; idle and application clocks are no throttling
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
}


def look(nvml: Any, handle: Any) -> dict[str, Any]:
    """One sample: MHz, degrees Celsius, watts, and the bits of the reasons to throttle; None what this GPU hides."""

    def read(*names: str, arguments: tuple[Any, ...] = (), scale: float = 1.0) -> float | None:
        for name in names:
            try:
                return float(getattr(nvml, name)(handle, *arguments)) / scale
            except (nvml.NVMLError, AttributeError):
                continue
        return None

    return {
        "sm_mhz": read("nvmlDeviceGetClockInfo", arguments=(nvml.NVML_CLOCK_SM,)),
        "memory_mhz": read("nvmlDeviceGetClockInfo", arguments=(nvml.NVML_CLOCK_MEM,)),
        "temperature_c": read("nvmlDeviceGetTemperature", arguments=(nvml.NVML_TEMPERATURE_GPU,)),
        "power_w": read("nvmlDeviceGetPowerUsage", scale=1e3),
        "reasons": read("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
    }


def run() -> None:
    """Sample until the parent is gone."""
    from visionquant.core.machine import open_gpu

    parent = os.getppid()
    with open_gpu() as opened:
        if opened is None:
            return
        while os.getppid() == parent:
            sample = {
                "at_s": time.monotonic(),
                "cpu_s": time.process_time(),
                **look(*opened),
            }  # os.times ticks in 10 ms
            try:
                sys.stdout.write(json.dumps(sample) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                return
            time.sleep(PERIOD_S)


@dataclass
class Sampler:
    """The sampling process and what it has said so far."""

    process: subprocess.Popen[str]
    samples: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls) -> "Sampler":
        """Start the process; a thread takes up its lines."""
        command = [sys.executable, "-m", "visionquant.bench.gpu_telemetry"]
        return cls(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8")
        )

    def __post_init__(self) -> None:
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if line.endswith("\n"):  # the last one may be cut
                    self.samples.append(json.loads(line))

    def between(self, start_s: float, end_s: float) -> GpuConditions | None:
        """Sum up what was seen from ``start_s`` to ``end_s`` (time.monotonic), None if nothing was."""
        return summary([one for one in self.samples if start_s <= one["at_s"] <= end_s])

    def stop(self) -> None:
        """End the process and take up its last lines."""
        self.process.kill()
        self.process.wait()
        self._listener.join()


def summary(samples: list[dict[str, Any]]) -> GpuConditions | None:
    """Lowest, median or highest of each reading, and what the sampler itself cost."""
    if not samples:
        return None
    bits = 0
    for one in samples:
        bits |= int(one["reasons"] or 0)

    def over(name: str, choose: Callable[[list[float]], float]) -> float | None:
        found = [one[name] for one in samples if one[name] is not None]
        return round(choose(found), 2) if found else None

    wall_s = samples[-1]["at_s"] - samples[0]["at_s"]
    cost = (samples[-1]["cpu_s"] - samples[0]["cpu_s"]) / wall_s if wall_s > 0 else 0.0
    return GpuConditions(
        samples=len(samples),
        sm_mhz_low=over("sm_mhz", min),
        sm_mhz_median=over("sm_mhz", median),
        memory_mhz_median=over("memory_mhz", median),
        temperature_c_high=over("temperature_c", max),
        power_w_median=over("power_w", median),
        throttle_reasons=tuple(name for bit, name in REASONS.items() if bits & bit),
        sampler_share=round(cost, 5),
    )


if __name__ == "__main__":
    run()
