"""The host: its memory, and what else it does meanwhile.

On Linux the kernel counts the time of all cores; what this process did not use, others did. That count has ticks of ten
milliseconds; how long any task waited for a core it knows to the microsecond, where it tells.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from visionquant.core import processors
from visionquant.records.cell import is_busy

TICKS_S = 0.02  # a span's count of the cores' time may be wrong by so much
WAITS_S = 0.01  # threads of a process wait for each other's cores so long in a span on a machine that does nothing else
LOOK_S, REST_S = 0.25, 1.0
STAT, PRESSURE = Path("/proc/stat"), Path("/proc/pressure/cpu")
GROUP, STATUS = Path("/sys/fs/cgroup"), Path("/proc/self/status")


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


class Shares(NamedTuple):
    """Of a span, 0 to 1: of some cores taken by others, of them stolen by the hypervisor, of time a task waited."""

    others: float | None
    steal: float | None
    pressure: float | None

    @property
    def busy(self) -> bool:
        """Whether a slot so disturbed is busy."""
        return is_busy(*self)


class Reading(NamedTuple):
    """Seconds since boot or start: of all cores busy and stolen, a task waiting, this process at work, and wall time.

    None: the kernel does not tell.
    """

    busy_s: float | None
    steal_s: float | None
    waiting_s: float | None
    own_s: float
    wall_s: float

    @classmethod
    def now(cls, stat: Path = STAT, pressure: Path = PRESSURE) -> "Reading":
        """This moment."""
        busy_s = steal_s = waiting_s = None
        with suppress(OSError, ValueError, IndexError):
            ticks = [int(field) for field in stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
            busy = sum(ticks) - ticks[3] - ticks[4] - ticks[7]  # without idle, iowait and steal
            busy_s, steal_s = (count / os.sysconf("SC_CLK_TCK") for count in (busy, ticks[7]))
        with suppress(OSError, ValueError, IndexError):
            some = pressure.read_text(encoding="utf-8").split("\n", 1)[0]
            waiting_s = int(some.partition("total=")[2]) / 1e6
        return cls(busy_s, steal_s, waiting_s, time.process_time(), time.monotonic())

    def until(self, after: "Reading", cores: int) -> Shares:
        """What others did between two readings, as shares of ``cores``; what the ticks can't tell is left to chance."""
        wall_s = after.wall_s - self.wall_s
        if wall_s <= 0:
            return Shares(None, None, None)
        others = steal = waited = None
        if self.busy_s is not None and after.busy_s is not None:
            others = after.busy_s - self.busy_s - (after.own_s - self.own_s) - TICKS_S
        if self.steal_s is not None and after.steal_s is not None:
            steal = after.steal_s - self.steal_s - TICKS_S / 2
        if self.waiting_s is not None and after.waiting_s is not None:
            waited = (after.waiting_s - self.waiting_s - WAITS_S) * cores
        shares = (None if each is None else each / (wall_s * cores) for each in (others, steal, waited))
        return Shares(*(None if share is None else round(min(1.0, max(0.0, share)), 3) for share in shares))


def wait_for_quiet(most_s: float, tell: Callable[[float], None] = lambda left_s: None) -> float:
    """Wait until others leave this machine's cores alone, ``most_s`` at most; the seconds that it took.

    ``tell`` gets the seconds that are left, about once a second, as long as it waits.
    """
    begin_s = told_s = time.monotonic()
    while (left_s := begin_s + most_s - time.monotonic()) > 0:
        before = Reading.now()
        time.sleep(min(LOOK_S, left_s))
        if not before.until(Reading.now(), processors.usable()).busy:
            break
        if time.monotonic() - told_s > REST_S:
            told_s = time.monotonic()
            tell(left_s)
    return time.monotonic() - begin_s


def load_1m() -> float:
    """The load average of one minute."""
    return round(os.getloadavg()[0], 2)


def frequency_mhz() -> float | None:
    """The clock of the CPU now, None where the kernel does not tell."""
    with suppress(OSError, NotImplementedError, AttributeError):  # psutil's words for a kernel that does not tell
        if frequency := psutil.cpu_freq():
            return round(float(frequency.current), 1)
    return None


def busiest() -> str:
    """Three processes that were busiest since the last call, which psutil remembers, in brackets."""
    others = (one.info for one in psutil.process_iter(["name", "cpu_percent"]) if one.pid != os.getpid())
    shares = sorted(((info["cpu_percent"] or 0.0, str(info["name"])) for info in others), reverse=True)
    names = ", ".join(f"{name} {percent:.0f} %" for percent, name in shares[:3] if percent >= 1)
    return f" ({names})" if names else ""
