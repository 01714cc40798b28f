"""How much memory there is and how much was used, in bytes."""

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


def reset_device_peak(device: str) -> None:
    """Let the GPU's peak begin anew, without what the conversion left in the cache; nothing on a CPU."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def device_bytes(device: str) -> tuple[int | None, int | None, int | None]:
    """(allocated now, peak allocated, peak reserved) of the GPU; three times None on a CPU."""
    if device != "cuda":
        return None, None, None
    return (
        int(torch.cuda.memory_allocated()),
        int(torch.cuda.max_memory_allocated()),
        int(torch.cuda.max_memory_reserved()),
    )
