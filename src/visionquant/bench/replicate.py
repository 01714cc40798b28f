"""One replicate: what a fresh process does with one pair at one batch size, in this order.

Reference kernel, warm-up, timed passes, throughput window, reference kernel again. Only then, outside of all that is
timed: outputs of batches that nobody has looked at; in a cell's first replicate the audit, the energy window and a
profiled pass; and on a GPU a pass for its memory.
"""

import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from torch import nn

from visionquant.bench import energy, fidelity, memory, output_audit, reference_kernel, system_load, torch_flags
from visionquant.bench.clock import Clock, Step, TimingPlan, time_steps, time_window
from visionquant.bench.device import Device
from visionquant.records.cell import Energy, Replicate, Run, Throughput
from visionquant.settings.params import Protocol
from visionquant.settings.precision import PrecisionRow

MOST_INPUTS = 8


@dataclass(frozen=True)
class ReadyPair:
    """A pair made ready to be timed.

    ``build`` returns the converted model on the device and is called in every replicate's own process; ``images`` are
    prepared crops on the CPU, float32, shape (n, 3, side, side); ``expected`` are the pair's outputs of the fidelity
    pass; ``idle`` is what the idle machine draws, None where it was not measured; ``profiled`` are the batch sizes at
    which a GPU's pass is profiled.
    """

    build: Callable[[], nn.Module]
    precision: PrecisionRow
    protocol: Protocol
    device: Device
    dtype: torch.dtype
    images: torch.Tensor
    expected: output_audit.ExpectedOutput
    idle: energy.Idle | None
    profiled: Set[int]


def plan_of(protocol: Protocol, number: int, device: Device) -> TimingPlan:
    """What replicate ``number`` times: its share of the counts and of the budget, without the throughput window's."""
    budget_s = protocol.budget_s
    return TimingPlan(
        cold=device.cold_passes,
        warmup=protocol.warmup_iterations,
        warmup_s=protocol.warmup_s,
        iterations=protocol.iterations_of(number),
        minimum=protocol.minimum_iterations,
        budget_s=None if budget_s is None else budget_s * (1 - protocol.throughput_share) / protocol.most,
    )


def window_count(protocol: Protocol, median_ms: float) -> int:
    """Batches in a replicate's throughput window: what its share of the budget holds, or its share of iterations."""
    share = protocol.throughput_share / protocol.most
    if protocol.budget_s is None:
        return max(1, round(share * protocol.iterations))
    return max(1, int(share * protocol.budget_s * 1e3 / median_ms))


class _Passes:
    """Forward passes over the batches that rotate, and what is noticed of their outputs outside of what is timed."""

    def __init__(self, net: nn.Module, batches: list[torch.Tensor], audited: bool) -> None:
        self.net, self.batches, self.audited = net, batches, audited
        self.latest: torch.Tensor | None = None
        self.finite: list[bool] = []  # of the outputs of each batch
        self.kept: dict[int, torch.Tensor] = {}  # outputs by the number of the pass, for the audit
        self.host_peak: int | None = None  # before any was kept

    def step(self, i: int) -> None:
        self.latest = fidelity.features_of(self.net(self.batches[i % len(self.batches)]))

    def look(self, i: int) -> None:
        assert self.latest is not None
        if i < len(self.batches):
            self.finite.append(bool(self.latest.isfinite().all()))
        if self.audited and i % len(self.batches) == 0 and len(self.kept) < output_audit.KEPT:
            self.host_peak = self.host_peak or memory.host_peak_bytes()
            self.kept[i] = self.latest

    def look_at_the_rest(self, passed: int) -> None:
        """At the outputs of those batches that only a window of ``passed`` batches has passed."""
        for i in range(len(self.finite), min(passed, len(self.batches))):
            self.step(i)
            self.look(i)


def run(pair: ReadyPair, batch_size: int, number: int, position: int) -> Run:
    """Replicate ``number`` of a cell, the ``position``-th of the command; call in a process of its own."""
    protocol, device, first = pair.protocol, pair.device, number == 0
    device.require()
    threads = torch_flags.apply(pair.precision, protocol)
    net = pair.build()
    numbers = rotation(len(pair.images), batch_size)
    passes = _Passes(net, [pair.images[chosen].to(device.kind, pair.dtype) for chosen in numbers], first)
    step, clock = passes.step, device.clock()
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    before = system_load.Reading.now()
    with torch.inference_mode():
        held = device.allocated_bytes()
        before_ms = reference_kernel.read_ms(device.kind, clock)
        workspace = None if held is None else (device.allocated_bytes() or 0) - held
        timed = time_steps(step, clock, plan_of(protocol, number, device), passes.look)
        median_ms = float(np.median(timed.wall_ms))
        count = window_count(protocol, median_ms)
        throughput = Throughput(images=count * batch_size, seconds=round(time_window(step, clock, count), 6))
        host_peak = passes.host_peak or memory.host_peak_bytes()
        after_ms = reference_kernel.read_ms(device.kind, clock, again=True)
        conditions = system_load.since(before, device)
        passes.audited = False
        passes.look_at_the_rest(count)
        outputs = [(numbers[i % len(numbers)], value.float().cpu().numpy()) for i, value in passes.kept.items()]
        passes.kept.clear()
        audit, launch, joules = None, None, None
        if first:
            repeats = output_audit.time_repeats(step, clock, output_audit.pair_count(median_ms, protocol.budget_s))
            audit = output_audit.check(pair.expected, outputs, repeats)
            joules = _energy(pair, step, clock, batch_size)
            if batch_size in pair.profiled:
                launch = device.profile(step)  # slows what follows
        passes.latest = None
        del passes.batches[1:]
        peak, reserved = device.peaks(lambda: step(0))
    passes.latest = None
    passes.batches.clear()
    return Run(
        replicate=Replicate(
            **vars(timed),
            position=position,
            turns_with=(),
            started_at=started_at,
            threads=threads,
            throughput=throughput,
            host_peak=host_peak,
            sentinel=reference_kernel.sentinel(before_ms, after_ms),
            conditions=conditions,
        ),
        monotonic_s=(before.wall_s, time.monotonic()),
        finite=all(passes.finite),
        workspace=workspace,
        allocated_after=device.allocated_bytes(),
        peak_allocated=peak,
        peak_reserved=reserved,
        audit=audit,
        energy=joules if isinstance(joules, Energy) else None,
        energy_reason=joules if isinstance(joules, str) else "",
        launch=launch,
    )


def _energy(pair: ReadyPair, step: Step, clock: Clock, batch_size: int) -> Energy | str:
    with pair.device.energy_counter() as counter:
        if isinstance(counter, str):
            return counter
        if pair.protocol.energy_s is None:
            return "the protocol asks for no energy window"
        if pair.idle is None:
            return "what the idle machine draws could not be measured"
        return energy.window(step, clock, counter, pair.protocol.energy_s, batch_size, pair.idle)


def rotation(total: int, batch_size: int) -> list[list[int]]:
    """Which of ``total`` crops each batch holds: eight batches of one image, at least two of many."""
    count = max(2, min(MOST_INPUTS, 16 // batch_size))
    starts = [number * batch_size + number // max(1, total // batch_size) for number in range(count)]
    return [[(start + i) % total for i in range(batch_size)] for start in starts]
