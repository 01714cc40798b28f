"""Kinds of devices: how each tells the time, counts its memory and energy, and says who else is at work on it.

A new kind is one class here and one row of ``KINDS`` (and of the ``device`` of settings and records). What computes
takes a kind's name and asks :func:`of`; nothing else in this package knows one kind from another.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from visionquant.bench import op_count, telemetry
from visionquant.bench.clock import Clock, Step
from visionquant.core import driver
from visionquant.core.errors import MachineMismatch, StudyError
from visionquant.records.cell import Launch


@dataclass(frozen=True)
class KernelPlan:
    """Of the reference kernels: the side of the matrices, and bytes that are copied."""

    side: int
    stream_bytes: int


class Device:
    """A CPU, whose answers are every kind's unless it knows better.

    ``half`` is its 16-bit type. ``a_process_an_arm``: the arms of a round have processes of their own, into which
    converted weights are read; else one process has them all, at all batch sizes. ``in_host_memory``: activations lie
    there. ``cold_passes`` load kernels and choose algorithms, and count as nothing.
    """

    kind = "cpu"
    half = torch.bfloat16
    a_process_an_arm = in_host_memory = True
    cold_passes = 0
    kernel = KernelPlan(side=512, stream_bytes=2**26)

    def clock(self) -> Clock:
        return Clock()

    def choose(self) -> None:
        """Hide every other kind from libraries, before they are imported, so that none opens one before a fork."""
        os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def require(self) -> None:
        """Insist that torch can use it (MachineMismatch); may open it, so call it in a process that forks no more."""

    def alive(self) -> bool:
        """Whether it still works after an error."""
        return True

    def synchronize(self) -> None:
        """Wait until it has nothing left to do."""

    def allocated_bytes(self) -> int | None:
        """What torch has allocated on it now; None where that is host memory."""
        return None

    def peaks(self, run: Callable[[], object]) -> tuple[int | None, int | None]:
        """Peaks of (allocated, reserved) bytes in ``run``, from an empty cache; None, and no run, in host memory."""
        return None, None

    def energy_counter(self) -> AbstractContextManager[telemetry.EnergyCounter | str]:
        """The counter of what it draws, open meanwhile, or why there is none."""
        return nullcontext(telemetry.packages())

    def computing(self) -> set[int] | None:
        """The processes that compute on it, of which a CPU's are counted elsewhere; None where nobody tells."""
        return {os.getpid()}

    def sampler(self) -> telemetry.Sampler | None:
        """A process that looks at its clocks and temperature from now on, where it has such."""
        return None

    def profile(self, step: Step) -> Launch | None:
        """How long it is at work in a pass, and in how many kernels; None where the host's time is all there is."""
        return None

    def versions(self) -> dict[str, str | int | float | bool]:
        """Of what torch runs there."""
        return {}


class CudaClock(Clock):
    """perf_counter around torch.cuda.synchronize, and two CUDA events, made beforehand and used again and again."""

    def __init__(self) -> None:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        self._events = itertools.cycle(events)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def mark(self) -> Any:
        event = next(self._events)
        event.record()
        return event

    def between_ms(self, start: Any, end: Any) -> float | None:
        return float(start.elapsed_time(end))


class Cuda(Device):
    """An NVIDIA GPU, the one that NVML lists first, as the probe of the machine reads it."""

    kind = "cuda"
    half = torch.float16
    a_process_an_arm = in_host_memory = False
    cold_passes = 1
    kernel = KernelPlan(side=4096, stream_bytes=2**30)

    def clock(self) -> Clock:
        return CudaClock()

    def choose(self) -> None:
        """None is hidden; is_available() is to ask NVML, which opens nothing."""

    def require(self) -> None:
        try:  # is_available() would ask NVML alone, which knows the card and not whether its driver serves torch
            float(torch.zeros(1, device=self.kind))
        except (RuntimeError, AssertionError) as error:
            why = str(error).strip().split("\n")[0].split(". ")[0]
            if "out of memory" in why:
                raise
            busy = "busy or unavailable" in why  # compute mode EXCLUSIVE_PROCESS
            remedy = "end what else uses it" if busy else driver.remedy(torch.version.cuda)
            found = f"torch {torch.__version__} can't use a GPU here ({why})"
            raise MachineMismatch("study.device", found, f"{remedy}, or set it to cpu") from None
        telemetry.keep_open()

    def alive(self) -> bool:
        """After a kernel's failure every call fails, after running out of memory none."""
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return False
        return True

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def allocated_bytes(self) -> int | None:
        return int(torch.cuda.memory_allocated())

    def peaks(self, run: Callable[[], object]) -> tuple[int | None, int | None]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()), int(torch.cuda.max_memory_reserved())

    def energy_counter(self) -> AbstractContextManager[telemetry.EnergyCounter | str]:
        return telemetry.board()

    def computing(self) -> set[int] | None:
        return telemetry.computing()

    def sampler(self) -> telemetry.Sampler | None:
        return telemetry.Sampler()

    def profile(self, step: Step) -> Launch | None:
        return op_count.profile(step)

    def versions(self) -> dict[str, str | int | float | bool]:
        return {"cuda": str(torch.version.cuda), "cudnn": int(torch.backends.cudnn.version() or 0)}  # type: ignore[no-untyped-call]


KINDS: Mapping[str, type[Device]] = {"cpu": Device, "cuda": Cuda}


@cache
def of(kind: str) -> Device:
    """The device of a kind; a StudyError where there is no such kind."""
    if kind not in KINDS:
        raise StudyError("device", f"no kind named {kind}", f"one of {', '.join(KINDS)}")
    return KINDS[kind]()
