"""The host: its memory, and what else it was doing (load, clock, other busy processes: clean, busy, or unknown).

On Linux the kernel counts the time of all cores; what this process did not use, others did. On a GPU, NVML lists the
processes that compute there; inside a container it may not, which is "unknown".
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from visionquant.core.errors import StudyError
from visionquant.records.cell import Conditions, Isolation, worst
from visionquant.settings.params import Protocol

if TYPE_CHECKING:
    from visionquant.bench.device import Device

BUSY_SHARE = 0.15  # of all cores, by others
TOLERANCE = 0.1
PATIENCE_S, LOOK_S = 30.0, 1.0
STAT, GROUP, STATUS = Path("/proc/stat"), Path("/sys/fs/cgroup"), Path("/proc/self/status")


class HostMemory(NamedTuple):
    """Bytes of host memory: free now, and resident in the process that replicates are forked from."""

    available: int
    baseline: int


def available_bytes() -> int:
    """Free memory, or what the control group (version 2) still allows, whichever is less.

    Files that were read and can be dropped again count as used by the group; they are given back here.
    """
    free = int(psutil.virtual_memory().available)
    try:
        limit, used, details = (
            (GROUP / f"memory.{name}").read_text(encoding="utf-8") for name in ("max", "current", "stat")
        )
        inactive = dict(line.split() for line in details.splitlines()).get("inactive_file", 0)
        return max(0, min(free, int(limit) - int(used) + int(inactive)))  # no limit is the word "max"
    except (OSError, ValueError):
        return free


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int | None:
    """The most memory this process has had resident (a fork starts from its parent's present), None off Linux."""
    with suppress(OSError):
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


class Reading(NamedTuple):
    """Seconds since boot or start: all cores busy, this process and its children busy, wall time."""

    busy_s: float | None
    own_s: float
    wall_s: float

    @classmethod
    def now(cls, stat: Path = STAT) -> "Reading":
        """This moment; a kernel that tells nothing of its cores leaves ``busy_s`` None."""
        busy_s = None
        with suppress(OSError, ValueError):
            fields = [int(field) for field in stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
            busy_s = (sum(fields) - sum(fields[3:5])) / os.sysconf("SC_CLK_TCK")  # without idle and iowait
        return cls(busy_s, sum(os.times()[:4]), time.monotonic())


def others_share(before: Reading, after: Reading) -> float | None:
    """The share of all cores (0 to 1) that other processes kept busy between two readings; None if not known."""
    wall_s = after.wall_s - before.wall_s
    if before.busy_s is None or after.busy_s is None or wall_s <= 0:
        return None
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    if others_s < -TOLERANCE * wall_s:
        return None  # a kernel that counts less than this process used does not count
    return round(min(1.0, max(0.0, others_s / (wall_s * (os.cpu_count() or 1)))), 3)


def conditions_since(before: Reading, device: "Device") -> Conditions:
    """The conditions since ``before``, which this process took."""
    share, frequency = others_share(before, Reading.now()), None
    with suppress(OSError, NotImplementedError, AttributeError):  # psutil's words for a kernel that does not tell
        frequency = psutil.cpu_freq()
    return Conditions(
        isolation=isolation(share, device),
        others_share=share,
        load_1m=round(os.getloadavg()[0], 2),
        frequency_mhz=round(float(frequency.current), 1) if frequency else None,
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "not set"),
    )


def isolation(share: float | None, device: "Device") -> Isolation:
    """The worse of the words for what others do on the CPU and on the device, where this process is at work."""
    on_cpu: Isolation = "unknown" if share is None else "busy" if share > BUSY_SHARE else "clean"
    computing = device.computing() or set()
    on_device: Isolation = "unknown" if os.getpid() not in computing else "busy" if len(computing) > 1 else "clean"
    return worst((on_cpu, on_device)) or "unknown"


def require_quiet(protocol: Protocol, device: "Device", patience_s: float = PATIENCE_S) -> None:
    """Wait until no other process keeps the machine busy, if the protocol refuses that.

    Raises:
        StudyError: others were busy for ``patience_s``, the busiest are named; or others compute on the GPU.
    """
    if protocol.busy == "allow":
        return
    if others := (device.computing() or set()) - {os.getpid()}:
        names = ", ".join(map(_named, sorted(others)))
        remedy = "end them, or set busy: allow in the protocol"
        raise StudyError("measure", f"other processes compute on the GPU ({names})", remedy)
    deadline = time.monotonic() + patience_s
    while True:
        _busiest()
        before = Reading.now()
        time.sleep(LOOK_S)
        share = others_share(before, Reading.now())
        if share is None or share <= BUSY_SHARE:
            return
        if time.monotonic() >= deadline:
            found = f"other processes keep {100 * share:.0f} % of the machine busy{_busiest()}"
            remedy = "end them, or set busy: allow in the protocol; the cells are marked then"
            raise StudyError("measure", found, remedy)


def _busiest() -> str:
    """Three processes that were busiest since the last call, which psutil remembers, in brackets."""
    others = (one.info for one in psutil.process_iter(["name", "cpu_percent"]) if one.pid != os.getpid())
    shares = sorted(((info["cpu_percent"] or 0.0, str(info["name"])) for info in others), reverse=True)
    names = ", ".join(f"{name} {percent:.0f} %" for percent, name in shares[:3] if percent >= 1)
    return f" ({names})" if names else ""


def _named(pid: int) -> str:
    """A process as an operator finds it; one of another container has no name here."""
    try:
        return f"{psutil.Process(pid).name()} {pid}"
    except psutil.Error:
        return f"process {pid}"
