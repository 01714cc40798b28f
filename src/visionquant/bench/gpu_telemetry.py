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
from contextlib import suppress
from statistics import median
from typing import Any

from visionquant.core.driver import open_gpu
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
            with suppress(nvml.NVMLError, AttributeError):
                return float(getattr(nvml, name)(handle, *arguments)) / scale
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
        command = [sys.executable, "-m", "visionquant.bench.gpu_telemetry"]
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
    bits = 0
    for sample in samples:
        bits |= int(sample["reasons"] or 0)

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
