"""What one cell saw, slot by slot: raw samples, the machine meanwhile, and why there is no figure.

A model is measured in rounds. A round is a fresh process for each arm: every precision, FP32 once more as ``PLACEBO``,
and reference kernels. In a round the arms take turns in blocks; a turn is a slot of some passes. Absence is a value:
what could not be measured is a row with a status and a reason.
"""

from collections.abc import Iterator
from typing import Literal

from visionquant.core.frozen import Frozen

# "failed" is what nobody foresaw. "unsteady" is of records before rounds.
Status = Literal["ok", "out_of_memory", "unsupported", "over_budget", "busy", "unsteady", "non_finite",
                 "audit_failed", "failed"]  # fmt: skip
PASSING = ("busy", "out_of_memory", "failed")  # another run may fare better
REPEAT_FLOOR = 0.9  # a repeated batch that surely takes less than this share of a new one's time was not computed
BASELINE, PLACEBO = "fp32", "placebo"
KERNELS = ("kernel-compute", "kernel-stream", "kernel-int8")

# When a slot is busy: others take more of its cores than this, the hypervisor steals more, or tasks waited for a core
# for a longer share of it. Chosen on other data than any committed set, see LOG.md.
BUSY_OTHERS, BUSY_STEAL, BUSY_PRESSURE = 0.05, 0.02, 0.05


def is_busy(others: float | None, steal: float | None, pressure: float | None) -> bool:
    """Whether others disturbed a span; shares of 0 to 1, None where unknown."""
    seen = ((others, BUSY_OTHERS), (steal, BUSY_STEAL), (pressure, BUSY_PRESSURE))
    return any(share is not None and share > limit for share, limit in seen)


class Throughput(Frozen):
    """Images passed in a window without a synchronisation between batches, and its seconds."""

    images: int
    seconds: float


class GpuConditions(Frozen):
    """What NVML said while a round ran, null what this GPU hides; ``sampler_share`` is its CPU over wall time."""

    samples: int
    sm_mhz_low: float | None
    sm_mhz_median: float | None
    memory_mhz_median: float | None
    temperature_c_high: float | None
    power_w_median: float | None
    throttle_reasons: tuple[str, ...]
    sampler_share: float


class Slot(Frozen):
    """One turn of an arm: milliseconds of each timed pass; ``gpu_ms`` from CUDA events.

    ``order`` counts the slots of a round from 0; ``attempt`` is 1 where the block was repeated because it was busy.
    ``discarded_ms`` is the pass before the timed ones, None where the round's warm-up stands for it. ``window`` follows
    the timed passes on a GPU. ``others``, ``steal`` and ``pressure`` are shares (0 to 1), None where unknown: of the
    slot's cores taken by other processes, of them taken by the hypervisor, of time in which a task waited for a core.
    """

    arm: str
    block: int
    order: int
    attempt: int = 0
    discarded_ms: float | None = None
    wall_ms: tuple[float, ...]
    gpu_ms: tuple[float, ...] | None = None
    window: Throughput | None = None
    others: float | None = None
    steal: float | None = None
    pressure: float | None = None

    @property
    def busy(self) -> bool:
        """Whether others disturbed it."""
        return is_busy(self.others, self.steal, self.pressure)


class Round(Frozen):
    """The fresh processes of one round, as a pair sees them: its own slots, FP32's and the placebo's.

    FP32's rounds also hold the kernels'. ``number`` counts from 1; ``started_at`` is UTC; ``threads`` of the CPU;
    ``warmup_ms`` are the pair's own passes before the first block; ``waited_s`` for others to leave the machine;
    ``spent_s`` of the model's round in all, of which ``passes_s`` in passes of arms, the discarded ones included.
    """

    number: int
    started_at: str | None
    threads: int
    omp_wait_policy: str
    warmup_ms: tuple[float, ...] = ()
    waited_s: float = 0.0
    spent_s: float = 0.0
    passes_s: float = 0.0
    host_peak: int | None = None
    load_1m: float | None = None
    frequency_mhz: float | None = None
    gpu: GpuConditions | None = None
    slots: tuple[Slot, ...]

    def of(self, arm: str, quiet: bool = False) -> list[Slot]:
        """The slots of an arm in their order; those that were busy left out where it has to be ``quiet``."""
        return [slot for slot in self.slots if slot.arm == arm and not (quiet and slot.busy)]

    def blocks(self, *arms: str) -> Iterator[tuple[Slot, ...]]:
        """Of each block in which none of these arms was disturbed their slots, in the order of ``arms``."""
        turns: dict[tuple[int, int], dict[str, Slot]] = {}
        for slot in self.slots:
            turns.setdefault((slot.block, slot.attempt), {})[slot.arm] = slot
        for turn in turns.values():
            if turn.keys() >= set(arms) and not any(turn[arm].busy for arm in arms):
                yield tuple(turn[arm] for arm in arms)


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

    ``kept`` timed passes were looked at again, ``images`` of them had been in the fidelity pass; ``deviation`` is
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


class Cell(Frozen):
    """One batch size of a pair: measured, or why not.

    What an arm tells once a cell (memory, audit, energy, launch) is of the first round. ``planned`` are the rounds
    that were asked for, 0 where not recorded.
    """

    batch_size: int
    status: Status
    reason: str
    planned: int = 0
    rounds: tuple[Round, ...] = ()
    memory: Memory | None = None
    audit: Audit | None = None
    energy: Energy | None = None
    energy_reason: str = ""
    launch: Launch | None = None

    @property
    def paired(self) -> bool:
        """Whether arms took turns in it; records before rounds have none that did."""
        return any(slot.arm == PLACEBO for each in self.rounds for slot in each.slots)

    def quiet_rounds(self, precision: str) -> int:
        """In how many rounds a block was left undisturbed; before rounds: all."""
        arms = (precision, BASELINE, PLACEBO) if self.paired else (precision,)
        return sum(any(True for _ in each.blocks(*arms)) for each in self.rounds)

    def times_ms(self, precision: str) -> list[list[float]]:
        """Timed passes of every round that has any, what was disturbed left out where arms took turns."""
        times = ([ms for slot in each.of(precision, self.paired) for ms in slot.wall_ms] for each in self.rounds)
        return [each for each in times if each]
