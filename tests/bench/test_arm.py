"""What a process of arms answers, on networks and a device that are made up for it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from visionquant.bench import arm as arms
from visionquant.bench import device as devices
from visionquant.bench import host, kernels, prepared, worker
from visionquant.bench.arm import Arm
from visionquant.bench.audit import ExpectedOutput
from visionquant.bench.clock import Clock
from visionquant.records.cell import KERNELS, Launch
from visionquant.settings.params import Protocol
from visionquant.settings.precision import FP32

FP32_ARM = Arm("fp32", "fp32", FP32, ExpectedOutput(None, None, None, True))


class Odd(nn.Module):
    """Answers with its images; overflows for those whose pixels are ``odd``."""

    def __init__(self, odd: float = -1.0) -> None:
        super().__init__()
        self.odd = odd

    def forward(self, images: torch.Tensor) -> Any:
        overflow = torch.where((images == self.odd).any(), float("inf"), 0.0)
        return SimpleNamespace(last_hidden_state=images + overflow)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """What a process with these arms answers to requests; sixteen images, the pixels of which are their number."""
    images = torch.arange(16.0).reshape(16, 1, 1, 1).expand(16, 3, 8, 8).contiguous()

    def asked(
        *requests: tuple[Any, ...],
        net: nn.Module | None = None,
        device: devices.Device | None = None,
        more: tuple[Arm, ...] = (),
        **protocol: Any,
    ) -> list[Any]:
        monkeypatch.setattr(prepared, "network_of", lambda *_: net or Odd())
        source = SimpleNamespace(
            device=device or devices.of("cpu"),
            protocol=Protocol(**tiny.PROTOCOL | protocol),
            images=lambda: images,
        )

        def task() -> list[Any]:
            answer = arms.serve(source, [FP32_ARM, *more], None)  # type: ignore[arg-type]
            return [answer(request) for request in requests]

        return worker.in_fork(task)

    return asked


WARM, SLOT, CHECK, EXAMINE = (
    ("warm", "fp32", 1),
    ("slot", "fp32", 1, True),
    ("check", "fp32", 1),
    ("examine", "fp32", 1, True),
)
NUMBERS = [chosen[0] for chosen in arms.rotation(16, 1)]


@pytest.mark.parametrize("slots", [1, 4])
def test_one_batch_that_overflows_among_those_that_rotate_is_seen(
    answers: Callable[..., list[Any]], slots: int
) -> None:
    """The third of eight, so that neither the first output nor the last shows it; batches rotate on through slots."""
    for odd, finite in ((-1.0, True), (float(NUMBERS[2]), False)):
        *_, checked = answers(WARM, *[SLOT] * slots, CHECK, net=Odd(odd), slot_passes=8 // slots)
        assert checked.finite is finite


def test_batches_go_on_rotating_from_slot_to_slot() -> None:
    assert sorted(set(NUMBERS)) == NUMBERS
    assert len(NUMBERS) == arms.MOST_INPUTS
    assert [len(batch) for batch in arms.rotation(16, 12)] == [12, 12]
    assert arms.rotation(16, 16)[0] != arms.rotation(16, 16)[1]  # the same images in another order
    looked = list[float]()
    each = arms._Passes(1, lambda i: torch.tensor([float(i)]), 8, [[i] for i in range(8)])
    for _ in range(3):
        for i in range(3):
            each.step(i)
            assert each.latest is not None
            looked.append(float(each.latest))
        each.passed += 3
    assert looked == [0, 1, 2, 3, 4, 5, 6, 7, 0]


def test_a_slot_of_a_kernel_has_several_passes_fills_its_time_and_is_no_networks(
    answers: Callable[..., list[Any]],
) -> None:
    requests = [request for name in KERNELS for request in (("warm", name, 1), ("slot", name, 1, True))]
    found = answers(*requests, more=tuple(Arm(name) for name in KERNELS), slot_passes=500, warmup_s=9.0)
    for warm, slot in zip(found[::2], found[1::2], strict=True):
        assert len(warm.warmup_ms) == tiny.PROTOCOL["warmup_passes"]
        count, before_ms = len(slot.passes.wall_ms), sum(slot.passes.wall_ms[:-1])
        assert count >= kernels.FEWEST
        assert sum(slot.passes.wall_ms) >= kernels.FILL_MS
        assert count == kernels.FEWEST or before_ms < kernels.FILL_MS
        assert slot.window is None


def test_outputs_kept_for_the_audit_are_no_part_of_the_peak(answers: Callable[..., list[Any]]) -> None:
    class Large(nn.Module):
        """Answers with 16 MiB."""

        def forward(self, images: torch.Tensor) -> Any:
            return SimpleNamespace(last_hidden_state=images.mean() + torch.ones(1, 2**22))

    warm, _, checked, again = answers(WARM, SLOT, CHECK, WARM, net=Large(), slot_passes=3)
    assert checked.audit.kept == arms.KEPT
    assert checked.examined.memory.host_peak == warm.host_peak
    assert warm.host_peak is None or warm.host_peak + 2**25 < again.host_peak


def test_a_cpu_has_no_window_no_workspace_and_no_energy_that_was_not_asked_for(
    answers: Callable[..., list[Any]],
) -> None:
    warm, slot, checked = answers(WARM, SLOT, CHECK, threads=1)
    assert warm.threads == 1
    assert slot.window is None
    assert slot.passes.gpu_ms is None
    memory = checked.examined.memory
    assert (memory.workspace, memory.allocated_after, memory.peak_allocated, memory.peak_reserved) == (None,) * 4
    assert checked.examined.launch is None
    assert checked.examined.energy is None
    assert checked.examined.energy_reason


class ScriptedClock(Clock):
    """Of a device that takes 2 ms a step, by its own marks."""

    def __init__(self) -> None:
        self.marks = 0

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def between_ms(self, start: int, end: int) -> float:
        return 2.0 * (end - start)


class Scripted(devices.Device):
    """A device with a queue and memory of its own, on a CPU, which another process uses too."""

    a_process_an_arm = in_host_memory = False

    def clock(self) -> Clock:
        return ScriptedClock()

    def allocated_bytes(self) -> int | None:
        return 100

    def peaks(self, run: Callable[[], object]) -> tuple[int | None, int | None]:
        run()
        return 300, 400

    def computing(self) -> set[int] | None:
        return {host.os.getpid(), 1}

    def profile(self, step: Callable[[int], Any]) -> Launch | None:
        step(0)
        return Launch(gpu_busy_ms=1.5, kernels=7)


def test_an_arm_asks_all_that_it_wants_to_know_of_a_device_of_that_device(answers: Callable[..., list[Any]]) -> None:
    requests = (WARM, SLOT, CHECK, EXAMINE, (*EXAMINE[:-1], False))
    warm, slot, checked, examined, unprofiled = answers(*requests, device=Scripted())
    assert (len(warm.warmup_ms), warm.host_peak, checked.examined) == (1, None, None)
    assert set(slot.passes.gpu_ms) == {2.0}
    assert slot.window.images == len(slot.passes.wall_ms)
    assert slot.shares.others == 1.0
    memory = examined.memory
    assert (memory.workspace, memory.allocated_after, memory.peak_allocated, memory.peak_reserved) == (0, 100, 300, 400)
    assert (examined.launch, unprofiled.launch) == (Launch(gpu_busy_ms=1.5, kernels=7), None)


def test_peaks_are_those_of_one_pass_from_an_empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    told = {"max_memory_allocated": 7, "max_memory_reserved": 9}
    for name in ("empty_cache", "reset_peak_memory_stats", "synchronize", *told):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: (asked.append(name), told.get(name))[1])
    assert devices.of("cuda").peaks(lambda: asked.append("pass")) == (7, 9)
    assert asked == ["empty_cache", "reset_peak_memory_stats", "pass", "synchronize", *told]
    assert devices.of("cpu").peaks(lambda: pytest.fail("a pass")) == (None, None)
