"""The NVIDIA driver: which GPU CUDA will take, and whether the build of torch that is installed can use it; opens none.

A driver runs programs for its own major version of CUDA and for older ones; only data-centre cards have a package that
lifts that. torch 2.13 from PyPI is built for CUDA 13.
Source: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

OLDEST = {11: 450, 12: 525, 13: 580}  # CUDA's major version to the first driver for it


def torch_cuda() -> str | None:
    """The version of CUDA that torch is built for, e.g. "13.0", from its own file; None for a build without CUDA."""
    try:
        text = Path(str(metadata.distribution("torch").locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError):
        return None
    line = re.search(r"^cuda\b[^=\n]*= *['\"]([\d.]+)['\"]", text, re.M)
    return line.group(1) if line else None


def too_old(version: str, serves: str, built_for: str) -> str:
    """Why driver ``version``, which serves CUDA ``serves``, can't run a torch built for ``built_for``; "" if it can."""
    if _major(serves) >= _major(built_for):
        return ""
    return f"driver {version} serves CUDA {serves} at most, and torch is built for {built_for}"


def remedy(built_for: str | None) -> str:
    """What to install where torch, built for this CUDA (None: for none), can't use a GPU."""
    if built_for is None:
        return "install a CUDA build of torch and a driver for it"
    oldest = OLDEST.get(_major(built_for))
    newer = f"driver {oldest} or newer" if oldest else "a newer driver"
    return f"install {newer}, or a build of torch for an older one"


def _major(cuda: str) -> int:
    return int(cuda.split(".")[0])


def handle_of(nvml: Any, visible: str | None) -> Any | None:
    """NVML's handle of the GPU that CUDA takes first, None if there is none.

    Args:
        visible: CUDA_VISIBLE_DEVICES: numbers, UUIDs or the beginnings of such, or None.
    """
    first = visible.split(",")[0].strip() if visible is not None else "0"
    count = nvml.nvmlDeviceGetCount()
    if first.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(first)) if int(first) < count else None
    if first.startswith("MIG-"):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)] if first.startswith("GPU-") else []
    return next((gpu for gpu in handles if str(nvml.nvmlDeviceGetUUID(gpu)).startswith(first)), None)


def divided(nvml: Any, gpu: Any) -> bool:
    """Whether a whole GPU is divided into MIG instances, of which CUDA takes one that NVML does not name."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(gpu)[0])
    except (nvml.NVMLError, AttributeError):
        return False  # not a kind that can be divided, or an instance itself


@contextmanager
def open_gpu() -> Iterator[tuple[Any, Any] | None]:
    """NVML and the handle of the GPU that the study uses, None where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        yield None
        return
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # no driver, or no NVML: the machine has no usable GPU, which is a fact and no error
        yield None
        return
    try:
        handle = handle_of(nvml, visible)
    except nvml.NVMLError:
        handle = None
    try:
        yield None if handle is None else (nvml, handle)
    finally:
        nvml.nvmlShutdown()


def gpu() -> dict[str, str] | None:
    """Name, memory in MiB, driver, CUDA and whether it is divided, of the GPU that CUDA takes first; None for none."""
    with open_gpu() as opened:
        if opened is None:
            return None
        nvml, handle = opened
        try:
            cuda = nvml.nvmlSystemGetCudaDriverVersion()
            return {
                "name": str(nvml.nvmlDeviceGetName(handle)),
                "memory_mib": str(int(nvml.nvmlDeviceGetMemoryInfo(handle).total) // 2**20),
                "driver": str(nvml.nvmlSystemGetDriverVersion()),
                "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
                "divided": "yes" if divided(nvml, handle) else "",
            }
        except nvml.NVMLError:
            return None
