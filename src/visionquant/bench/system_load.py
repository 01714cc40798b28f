"""What else the machine was doing: load, clock, other busy processes. In a word: clean, busy, or unknown.

On Linux the kernel counts the time of all cores; what this process did not use, others did. On a GPU, NVML lists the
processes that compute there; inside a container it may not, which is "unknown".
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from visionquant.core.errors import StudyError
from visionquant.core.machine import open_gpu
from visionquant.records.cell import Conditions, Isolation, worst
from visionquant.settings.params import Protocol

BUSY_SHARE = 0.15  # of all cores, by others
TOLERANCE = 0.1
PATIENCE_S, LOOK_S = 30.0, 1.0
STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Reading:
    """Seconds since boot or start: all cores busy, this process and its children busy, wall time."""

    busy_s: float | None
    own_s: float
    wall_s: float

    @classmethod
    def now(cls, stat: Path = STAT) -> "Reading":
        own = os.times()
        return cls(_busy_s(stat), own.user + own.system + own.children_user + own.children_system, time.monotonic())


def _busy_s(stat: Path) -> float | None:
    """Seconds that all cores were not idle, stolen time included, or None off Linux."""
    try:
        fields = [int(field) for field in stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def others_share(before: Reading, after: Reading) -> float | None:
    """The share of all cores (0 to 1) that other processes kept busy between two readings; None if not known."""
    wall_s = after.wall_s - before.wall_s
    if before.busy_s is None or after.busy_s is None or wall_s <= 0:
        return None
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    if others_s < -TOLERANCE * wall_s:
        return None  # a kernel that counts less than this process used does not count
    return round(min(1.0, max(0.0, others_s / (wall_s * (os.cpu_count() or 1)))), 3)


def since(before: Reading, device: str) -> Conditions:
    """The conditions since ``before``, which this process took."""
    share = others_share(before, Reading.now())
    return Conditions(
        isolation=isolation(share, device),
        others_share=share,
        load_1m=_load(),
        frequency_mhz=_frequency(),
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "not set"),
    )


def isolation(share: float | None, device: str, gpu: Callable[[], Isolation] | None = None) -> Isolation:
    """The word for what others do on the CPU and, for a GPU study, on the GPU (``gpu`` replaces NVML's answer)."""
    on_cpu: Isolation = "unknown" if share is None else "busy" if share > BUSY_SHARE else "clean"
    on_gpu: Isolation = (gpu or _on_gpu)() if device == "cuda" else "clean"
    return worst((on_cpu, on_gpu)) or "unknown"


def _on_gpu() -> Isolation:
    """Whether this process, which holds the GPU open, computes there alone."""
    running = _running()
    if running is None or os.getpid() not in running:
        return "unknown"
    return "clean" if len(running) == 1 else "busy"


def _running() -> set[int] | None:
    """The processes that compute on the GPU, None where NVML does not tell."""
    with open_gpu() as opened:
        if opened is None:
            return None
        nvml, handle = opened
        try:
            return {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        except nvml.NVMLError:
            return None


def require_quiet(protocol: Protocol, device: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until no other process keeps the machine busy, if the protocol refuses that.

    Raises:
        StudyError: others were busy for ``patience_s``, the busiest are named; or others compute on the GPU.
    """
    if protocol.busy == "allow":
        return
    running = _running() if device == "cuda" else None
    if running:
        raise StudyError(
            "measure",
            f"other processes compute on the GPU ({', '.join(_named(pid) for pid in sorted(running))})",
            "end them, or set busy: allow in the protocol",
        )
    deadline = time.monotonic() + patience_s
    while True:
        watched = {one.pid: one for one in psutil.process_iter(["name"]) if one.pid != os.getpid()}
        for one in watched.values():
            _percent(one)
        before = Reading.now()
        time.sleep(LOOK_S)
        share = others_share(before, Reading.now())
        if share is None or share <= BUSY_SHARE:
            return
        if time.monotonic() >= deadline:
            break
    shares = [(_percent(one), str(one.info["name"])) for one in watched.values()]
    names = ", ".join(f"{name} {percent:.0f} %" for percent, name in sorted(shares, reverse=True)[:3] if percent >= 1)
    raise StudyError(
        "measure",
        f"other processes keep {100 * share:.0f} % of the machine busy" + (f" ({names})" if names else ""),
        "end them, or set busy: allow in the protocol; the cells are marked then",
    )


def _named(pid: int) -> str:
    """A process as an operator finds it; one of another container has no name here."""
    try:
        return f"{psutil.Process(pid).name()} {pid}"
    except psutil.Error:
        return f"process {pid}"


def _percent(process: psutil.Process) -> float:
    try:
        return float(process.cpu_percent())
    except psutil.Error:
        return 0.0


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _frequency() -> float | None:
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError, AttributeError):  # psutil's words for a kernel that does not tell
        return None
    return round(float(found.current), 1) if found else None
