"""One cell: fresh processes, one after the other, each timing the same model at one batch size.

A cell that can't be afforded is foreseen from the smaller ones of its pair: a forward pass grows at least linearly with
the batch, and so does the memory of its activations, so the machine neither waits for hours nor swaps. What could not
be measured is a cell all the same, with a status and a reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from visionquant.bench import backend, fidelity, isolate, memory
from visionquant.bench.clock import Clock, CpuClock, CudaClock, Plan, time_steps, time_window
from visionquant.params import Precision, Protocol
from visionquant.records import Cell, Memory, Replicate, Throughput

MOST_INPUTS = 8
GIB = 2**30


@dataclass(frozen=True)
class Subject:
    """A pair made ready to be timed.

    ``build`` returns the converted model on the device and is called in every replicate's own process; ``images`` are
    prepared crops on the CPU, float32, shape (n, 3, side, side); ``stored_weights`` in bytes.
    """

    build: Callable[[], nn.Module]
    precision: Precision
    protocol: Protocol
    device: str
    dtype: torch.dtype
    images: torch.Tensor
    stored_weights: int


@dataclass(frozen=True)
class Host:
    """Bytes of host memory: free now, and resident in the process that replicates are forked from."""

    available: int
    baseline: int

    @classmethod
    def now(cls) -> "Host":
        """This process and this machine at this moment."""
        return cls(memory.available_host_bytes(), memory.resident_bytes())


@dataclass(frozen=True)
class _Run:
    replicate: Replicate
    throughput: Throughput | None
    finite: bool
    device_bytes: tuple[int | None, int | None, int | None]


def measure(subject: Subject, batch_size: int, smaller: Sequence[Cell], host: Host | None = None) -> Cell:
    """Measure one batch size.

    Args:
        smaller: the pair's cells of smaller batch sizes, from which time and memory are foreseen. Without any, the
            protocol's minimum is measured whatever it takes.
        host: memory at hand; now, by default.

    Raises:
        isolate.Defect: a replicate ended in a way that is no result.
    """
    foreseen = foresee(batch_size, smaller, subject.protocol, _host(subject) if host is None else host)
    if foreseen is not None:
        return foreseen
    runs: list[_Run] = []
    try:
        for number in range(subject.protocol.replicates):
            runs.append(isolate.in_fork(lambda number=number: _replicate(subject, batch_size, number)))  # type: ignore[misc]
    except isolate.Failed as failure:
        return Cell(batch_size=batch_size, status=failure.cause, reason=failure.reason)
    replicates = tuple(run.replicate for run in runs)
    allocated, peak, reserved = runs[-1].device_bytes
    peaks = [replicate.host_peak for replicate in replicates if replicate.host_peak is not None]
    finite = all(run.finite for run in runs)
    return Cell(
        batch_size=batch_size,
        status="ok" if finite else "non_finite",
        reason="" if finite else "the outputs hold NaN or infinity; the timings are of that",
        replicates=replicates,
        throughput=runs[-1].throughput,
        memory=Memory(
            stored_weights=subject.stored_weights,
            allocated_after=allocated,
            peak_allocated=peak,
            peak_reserved=reserved,
            host_peak=max(peaks, default=None),
        ),
    )


def _host(subject: Subject) -> Host | None:
    """On a GPU activations don't lie in host memory, and running out of the device's is survived."""
    return Host.now() if subject.device == "cpu" else None


def foresee(batch_size: int, smaller: Sequence[Cell], protocol: Protocol, host: Host | None) -> Cell | None:
    """The cell that can be told without measuring it, or None: it has to be measured.

    Without ``host`` no memory is foreseen.
    """
    if not smaller:
        return None
    last = max(smaller, key=lambda cell: cell.batch_size)
    if last.status in ("out_of_memory", "unsupported"):
        return Cell(
            batch_size=batch_size, status=last.status, reason=f"as at batch size {last.batch_size}: {last.reason}"
        )
    timed = [cell for cell in smaller if cell.replicates]
    if not timed:
        return None
    nearest = max(timed, key=lambda cell: cell.batch_size)
    grown = batch_size / nearest.batch_size
    pass_s = float(np.median([ms for replicate in nearest.replicates for ms in replicate.wall_ms])) / 1e3 * grown
    passes = protocol.replicates * (protocol.warmup_iterations + protocol.minimum_iterations) + 1
    if protocol.limit_s is not None and passes * pass_s > protocol.limit_s:
        return Cell(
            batch_size=batch_size,
            status="over_budget",
            reason=f"{passes} passes of about {pass_s:.2f} s (from batch size {nearest.batch_size}) are more than "
            f"limit_s {protocol.limit_s:g}",
        )
    peak = nearest.memory.host_peak if nearest.memory else None
    if peak is not None and host is not None:
        needed = int((peak - host.baseline) * grown)
        if needed > 0.9 * host.available:
            return Cell(
                batch_size=batch_size,
                status="out_of_memory",
                reason=f"foreseen: about {needed / GIB:.1f} GiB of host memory needed (from batch size "
                f"{nearest.batch_size}), {host.available / GIB:.1f} GiB free",
            )
    return None


def plan_of(protocol: Protocol, number: int) -> Plan:
    """What replicate ``number`` times: its share of the counts and of the budget, without the throughput window's."""
    budget_s = protocol.budget_s
    return Plan(
        warmup=protocol.warmup_iterations,
        iterations=protocol.iterations_of(number),
        minimum=protocol.minimum_iterations,
        budget_s=None if budget_s is None else budget_s * (1 - protocol.throughput_share) / protocol.replicates,
    )


def window_count(protocol: Protocol, median_ms: float) -> int:
    """Batches in the throughput window: what its share of the budget holds, or its share of the iterations."""
    if protocol.budget_s is None:
        return max(1, round(protocol.throughput_share * protocol.iterations))
    return max(1, int(protocol.throughput_share * protocol.budget_s * 1e3 / median_ms))


def _replicate(subject: Subject, batch_size: int, number: int) -> _Run:
    protocol, device = subject.protocol, subject.device
    backend.require(device)
    threads = backend.apply(subject.precision, protocol)
    net = subject.build()
    inputs = _inputs(subject, batch_size)
    clock: Clock = CudaClock() if device == "cuda" else CpuClock()
    memory.reset_device_peak(device)
    latest: list[torch.Tensor] = []

    def step(i: int) -> None:
        latest[:] = [fidelity.features_of(net(inputs[i % len(inputs)]))]

    with torch.inference_mode():
        samples = time_steps(step, clock, plan_of(protocol, number))
        throughput = None
        if number == protocol.replicates - 1:
            count = window_count(protocol, float(np.median(samples.wall_ms)))
            seconds = time_window(step, clock, count)
            throughput = Throughput(images=count * batch_size, seconds=round(seconds, 6))
        finite = bool(latest[0].isfinite().all())
    _, peak, reserved = memory.device_bytes(device)
    latest.clear()
    inputs.clear()
    allocated, _, _ = memory.device_bytes(device)
    replicate = Replicate(
        threads=threads,
        warmup_ms=samples.warmup_ms,
        wall_ms=samples.wall_ms,
        gpu_ms=samples.gpu_ms,
        stopped_by="budget" if samples.stopped_by == "budget" else "count",
        host_peak=memory.host_peak_bytes(),
    )
    return _Run(replicate, throughput, finite, (allocated, peak, reserved))


def _inputs(subject: Subject, batch_size: int) -> list[torch.Tensor]:
    """Different batches on the device, going round the crops: eight of one image, at least two of many."""
    total = len(subject.images)
    count = max(2, min(MOST_INPUTS, 16 // batch_size))
    starts = [number * batch_size + number // max(1, total // batch_size) for number in range(count)]
    chosen = [[(start + i) % total for i in range(batch_size)] for start in starts]
    return [subject.images[indices].to(subject.device, subject.dtype) for indices in chosen]
