"""A make-believe card: where REHEARSAL_CARD is set, every Python process takes device "cuda" to be its CPU.

Tensors stay on the CPU, events are wall clocks, memory counters are made up, a profile is a constant; what runs is the
package's own code for CUDA, and whatever the libraries do when they believe that there is a GPU. The first use of the
card in a process calls ``cuInit`` of the stub driver, so that its log tells who opened the card and who forked then.
Not shown: kernels, times, tensors left on the wrong device, and what a library's own CUDA code would do.
"""

import ctypes
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

MIB = 2**20
LOST: list[str] = []


def opened() -> None:
    """Note in the stub driver's log that this process uses the card; once it is lost to a process, all its uses fail.

    It is lost to the process that first finds the file REHEARSAL_LOST, and takes it away.
    """
    lost = os.environ.get("REHEARSAL_LOST")
    if lost and os.path.exists(lost):  # noqa: PTH110 in every call
        os.unlink(lost)  # noqa: PTH108
        LOST.append(lost)
    if LOST:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1").cuInit(0)


@contextmanager
def torch(module: ModuleType) -> Iterator[None]:
    """After torch is imported, its "cuda" is the CPU."""
    yield
    import torch
    from torch.overrides import TorchFunctionMode

    def cpu(value: Any) -> Any:
        named = value.type if isinstance(value, torch.device) else value.split(":")[0] if type(value) is str else ""
        if named != "cuda":
            return value
        opened()
        return "cpu" if type(value) is str else torch.device("cpu")

    class Card(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, given: Any = (), more: Any = None) -> Any:
            if function is torch.Tensor.cuda:
                opened()
                return given[0].clone()
            kept = {name: cpu(value) for name, value in (more or {}).items() if name != "pin_memory"}
            return function(*map(cpu, given), **kept)

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            self.at_s = 0.0

        def record(self, stream: Any = None) -> None:
            self.at_s = time.perf_counter()

        def elapsed_time(self, other: "Event") -> float:
            return (other.at_s - self.at_s) * 1e3

        def synchronize(self) -> None:
            return None

    class Autocast(torch.amp.autocast_mode.autocast):
        def __init__(self, device_type: str, *given: Any, **more: Any) -> None:
            super().__init__(cpu(device_type), *given, **more)

    def used(answer: Any = None) -> Callable[..., Any]:
        def function(*_: Any, **__: Any) -> Any:
            opened()
            return answer

        return function

    cuda = torch.cuda
    cuda.is_available, cuda.device_count, cuda.is_initialized = (lambda: True), (lambda: 1), (lambda: False)
    cuda.Event, torch.autocast, torch.version.cuda = Event, Autocast, "13.0"
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "set_per_process_memory_fraction"):
        setattr(cuda, name, used())
    held = [3000 * MIB]

    def product(*given: Any, **more: Any) -> Any:  # cuBLAS takes its workspace with the first one
        held[0] = 3008 * MIB
        return multiply(*given, **more)

    multiply, torch.mm = torch.mm, product
    cuda.memory_allocated = lambda *_: used(held[0])()
    for name, mib in (("max_memory_allocated", 4000), ("memory_reserved", 4000), ("max_memory_reserved", 5000)):
        setattr(cuda, name, used(mib * MIB))
    cuda.mem_get_info, cuda.get_device_capability = used((15000 * MIB, 16000 * MIB)), used((8, 9))
    cuda.current_device, cuda.get_per_process_memory_fraction = used(0), used(1.0)
    torch.accelerator.current_accelerator = lambda *_, **__: None  # what tensors are on, to a library that asks
    cuda.is_bf16_supported = used(True)
    Card().__enter__()


@contextmanager
def bitsandbytes(module: ModuleType) -> Iterator[None]:
    """It loads its library for the CPU; on a real card its import opens that, so it counts as a use."""
    import torch

    opened()
    torch.cuda.is_available, believed = (lambda: False), torch.cuda.is_available
    yield
    torch.cuda.is_available = believed


@contextmanager
def driver(module: ModuleType) -> Iterator[None]:
    """The build of torch is one for CUDA, whichever it is."""
    yield
    module.torch_cuda = lambda: "13.0"  # type: ignore[attr-defined]


@contextmanager
def operations(module: ModuleType) -> Iterator[None]:
    """A profile of kernels that no CPU runs."""
    yield
    from visionquant.records.cell import Launch

    def profile(step: Callable[[int], Any]) -> Launch:
        opened()
        step(0)
        return Launch(gpu_busy_ms=0.01, kernels=7)

    module.profile = profile  # type: ignore[attr-defined]


@contextmanager
def kernels(module: ModuleType) -> Iterator[None]:
    """Reference kernels of a size that suits a CPU."""
    yield
    module.Cuda.kernel = module.KernelPlan(side=128, stream_bytes=2**20)  # type: ignore[attr-defined]


class Following:
    """A finder that runs what is to happen around the import of a module."""

    def __init__(self, around: dict[str, Callable[[ModuleType], Any]]) -> None:
        self.around, self.looking = around, False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As ``importlib.abc.MetaPathFinder.find_spec``."""
        around = self.around.get(name)
        if around is None or self.looking:  # its own search for the same name comes here again
            return None
        self.looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.looking = False
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with around(module):
                execute(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if os.environ.get("REHEARSAL_CARD"):
    package = "visionquant."
    sys.meta_path.insert(0, Following({
        "torch": torch, "bitsandbytes": bitsandbytes, f"{package}core.driver": driver,
        f"{package}bench.op_count": operations, f"{package}bench.device": kernels,
    }))  # fmt: skip
