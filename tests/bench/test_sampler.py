"""The NVML sampler as a real process, on a library of the same shape that is put in its way."""

import os
import time
from pathlib import Path

import pytest

from visionquant.bench.telemetry import Sampler, summary

LIBRARY = """
class NVMLError(Exception):
    pass

NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
nvmlInit = nvmlShutdown = lambda: None
nvmlDeviceGetCount = lambda: 1
nvmlDeviceGetHandleByIndex = lambda i: "card"
nvmlDeviceGetClockInfo = lambda handle, kind: {1: 1500, 2: 2600}[kind]
nvmlDeviceGetTemperature = lambda handle, kind: 55
nvmlDeviceGetPowerUsage = lambda handle: 250000
nvmlDeviceGetCurrentClocksEventReasons = lambda handle: 0x04 | 0x01
"""


def test_a_process_of_its_own_samples_until_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pynvml.py").write_text(LIBRARY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    begun_s = time.monotonic()
    sampler = Sampler()
    try:
        deadline = begun_s + 300
        while len(sampler.samples) < 12 and time.monotonic() < deadline:
            time.sleep(0.05)
        found = sampler.between(begun_s, time.monotonic())
    finally:
        sampler.stop()
    assert found is not None
    assert found.samples >= 12
    assert (found.sm_mhz_low, found.sm_mhz_median, found.memory_mhz_median) == (1500, 1500, 2600)
    assert (found.temperature_c_high, found.power_w_median) == (55, 250)
    assert found.throttle_reasons == ("power cap",)  # idle clocks (0x01) are no throttling
    assert found.sampler_share < 0.05
    assert any(round(1e4 * one["cpu_s"]) % 100 for one in sampler.samples)  # finer than the kernel's ticks of 10 ms
    assert sampler.between(0.0, 1.0) is None
    assert sampler.process.returncode is not None
    assert os.getpid() != sampler.process.pid


def test_without_a_gpu_nothing_was_seen() -> None:
    assert summary([]) is None
