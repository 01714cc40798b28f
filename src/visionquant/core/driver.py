"""The NVIDIA driver: which GPU CUDA will take, and whether the build of torch that is installed can use it; opens none.

A driver runs programs for its own major version of CUDA and for older ones; only data-centre cards have a package that
lifts that. torch 2.13 from PyPI is built for CUDA 13.
Source: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

OLDEST = {11: 450, 12: 525, 13: 580}  # CUDA's major version to the first driver for it


@dataclass(frozen=True)
class Gpu:
    """What NVML says of a GPU; ``cuda`` is the newest that its driver serves, ``divided``: into MIG instances."""

    name: str
    memory_mib: int
    driver: str
    cuda: str
    divided: bool


def torch_cuda() -> str | None:
    """The version of CUDA that torch is built for, e.g. "13.0", from its own file; None for a build without CUDA."""
    try:
        text = Path(str(metadata.distribution("torch").locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError):
        return None
    line = re.search(r"^cuda\b[^=\n]*= *['\"]([\d.]+)['\"]", text, re.M)
    return line.group(1) if line else None


def obstacle(gpu: Gpu | None, torch: str) -> tuple[str, str] | None:
    """Why torch of this version can't use what NVML shows, and what to do; None if it can, seen from outside."""
    built_for = torch_cuda()
    if gpu is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        return f"no NVIDIA GPU is visible{hidden}", remedy(None)
    if built_for is None:
        return f"torch {torch} is a build without CUDA", remedy(None)
    if gpu.divided:
        return "it is divided (MIG) and CUDA_VISIBLE_DEVICES names no instance", "name one of `nvidia-smi -L` there"
    if _major(gpu.cuda) < _major(built_for):
        most = f"driver {gpu.driver} serves CUDA {gpu.cuda} at most, and torch is built for {built_for}"
        return most, remedy(built_for)
    return None


def remedy(built_for: str | None) -> str:
    """What to install where torch, built for this CUDA (None: for none), can't use a GPU."""
    if built_for is None:
        return "install a CUDA build of torch and a driver for it"
    oldest = OLDEST.get(_major(built_for))
    newer = f"driver {oldest} or newer" if oldest else "a newer driver"
    return f"install {newer}, or a build of torch for an older one"


def _major(cuda: str) -> int:
    return int(cuda.split(".")[0])


def handle_of(nvml: Any, first: str) -> Any | None:
    """NVML's handle of the first of CUDA_VISIBLE_DEVICES, a number, a UUID or how one begins; None if there is none."""
    count = nvml.nvmlDeviceGetCount()
    if first.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(first)) if int(first) < count else None
    if first.startswith("MIG-"):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)] if first.startswith("GPU-") else []
    return next((gpu for gpu in handles if str(nvml.nvmlDeviceGetUUID(gpu)).startswith(first)), None)


@contextmanager
def open_gpu() -> Iterator[tuple[Any, Any] | None]:
    """NVML and the handle of the GPU that CUDA takes first, which the study uses; None where there is none."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # no driver, or no NVML: the machine has no usable GPU, which is a fact and no error
        yield None
        return
    handle = None
    with suppress(nvml.NVMLError):
        handle = handle_of(nvml, first)
    try:
        yield None if handle is None else (nvml, handle)
    finally:
        nvml.nvmlShutdown()


def gpu() -> Gpu | None:
    """The GPU that CUDA takes first; None for none."""
    with open_gpu() as opened:
        if opened is None:
            return None
        nvml, handle = opened
        try:
            divided = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
        except (nvml.NVMLError, AttributeError):
            divided = False  # not a kind that can be divided, or an instance itself
        with suppress(nvml.NVMLError):
            cuda = nvml.nvmlSystemGetCudaDriverVersion()
            return Gpu(
                str(nvml.nvmlDeviceGetName(handle)),
                int(nvml.nvmlDeviceGetMemoryInfo(handle).total) // 2**20,
                str(nvml.nvmlSystemGetDriverVersion()),
                f"{cuda // 1000}.{cuda % 1000 // 10}",
                divided,
            )
    return None
