"""How much host memory there is and how much was used, in bytes."""

from pathlib import Path

import psutil


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
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    peaks = (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    return next(peaks, None)
