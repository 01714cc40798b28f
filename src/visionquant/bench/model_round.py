"""One round of one model: processes for its arms, block after block in which they take turns, and what each slot saw.

A block in which a slot was busy is repeated once, and both are kept. An arm that fails leaves the round, and its cell
says why; where FP32 or the placebo fails there is nothing to compare with, and all leave it. A process that gives no
answer in time is ended.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from visionquant.bench import arm as arms_of
from visionquant.bench import host, telemetry, turns, worker
from visionquant.bench.arm import Arm, Checked, SlotSeen, Warm
from visionquant.bench.prepared import BenchModel
from visionquant.core.errors import MachineMismatch
from visionquant.records.cell import BASELINE, KERNELS, PLACEBO, Cell, Round, Slot
from visionquant.settings.params import Protocol

PATIENCE, LEAST_PATIENCE_S = 20, 600.0  # times the seconds foreseen; libraries compile kernels at a first pass
SLOWEST_PASS_S = 60.0  # of one image where nothing was timed yet: longer than the largest model's, emulated on a CPU


@dataclass(frozen=True)
class RoundPlan:
    """Round ``number`` of a model at ``batch_size`` with these ``arms``, of which some are to be ``checked`` too.

    ``waited_s``: for others to leave the machine, before it.
    """

    number: int
    batch_size: int
    arms: tuple[Arm, ...]
    checked: frozenset[str]
    waited_s: float

    @property
    def precisions(self) -> list[str]:
        """The names of those that take part."""
        return [arm.name for arm in self.arms if arm.row is not None and arm.name != PLACEBO]


class Seen(NamedTuple):
    """By precision its round; by arm what failed (a cell without a figure), and what was checked."""

    rounds: dict[str, Round]
    failed: dict[str, Cell]
    checked: dict[str, Checked]


class Processes:
    """The processes of arms: one each, or one for all where the device asks for that. Close it, which ends them."""

    def __init__(self, source: BenchModel, idle: telemetry.Idle | None, arms: Sequence[Arm]) -> None:
        self._stack = ExitStack()
        groups = [[arm] for arm in arms] if source.device.a_process_an_arm else [list(arms)]
        self._workers = dict[str, worker.Worker]()
        for group in groups:
            process = worker.Worker(lambda group=group: arms_of.serve(source, group, idle))  # type: ignore[misc]
            self._stack.callback(process.close)
            self._workers |= {arm.name: process for arm in group}

    def call(self, what: str, arm: str, *given: Any, limit_s: float) -> Any:
        """What an arm answers; errors as of :meth:`worker.Worker.call`."""
        return self._workers[arm].call((what, arm, *given), limit_s)

    def close(self) -> None:
        self._stack.close()


@dataclass
class _Course:
    """A round under way."""

    source: BenchModel
    plan: RoundPlan
    failed_as: Callable[[int, Exception], Cell]
    warm: dict[str, Warm] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    failed: dict[str, Cell] = field(default_factory=dict)
    passes_s: float = 0.0

    @property
    def left(self) -> list[Arm]:
        """The arms that still take part: none without FP32 and the placebo."""
        for name in (BASELINE, PLACEBO):
            if name in self.failed:
                return []
        return [arm for arm in self.plan.arms if arm.name not in self.failed]

    def limit_s(self, arm: Arm) -> float:
        known = self.warm.get(arm.name)
        pass_s = min(known.warmup_ms) / 1e3 if known else None
        return patience_s(self.source.protocol, self.plan.batch_size, pass_s)

    def call(self, processes: Processes, what: str, arm: Arm, *given: Any) -> Any:
        """What an arm answers, None where it failed, which its cell says."""
        try:
            return processes.call(what, arm.name, self.plan.batch_size, *given, limit_s=self.limit_s(arm))
        except MachineMismatch:
            raise
        except Exception as error:
            self.failed[arm.name] = self.failed_as(self.plan.batch_size, error)
            return None


def patience_s(protocol: Protocol, batch_size: int, pass_s: float | None = None) -> float:
    """Seconds after which an answer is not waited for any more; ``pass_s`` of a pass, where one was timed."""
    passes = protocol.warmup_passes + protocol.slot_passes + 2
    slowest_s = SLOWEST_PASS_S * batch_size if pass_s is None else pass_s
    return min(worker.LONGEST_S, LEAST_PATIENCE_S + protocol.warmup_s + PATIENCE * passes * slowest_s)


def run(
    source: BenchModel,
    plan: RoundPlan,
    processes: Processes,
    failed_as: Callable[[int, Exception], Cell],
) -> Seen:
    """Run a round. ``failed_as`` gives the cell of an error."""
    course, begun_s = _Course(source, plan, failed_as), time.monotonic()
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    for arm in plan.arms:
        if arm in course.left and (found := course.call(processes, "warm", arm)) is not None:
            course.warm[arm.name] = found
            course.passes_s += sum(found.warmup_ms) / 1e3 if arm.row else 0.0
    for block in range(_blocks(course)):
        if not _block(course, processes, block, 0):
            _block(course, processes, block, 1)
    measured = {arm.name for arm in course.left}
    passed_s, load, frequency = time.monotonic() - begun_s, host.load_1m(), host.frequency_mhz()
    checked: dict[str, Checked] = {}
    for arm in course.left:
        if arm.name in plan.checked and (found := course.call(processes, "check", arm)) is not None:
            checked[arm.name] = found
    rounds: dict[str, Round] = {}
    for arm in plan.arms:
        if arm.row is None or arm.name == PLACEBO or arm.name not in measured:
            continue
        beside = {BASELINE, PLACEBO, arm.name}
        beside |= set(KERNELS) if arm.name == BASELINE else set()
        kept = [slot for slot in course.slots if slot.arm in beside]
        warm = course.warm[arm.name]
        rounds[arm.name] = Round(
            number=plan.number,
            started_at=started_at,
            threads=warm.threads,
            omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "not set"),
            warmup_ms=warm.warmup_ms,
            waited_s=round(plan.waited_s, 2),
            spent_s=round(passed_s, 3),
            passes_s=round(course.passes_s, 3),
            host_peak=warm.host_peak,
            load_1m=load,
            frequency_mhz=frequency,
            slots=tuple(kept),
        )
    failed = course.failed
    if not course.left:
        root = next(failed[name] for name in (BASELINE, PLACEBO) if name in failed)
        why = root.model_copy(update={"reason": f"FP32 beside it: {root.reason}"})
        failed = {arm.name: failed.get(arm.name, why) for arm in plan.arms}
    return Seen(rounds, failed, checked)


def _blocks(course: _Course) -> int:
    """As many blocks as fill the protocol's seconds: one at least, and no more than it allows."""
    protocol = course.source.protocol
    block_s = sum(_slot_s(course.warm[arm.name], protocol.slot_ms, protocol.slot_passes) for arm in course.left)
    return max(1, min(protocol.blocks, int(protocol.round_s / max(block_s, 1e-6))))


def _slot_s(warm: Warm, fill_ms: float, passes: int) -> float:
    fastest_ms = min(warm.warmup_ms)
    discarded_ms = 0.0 if arms_of.is_slow(warm.warmup_ms) else fastest_ms
    return (discarded_ms + max(fill_ms, passes * fastest_ms)) / 1e3


def _block(course: _Course, processes: Processes, block: int, attempt: int) -> bool:
    """One block; whether nobody disturbed it."""
    slots = list[Slot]()
    for arm in turns.order(course.left, block):
        if arm not in course.left:
            continue
        discard = not arms_of.is_slow(course.warm[arm.name].warmup_ms)
        seen: SlotSeen | None = course.call(processes, "slot", arm, discard)
        if seen is None:
            continue
        order = len(course.slots) + len(slots)
        passes = seen.passes._asdict()
        slot = Slot(
            arm=arm.name,
            block=block,
            order=order,
            attempt=attempt,
            **passes,
            window=seen.window,
            **seen.shares._asdict(),
        )
        slots.append(slot)
        if arm.row is not None:
            course.passes_s += (sum(slot.wall_ms) + (slot.discarded_ms or 0.0)) / 1e3
            course.passes_s += slot.window.seconds if slot.window else 0.0
    course.slots += slots
    return not any(slot.busy for slot in slots if slot.arm not in KERNELS)
