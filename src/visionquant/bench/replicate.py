"""One replicate: what a fresh process does with one pair at one batch size, in this order.

Reference kernel, warm-up, timed passes, throughput window, reference kernel again. Only then, outside of all that is
timed: in a cell's first replicate the audit, the energy window and a profiled pass, and on a GPU a pass for its memory.
"""

import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from torch import nn

from visionquant.bench import (
    energy,
    fidelity,
    memory,
    op_count,
    output_audit,
    reference_kernel,
    system_load,
    torch_flags,
)
from visionquant.bench.clock import Plan, clock_of, time_steps, time_window
from visionquant.records.cell import Energy, Replicate, Run, Sentinel, Throughput
from visionquant.settings.params import Protocol
from visionquant.settings.precision import Precision

MOST_INPUTS = 8


@dataclass(frozen=True)
class Subject:
    """A pair made ready to be timed.

    ``build`` returns the converted model on the device and is called in every replicate's own process; ``images`` are
    prepared crops on the CPU, float32, shape (n, 3, side, side); ``stored_weights`` in bytes; ``known`` are the pair's
    outputs of the fidelity pass; ``idle`` is what the idle machine draws, None where it was not measured; ``profiled``
    are the batch sizes at which a GPU's pass is profiled.
    """

    build: Callable[[], nn.Module]
    precision: Precision
    protocol: Protocol
    device: str
    dtype: torch.dtype
    images: torch.Tensor
    stored_weights: int
    known: output_audit.Known
    idle: energy.Idle | None
    profiled: Set[int]


def plan_of(protocol: Protocol, number: int, device: str) -> Plan:
    """What replicate ``number`` times: its share of the counts and of the budget, without the throughput window's.

    The first pass of a process on a GPU loads its code and is no warm-up.
    """
    budget_s = protocol.budget_s
    return Plan(
        cold=1 if device == "cuda" else 0,
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


def run(subject: Subject, batch_size: int, number: int, position: int) -> Run:
    """Replicate ``number`` of a cell, the ``position``-th of the command; call in a process of its own."""
    protocol, device = subject.protocol, subject.device
    torch_flags.require(device)
    threads = torch_flags.apply(subject.precision, protocol)
    net = subject.build()
    numbers = rotation(len(subject.images), batch_size)
    inputs = [subject.images[chosen].to(device, subject.dtype) for chosen in numbers]
    clock = clock_of(device)
    latest: list[torch.Tensor] = []
    kept: dict[int, torch.Tensor] = {}
    first = number == 0

    finite: list[bool] = []  # of the outputs of each batch

    def step(i: int) -> None:
        latest[:] = [fidelity.features_of(net(inputs[i % len(inputs)]))]

    def look(i: int) -> None:
        if i < len(inputs):
            finite.append(bool(latest[0].isfinite().all()))
        if first and i % len(inputs) == 0 and len(kept) < output_audit.KEPT:
            kept[i] = latest[0]

    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    before = system_load.Reading.now()
    with torch.inference_mode():
        held = memory.allocated_bytes(device)
        before_ms = reference_kernel.read_ms(device, clock)
        workspace = None if held is None else (memory.allocated_bytes(device) or 0) - held
        samples = time_steps(step, clock, plan_of(protocol, number, device), look)
        median_ms = float(np.median(samples.wall_ms))
        count = window_count(protocol, median_ms)
        throughput = Throughput(images=count * batch_size, seconds=round(time_window(step, clock, count), 6))
        host_peak = memory.host_peak_bytes()
        after_ms = reference_kernel.read_ms(device, clock, again=True)
        found = system_load.since(before, device)
        for i in range(len(finite), min(count, len(inputs))):  # those that the window alone has passed
            step(i)
            finite.append(bool(latest[0].isfinite().all()))
        outputs = [(numbers[i % len(inputs)], value.float().cpu().numpy()) for i, value in kept.items()]
        kept.clear()
        audited, launch, joules = None, None, None
        if first:
            pairs = output_audit.pair_count(median_ms, protocol.budget_s)
            audited = output_audit.look(subject.known, outputs, output_audit.time_repeats(step, clock, pairs))
            joules = _energy(subject, step, batch_size)
            if device == "cuda" and batch_size in subject.profiled:
                launch = op_count.profile(step)  # slows what follows
        latest.clear()
        del inputs[1:]
        peak, reserved = memory.device_peaks(device, lambda: step(0))
    latest.clear()
    inputs.clear()
    return Run(
        replicate=Replicate(
            position=position,
            turns_with=(),
            started_at=started_at,
            threads=threads,
            cold_ms=samples.cold_ms,
            warmup_ms=samples.warmup_ms,
            settled=samples.settled,
            wall_ms=samples.wall_ms,
            gpu_ms=samples.gpu_ms,
            stopped_by="budget" if samples.stopped_by == "budget" else "count",
            throughput=throughput,
            host_peak=host_peak,
            sentinel=_sentinel(before_ms, after_ms),
            conditions=found,
        ),
        monotonic_s=(before.wall_s, time.monotonic()),
        finite=all(finite),
        workspace=workspace,
        allocated_after=memory.allocated_bytes(device),
        peak_allocated=peak,
        peak_reserved=reserved,
        audit=audited,
        energy=joules if isinstance(joules, Energy) else None,
        energy_reason=joules if isinstance(joules, str) else "",
        launch=launch,
    )


def _sentinel(before: reference_kernel.Reading, after: reference_kernel.Reading) -> Sentinel:
    (kernel_before, host_before), (kernel_after, host_after) = before, after
    host = None
    if host_before is not None and host_after is not None:
        host = Sentinel(before_ms=host_before, after_ms=host_after)
    return Sentinel(before_ms=kernel_before, after_ms=kernel_after, host=host)


def _energy(subject: Subject, step: Callable[[int], None], batch_size: int) -> Energy | str:
    counter = energy.find(subject.device)
    if isinstance(counter, str):
        return counter
    if subject.protocol.energy_s is None:
        return "the protocol asks for no energy window"
    if subject.idle is None:
        return "what the idle machine draws could not be measured"
    clock = clock_of(subject.device)
    return energy.window(step, clock, counter, subject.protocol.energy_s, batch_size, subject.idle)


def rotation(total: int, batch_size: int) -> list[list[int]]:
    """Which of ``total`` crops each batch holds: eight batches of one image, at least two of many."""
    count = max(2, min(MOST_INPUTS, 16 // batch_size))
    starts = [number * batch_size + number // max(1, total // batch_size) for number in range(count)]
    return [[(start + i) % total for i in range(batch_size)] for start in starts]
