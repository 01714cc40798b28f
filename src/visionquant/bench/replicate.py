"""One replicate: what a fresh process does with one pair at one batch size, in this order.

Reference kernel, warm-up, timed passes, throughput window, reference kernel again. Only then, outside of all that is
timed: outputs of batches that nobody has looked at; in a cell's first replicate the audit (did the timed passes do the
work? outputs are compared with the fidelity pass, times with repeats), the energy window and a profiled pass; and on a
GPU a pass for its memory.
"""

import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from torch import nn

from visionquant.bench import fidelity, host, reference_kernel, telemetry, torch_flags
from visionquant.bench.clock import Clock, Step, TimingPlan, one_step, time_steps, time_window
from visionquant.bench.device import Device
from visionquant.core.intervals import t_interval
from visionquant.records.cell import REPEAT_FLOOR, Audit, Energy, Replicate, Run, Throughput
from visionquant.settings.params import Protocol
from visionquant.settings.precision import PrecisionRow

MOST_INPUTS = 8
KEPT = 3  # outputs for the audit
PAIRS, FEWEST_PAIRS, SHARE = 10, 5, 0.1
LEAST_LIMIT, LEAST_LIMIT_16 = 1e-3, 1e-2


@dataclass(frozen=True)
class ExpectedOutput:
    """What this precision said before: features of the fidelity images, and of the first of them alone (1, ...).

    ``worst`` is the largest distance of an image's features from FP32's, None where it was not measured.
    """

    features: np.ndarray | None
    alone: np.ndarray | None
    worst: float | None
    in_float32: bool

    @property
    def limit(self) -> float:
        """Relative L2 distance that is allowed.

        Twice what the precision costs the worst image, for two runs of it may err to opposite sides, and at least
        what another order of summation may do.
        """
        least = LEAST_LIMIT if self.in_float32 else LEAST_LIMIT_16
        return least if self.worst is None or not np.isfinite(self.worst) else max(least, 2 * self.worst)


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
    expected: ExpectedOutput
    idle: telemetry.Idle | None
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
    share, budget_s = protocol.throughput_share / protocol.most, protocol.budget_s
    return max(1, round(share * protocol.iterations) if budget_s is None else int(share * budget_s * 1e3 / median_ms))


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
        if self.audited and i % len(self.batches) == 0 and len(self.kept) < KEPT:
            self.host_peak = self.host_peak or host.peak_bytes()
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
    net, numbers = pair.build(), rotation(len(pair.images), batch_size)
    passes = _Passes(net, [pair.images[chosen].to(device.kind, pair.dtype) for chosen in numbers], first)
    step, clock = passes.step, device.clock()
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    before = host.Reading.now()
    with torch.inference_mode():
        held = device.allocated_bytes()
        before_ms = reference_kernel.read_ms(device.kind, clock)
        workspace = None if held is None else (device.allocated_bytes() or 0) - held
        timed = time_steps(step, clock, plan_of(protocol, number, device), passes.look)
        median_ms = float(np.median(timed.wall_ms))
        count = window_count(protocol, median_ms)
        throughput = Throughput(images=count * batch_size, seconds=round(time_window(step, clock, count), 6))
        host_peak = passes.host_peak or host.peak_bytes()
        after_ms = reference_kernel.read_ms(device.kind, clock, again=True)
        conditions = host.conditions_since(before, device)
        passes.audited = False
        passes.look_at_the_rest(count)
        outputs = [(numbers[i % len(numbers)], value.float().cpu().numpy()) for i, value in passes.kept.items()]
        passes.kept.clear()
        audit, launch, joules = None, None, None
        if first:
            audit = check(pair.expected, outputs, time_repeats(step, clock, pair_count(median_ms, protocol.budget_s)))
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
        return telemetry.window(step, clock, counter, pair.protocol.energy_s, batch_size, pair.idle)


def rotation(total: int, batch_size: int) -> list[list[int]]:
    """Which of ``total`` crops each batch holds: eight batches of one image, at least two of many."""
    count = max(2, min(MOST_INPUTS, 16 // batch_size))
    starts = [number * batch_size + number // max(1, total // batch_size) for number in range(count)]
    return [[(start + i) % total for i in range(batch_size)] for start in starts]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Relative L2 distance of two arrays of the same shape, of b's length; infinite where one is not finite."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def check(
    expected: ExpectedOutput, kept: Sequence[tuple[Sequence[int], np.ndarray]], repeats: Sequence[float]
) -> Audit:
    """Judge the outputs and times of one replicate.

    Args:
        kept: of some timed passes, the numbers of the images and their features (batch, ...).
        repeats: of pairs of passes, the time of a batch passed again over that of the same batch when it was new.
    """
    images = () if expected.features is None else expected.features
    passed = [(number, output) for numbers, features in kept for number, output in zip(numbers, features, strict=True)]
    distances = [distance(output, images[number]) for number, output in passed if number < len(images)]
    batch = None
    if expected.alone is not None and kept and len(kept[0][0]) > 1 and 0 in kept[0][0]:
        numbers, features = kept[0]
        batch = distance(features[list(numbers).index(0)], expected.alone[0])
    return Audit(
        kept=len(kept),
        images=len(distances),
        deviation=_short(max(distances, default=None)),
        limit=float(f"{expected.limit:.4g}"),
        repeats=len(repeats),
        repeat_ratio=_short(float(np.exp(np.log(repeats).mean())) if len(repeats) else None),
        repeat_high=_short(_high(repeats)),
        batch_deviation=_short(batch),
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _high(repeats: Sequence[float]) -> float | None:
    """The upper end of the 95 % interval of the mean ratio, None below two."""
    interval = t_interval(np.log(repeats), 0.95) if len(repeats) else None
    return interval[1] if interval else None


def time_repeats(step: Step, clock: Clock, count: int) -> list[float]:
    """Ratios of ``count`` pairs: a batch passed again over the same batch when it was new.

    Where they accuse, all is timed again with an odd number of passes in between, and the milder of both counts: time
    slices of another program can fall on the first pass of every pair, but not in two rhythms.
    """

    def ratios(between: int) -> list[float]:
        found = []
        for i in range(count):
            for other in range(1, between + 1):
                step(i + other)
            new_ms, repeated_ms = (one_step(step, clock, i)[0] for _ in range(2))
            found.append(repeated_ms / new_ms)
        return found

    first = ratios(0)
    high = _high(first)
    return first if high is None or high >= REPEAT_FLOOR else max(first, ratios(1), key=lambda each: _high(each) or 0.0)


def pair_count(pass_ms: float, budget_s: float | None) -> int:
    """How many pairs to time: ten, fewer where they would take more than a tenth of the cell's budget, or none."""
    count = PAIRS if budget_s is None else min(PAIRS, int(SHARE * budget_s * 1e3 / (2 * pass_ms)))
    return count if count >= FEWEST_PAIRS else 0
