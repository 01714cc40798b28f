"""The reference kernel's readings: wall time on a CPU, the card's own and the host's on a GPU."""

import time
from dataclasses import replace
from typing import Any

import pytest
import tiny

from visionquant.bench import reference_kernel, worker
from visionquant.bench.clock import Clock
from visionquant.bench.device import Cuda, Device
from visionquant.settings.params import Protocol


class Marked(Clock):
    """A clock of a device that is as fast as this one, with a tenth of each step for itself."""

    def mark(self) -> Any:
        return time.perf_counter()

    def between_ms(self, start: Any, end: Any) -> float:
        return float(end - start) * 1e2


def test_a_cpu_has_one_reading() -> None:
    kernel_ms, host_ms = reference_kernel.read_ms("cpu", Clock())
    assert kernel_ms > 0
    assert host_ms is None


def test_a_gpu_has_its_own_time_for_the_product_and_the_hosts_for_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches are timed by the host, so they are not a tenth."""
    monkeypatch.setattr(Device, "kernel", replace(Device.kernel, side=8))
    monkeypatch.setattr(reference_kernel, "LAUNCHES", 2000)
    kernel_ms, host_ms = reference_kernel.read_ms("cpu", Marked())
    assert host_ms is not None
    assert 0 < kernel_ms < host_ms / 10


def test_the_second_reading_of_a_process_is_preceded_by_less(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Cuda.kernel.first_s > Cuda.kernel.again_s > 0
    monkeypatch.setattr(Device, "kernel", replace(Device.kernel, first_s=0.3))
    begin_s = time.monotonic()
    reference_kernel.read_ms("cpu", Clock())
    assert time.monotonic() - begin_s >= 0.3
    steps: list[float] = []
    monkeypatch.setattr(reference_kernel, "one_step", lambda step, clock, i: (steps.append(i), (1.0, None))[1])
    reference_kernel.read_ms("cpu", Clock(), again=True)
    assert len(steps) == reference_kernel.WARMUP + reference_kernel.READS  # no warm-up on a CPU


def test_noise_is_read_once_by_a_command_and_by_what_it_forks() -> None:
    """No two real readings are alike to a tenth of a microsecond, seven of them never."""
    reference_kernel.calibrate.cache_clear()
    protocol = Protocol(**tiny.PROTOCOL)
    found = reference_kernel.calibrate("cpu", protocol)
    assert len(found) == Device.kernel.readings
    assert worker.in_fork(lambda: reference_kernel.calibrate("cpu", protocol)) == found
    reference_kernel.calibrate.cache_clear()
    assert reference_kernel.calibrate("cpu", protocol) != found
