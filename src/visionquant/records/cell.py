"""What one process and one cell saw: raw samples, the machine meanwhile, and why there is no figure.

Absence is a value: what could not be measured is a row with a status and a reason.
"""

from collections.abc import Iterable
from typing import Literal

from visionquant.core.frozen import Frozen

# "failed" is what nobody foresaw: it is tried again by the next run, the others are kept.
Status = Literal["ok", "out_of_memory", "unsupported", "over_budget", "unsteady", "non_finite", "audit_failed",
                 "failed"]  # fmt: skip
Isolation = Literal["clean", "busy", "unknown"]
WORST_FIRST: tuple[Isolation, ...] = ("busy", "unknown", "clean")
REPEAT_FLOOR = 0.9  # a repeated batch that surely takes less than this share of a new one's time was not computed


def worst(words: Iterable[Isolation]) -> Isolation | None:
    """The worst of several words, None for none."""
    return min(words, key=WORST_FIRST.index, default=None)


class Throughput(Frozen):
    """Images passed in a window without a synchronisation between batches, and its seconds."""

    images: int
    seconds: float


class Sentinel(Frozen):
    """Milliseconds of the fixed reference kernel just before and just after the timed passes.

    On a GPU its time there; ``host`` is then that of a row of launches that hardly do a thing, None where not recorded.
    """

    before_ms: float
    after_ms: float
    host: "Sentinel | None" = None


class GpuConditions(Frozen):
    """What NVML said while a replicate ran, null what this GPU hides; ``sampler_share`` is its CPU over wall time."""

    samples: int
    sm_mhz_low: float | None
    sm_mhz_median: float | None
    memory_mhz_median: float | None
    temperature_c_high: float | None
    power_w_median: float | None
    throttle_reasons: tuple[str, ...]
    sampler_share: float


class Conditions(Frozen):
    """The machine while a replicate ran; null where it can't be read.

    ``others_share`` is the share of all cores (0 to 1) that other processes kept busy.
    """

    isolation: Isolation
    others_share: float | None
    load_1m: float | None
    frequency_mhz: float | None
    omp_wait_policy: str
    gpu: GpuConditions | None = None


class Replicate(Frozen):
    """One fresh process. Milliseconds of each iteration; ``gpu_ms`` from CUDA events; ``threads`` of the CPU.

    ``cold_ms`` are the first passes of a process on a GPU, which load its code: no warm-up; empty where not recorded.
    ``turns_with`` names the precisions whose replicates came in the same round; ``settled`` says whether two halves of
    the warm-up agreed, null where they were too short to tell; ``position`` is the number of the replicate in the
    command that ran it, ``started_at`` its time (UTC). None among these and no ``sentinel``: not recorded.
    """

    position: int | None
    started_at: str | None
    turns_with: tuple[str, ...]
    threads: int
    cold_ms: tuple[float, ...] = ()
    warmup_ms: tuple[float, ...]
    settled: bool | None
    wall_ms: tuple[float, ...]
    gpu_ms: tuple[float, ...] | None
    stopped_by: Literal["count", "budget"]
    throughput: Throughput | None
    host_peak: int | None
    sentinel: Sentinel | None
    conditions: Conditions

    def timed_s(self) -> float:
        """Seconds inside timed windows: iterations and throughput."""
        return sum(self.wall_ms) / 1e3 + (self.throughput.seconds if self.throughput else 0.0)


class Memory(Frozen):
    """Bytes by kind; null where this device has no such figure.

    ``workspace`` is cuBLAS', which differs between generations of GPUs and is part of what is allocated; null where it
    was not recorded. The peaks on a device are those of one pass after all that is timed.
    """

    stored_weights: int
    workspace: int | None = None
    allocated_after: int | None
    peak_allocated: int | None
    peak_reserved: int | None
    host_peak: int | None


class Audit(Frozen):
    """Whether the timed passes computed what the fidelity pass computed.

    ``kept`` timed iterations were looked at again, ``images`` of them had been in the fidelity pass; ``deviation`` is
    the largest relative L2 distance of their features, ``limit`` what the precision may have. ``repeat_ratio`` is the
    time of a batch that was just passed over that of a new one, ``repeat_high`` the upper end of its 95 % interval over
    ``repeats`` pairs. ``batch_deviation`` is that of one image in the batch from the same image alone.
    """

    kept: int
    images: int
    deviation: float | None
    limit: float
    repeats: int
    repeat_ratio: float | None
    repeat_high: float | None
    batch_deviation: float | None

    @property
    def fault(self) -> str:
        """What is wrong, or empty."""
        if self.deviation is not None and not self.deviation <= self.limit:
            return f"timed outputs are {self.deviation:.2g} from the fidelity pass, {self.limit:.2g} is allowed"
        if self.repeat_high is not None and self.repeat_high < REPEAT_FLOOR:
            return f"a repeated batch takes {self.repeat_high:.2f} of a new one's time at most"
        return ""


class Energy(Frozen):
    """A window of its own on an energy counter. Watts of the idle machine were taken before it; joules are gross.

    ``idle_state`` says in which state a GPU idled, and whether it had come to rest; empty where not recorded.
    """

    counter: str
    joules: float
    seconds: float
    images: int
    updates: int
    idle_w: float
    idle_state: str = ""

    @property
    def net_j_per_image(self) -> float:
        """Joules an image above idle."""
        return (self.joules - self.idle_w * self.seconds) / self.images


class Launch(Frozen):
    """A profiled pass on a GPU: milliseconds in which it was at work, and in how many kernels, copies and fills."""

    gpu_busy_ms: float
    kernels: int


class Attempt(Frozen):
    """A measurement of a cell that was given up because the machine drifted: what it said, by replicate."""

    medians_ms: tuple[float, ...]
    sentinels: tuple[Sentinel, ...]


class Run(Frozen):
    """What one replicate process brings back; the parts that only one of a cell's replicates has may be absent.

    ``monotonic_s``: when it began and ended on the machine's monotonic clock.
    """

    replicate: Replicate
    monotonic_s: tuple[float, float]
    finite: bool
    workspace: int | None = None
    allocated_after: int | None
    peak_allocated: int | None
    peak_reserved: int | None
    audit: Audit | None = None
    energy: Energy | None = None
    energy_reason: str = ""
    launch: Launch | None = None


class Pending(Frozen):
    """A cell in flight: the replicates that are done, and attempts given up before."""

    batch_size: int
    runs: tuple[Run, ...]
    earlier: tuple[Attempt, ...]


class Cell(Frozen):
    """One batch size of a pair: measured, or why not.

    ``calibration_ms`` are readings of the reference kernel in processes of their own before the first replicate: its
    noise; ``host_calibration_ms`` those of the launches beside it, on a GPU.
    """

    batch_size: int
    status: Status
    reason: str
    replicates: tuple[Replicate, ...] = ()
    stopped_by: Literal["count", "budget", "goal"] | None = None
    calibration_ms: tuple[float, ...] = ()
    host_calibration_ms: tuple[float, ...] = ()
    memory: Memory | None = None
    audit: Audit | None = None
    energy: Energy | None = None
    energy_reason: str = ""
    launch: Launch | None = None
    earlier: tuple[Attempt, ...] = ()

    def timed_s(self) -> float:
        return sum(replicate.timed_s() for replicate in self.replicates)

    @property
    def interleaved_with(self) -> frozenset[str]:
        """The precisions that took turns with every one of these replicates."""
        turns = [frozenset(replicate.turns_with) for replicate in self.replicates]
        return frozenset.intersection(*turns) if turns else frozenset()

    @property
    def isolation(self) -> Isolation | None:
        """The worst of the replicates': busy, unknown, clean; None for a cell that was not timed."""
        return worst(replicate.conditions.isolation for replicate in self.replicates)
