"""How much memory there is and how much was used, in bytes."""

from pathlib import Path

import psutil
import torch


def available_host_bytes() -> int:
    """Free host memory, or what the control group still allows, whichever is less."""
    free = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        text = limit.read_text().strip()
        return min(free, int(text) - int(used.read_text())) if text != "max" else free
    except (OSError, ValueError):
        return free


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def host_peak_bytes() -> int | None:
    """The most memory this process has had resident (a fork starts from its parent's present), None off Linux."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def reset_device_peak(device: str) -> None:
    """Let the GPU's peak begin anew; nothing on a CPU."""
    if device == "cuda":
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
