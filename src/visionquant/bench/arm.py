"""The processes of a round: a fresh one for each arm, or on a GPU one for all, which answers slot after slot.

An arm is a precision, the placebo (FP32 once more) or a reference kernel. Once a cell it is examined as well, outside
of all that is timed: memory, energy, a profiled pass (on a GPU in a process of its own, since other arms' tensors would
count, and a process that was profiled is slower), and where it was timed its outputs against the fidelity pass.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch

from visionquant.bench import audit, fidelity, host, kernels, prepared, telemetry, torch_flags
from visionquant.bench.audit import ExpectedOutput
from visionquant.bench.backends import convert
from visionquant.bench.clock import SLOW_S, Step, TimedPasses, time_slot, time_window, warm_up
from visionquant.bench.device import Device
from visionquant.bench.prepared import BenchModel
from visionquant.records.cell import Audit, Energy, Launch, Memory, Throughput
from visionquant.settings.precision import FP32, PrecisionRow

MOST_INPUTS = 8
KEPT = 3  # outputs for the audit


@dataclass(frozen=True)
class Arm:
    """What takes turns: ``precision`` and ``row`` of a network, None of a kernel; ``expected`` of its outputs."""

    name: str
    precision: str = ""
    row: PrecisionRow | None = None
    expected: ExpectedOutput | None = None


class SlotSeen(NamedTuple):
    """A slot as its process saw it."""

    passes: TimedPasses
    window: Throughput | None
    shares: host.Shares


class Examined(NamedTuple):
    """What an arm tells once a cell."""

    memory: Memory
    energy: Energy | None
    energy_reason: str
    launch: Launch | None


class Checked(NamedTuple):
    """Whether all outputs of an arm were finite, and what the audit found of those that were timed.

    ``examined`` where the arm has a process of its own.
    """

    finite: bool
    audit: Audit
    examined: Examined | None


class Warm(NamedTuple):
    """Milliseconds of the warm-up passes, CPU threads, and host memory (None of a process of all arms)."""

    warmup_ms: tuple[float, ...]
    threads: int
    host_peak: int | None


@dataclass
class _Passes:
    """Forward passes of one arm at one batch size over batches that rotate, and what is noticed of their outputs."""

    batch_size: int
    step_once: Step
    count: int
    numbers: list[list[int]] = field(default_factory=list)
    latest: torch.Tensor | None = None
    finite: bool = True
    kept: dict[int, torch.Tensor] = field(default_factory=dict)
    passed: int = 0
    pass_ms: float = 0.0
    host_peak: int | None = None  # after its warm-up: outputs kept for the audit are no part of it

    def step(self, i: int) -> None:
        self.latest = self.step_once((self.passed + i) % self.count)

    def look(self, i: int) -> None:
        if isinstance(self.latest, torch.Tensor) and self.numbers:
            self.finite = self.finite and bool(self.latest.isfinite().all())
            if len(self.kept) < KEPT:
                self.kept.setdefault((self.passed + i) % self.count, self.latest)


def serve(source: BenchModel, arms: Sequence[Arm], idle: telemetry.Idle | None) -> Callable[[Any], Any]:
    """Return what answers requests in this process: ("warm" | "slot" | "check" | "examine", arm, batch size, ...).

    Warm gives :class:`Warm`; slot takes whether to discard a pass first, and gives :class:`SlotSeen`; check gives
    :class:`Checked`; examine takes whether to profile, and gives :class:`Examined`. Each arm is made ready when it is
    first asked for; one that fails is forgotten with all its memory, and the others stay.

    Raises:
        MachineMismatch: torch can't use the device.
    """
    device, protocol = source.device, source.protocol
    device.require()
    threads = torch_flags.apply(FP32, protocol)
    clock, by_name = device.clock(), {arm.name: arm for arm in arms}
    networks: dict[str, Any] = {}
    workspace: dict[str, int | None] = {}
    passes: dict[str, _Passes] = {}

    images = cache(source.images)  # a process of a kernel asks for none

    def network(name: str) -> Any:
        if name not in networks:
            arm = by_name[name]
            assert arm.row is not None
            networks[name] = prepared.network_of(source, arm.precision, arm.row, images()[:1])
            workspace[name] = _workspace(device)
        return networks[name]

    def batch(name: str, chosen: list[int]) -> torch.Tensor:
        row = by_name[name].row
        assert row is not None
        return images()[chosen].to(device.kind, convert.dtype_of(row, device.kind))

    def of(name: str, batch_size: int) -> _Passes:
        if name not in passes or passes[name].batch_size != batch_size:
            passes.pop(name, None)
            if by_name[name].row is None:
                passes[name] = _Passes(batch_size, kernels.step_of(name, device.kind), 1)
            else:
                net, numbers = network(name), rotation(len(images()), batch_size)
                batches = [batch(name, chosen) for chosen in numbers]
                passes[name] = _Passes(
                    batch_size, lambda i: fidelity.features_of(net(batches[i])), len(batches), numbers
                )
        return passes[name]

    def warm(name: str, batch_size: int) -> Warm:
        each = of(name, batch_size)
        for _ in range(device.cold_passes):
            each.step(0)
        times = warm_up(each.step, clock, protocol.warmup_passes, protocol.warmup_s if by_name[name].row else 0.0)
        each.host_peak = host.peak_bytes() if device.a_process_an_arm else None
        return Warm(times, threads, each.host_peak)

    def slot(name: str, batch_size: int, discard: bool) -> SlotSeen:
        each, is_kernel = of(name, batch_size), by_name[name].row is None
        # In the discarded pass the threads of the arm before still spin for milliseconds, which disturbs no timed one.
        readings = list[host.Reading]()
        fewest, fill_ms = (kernels.FEWEST, kernels.FILL_MS) if is_kernel else (protocol.slot_passes, protocol.slot_ms)
        seen = time_slot(
            each.step, clock, fewest, fill_ms, discard, each.look, lambda: readings.append(host.Reading.now())
        )
        each.passed, each.pass_ms = each.passed + len(seen.wall_ms), min(seen.wall_ms)
        window = None
        if seen.gpu_ms is not None and not is_kernel:
            count = len(seen.wall_ms)
            window = Throughput(images=count * batch_size, seconds=round(time_window(each.step, clock, count), 6))
        shares = readings[0].until(host.Reading.now(), threads)
        computing = device.computing() or set()
        if os.getpid() in computing and len(computing) > 1:  # in a container NVML may name other numbers
            shares = shares._replace(others=1.0)
        return SlotSeen(seen, window, shares)

    def check(name: str, batch_size: int) -> Checked:
        examined = examine(name, batch_size, False) if device.a_process_an_arm else None
        each, expected = of(name, batch_size), by_name[name].expected
        assert expected is not None
        if not each.kept:
            slot(name, batch_size, True)
        outputs = [(each.numbers[i], value.float().cpu().numpy()) for i, value in each.kept.items()]
        each.kept.clear()
        repeats = audit.time_repeats(each.step, clock, audit.pair_count(each.pass_ms))
        return Checked(each.finite, audit.check(expected, outputs, repeats), examined)

    def examine(name: str, batch_size: int, profiled: bool) -> Examined:
        found, step = memory(name, batch_size), of(name, batch_size).step
        joules = _energy(source, step, batch_size, idle)
        energy, reason = (joules, "") if isinstance(joules, Energy) else (None, joules)
        return Examined(found, energy, reason, device.profile(step) if profiled else None)

    def memory(name: str, batch_size: int) -> Memory:
        peak = reserved = None
        if not device.in_host_memory:
            passes.pop(name, None)  # their batches are not the network's
            net, one = network(name), [batch(name, rotation(len(images()), batch_size)[0])]
            for _ in range(2):  # what only a first pass takes is no peak
                peak, reserved = device.peaks(lambda: net(one[0]))
            one.clear()
        return Memory(
            stored_weights=0,
            workspace=workspace[name],
            allocated_after=device.allocated_bytes(),
            peak_allocated=peak,
            peak_reserved=reserved,
            host_peak=of(name, batch_size).host_peak if device.in_host_memory else host.peak_bytes(),
        )

    answers: Mapping[str, Callable[..., Any]] = {"warm": warm, "slot": slot, "check": check, "examine": examine}

    def answer(request: tuple[Any, ...]) -> Any:
        what, name, batch_size, *given = request
        torch_flags.apply(by_name[name].row or FP32, protocol)
        try:
            if by_name[name].row is not None:
                network(name)  # outside of inference mode, in which what a network is made of can't be changed any more
            with torch.inference_mode():
                return answers[what](name, batch_size, *given)
        except Exception:
            for held in (passes, networks):
                held.pop(name, None)
            raise

    return answer


def is_slow(warmup_ms: Sequence[float]) -> bool:
    """Whether passes take so long that the round's warm-up stands for the discarded pass of every slot."""
    return min(warmup_ms) > 1e3 * SLOW_S


def _workspace(device: Device) -> int | None:
    """Bytes that the first matrix product of this process allocates on the device; None where that is host memory."""
    held = device.allocated_bytes()
    if held is None:
        return None
    a = torch.ones(64, 64, device=device.kind)
    torch.mm(a, a)
    del a
    return int(device.allocated_bytes() or 0) - held


def _energy(source: BenchModel, step: Step, batch_size: int, idle: telemetry.Idle | None) -> Energy | str:
    asked_s = source.protocol.energy_s
    with source.device.energy_counter() as counter:
        if isinstance(counter, str):
            return counter
        if asked_s is None:
            return "the protocol asks for no energy window"
        if idle is None:
            return "what the idle machine draws could not be measured"
        return telemetry.window(step, source.device.clock(), counter, asked_s, batch_size, idle)


def rotation(total: int, batch_size: int) -> list[list[int]]:
    """Which of ``total`` crops each batch holds: eight batches of one image, at least two of many."""
    count = max(2, min(MOST_INPUTS, 16 // batch_size))
    starts = [number * batch_size + number // max(1, total // batch_size) for number in range(count)]
    return [[(start + i) % total for i in range(batch_size)] for start in starts]
