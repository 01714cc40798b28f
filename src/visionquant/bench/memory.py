"""How much memory there is and how much was used, in bytes."""

from collections.abc import Callable
from pathlib import Path

import psutil
import torch


def available_host_bytes() -> int:
    """Free host memory, or what the control group (version 2) still allows, whichever is less.

    Files that were read and can be dropped again count as used by the group; they are given back here.
    """
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        if limit == "max":
            return free
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        used = int((group / "memory.current").read_text(encoding="utf-8")) - int(statistics.get("inactive_file", 0))
        return max(0, min(free, int(limit) - used))
    except (OSError, ValueError):
        return free


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def host_peak_bytes() -> int | None:
    """The most memory this process has had resident (a fork starts from its parent's present), None off Linux."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def allocated_bytes(device: str) -> int | None:
    """What torch has allocated on the GPU now; None on a CPU."""
    return int(torch.cuda.memory_allocated()) if device == "cuda" else None


def device_peaks(device: str, run: Callable[[], object]) -> tuple[int | None, int | None]:
    """Peaks of (allocated, reserved) memory of the GPU in ``run``, from an empty cache; None, and no run, on a CPU."""
    if device != "cuda":
        return None, None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated()), int(torch.cuda.max_memory_reserved())
