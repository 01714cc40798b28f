"""One replicate in its own process, on networks made for the purpose, and what it asks of a GPU's memory."""

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from visionquant.bench import device, replicate, worker
from visionquant.records.cell import Run
from visionquant.settings.params import Protocol
from visionquant.settings.precision import FP32


class Brittle(nn.Module):
    """Answers with its images; overflows for those that hold ``odd``."""

    def __init__(self, odd: float) -> None:
        super().__init__()
        self.odd = odd

    def forward(self, images: torch.Tensor) -> Any:
        overflow = torch.where((images == self.odd).any(), float("inf"), 0.0)
        return SimpleNamespace(last_hidden_state=images + overflow)


def run(odd: float, number: int = 0, net: nn.Module | None = None, **protocol: Any) -> Run:
    """Eight batches of one image each, the pixels of which are its number."""
    images = torch.arange(16.0).reshape(16, 1, 1, 1).expand(16, 3, 8, 8).contiguous()
    subject = replicate.ReadyPair(
        lambda: net or Brittle(odd),
        FP32,
        Protocol(**{**tiny.PROTOCOL, **protocol}),
        device.of("cpu"),
        torch.float32,
        images,
        replicate.ExpectedOutput(None, None, None, True),
        None,
        frozenset(),
    )
    return worker.in_fork(lambda: replicate.run(subject, 1, number, 0))


NUMBERS = [chosen[0] for chosen in replicate.rotation(16, 1)]


def test_one_batch_that_overflows_among_those_that_rotate_is_seen() -> None:
    """In the third pass of eight, so that neither the first output nor the last shows it."""
    protocol = {"replicates": 1, "iterations": 16, "minimum_iterations": 1, "throughput_share": 0.1}
    assert run(-1.0, **protocol).finite
    assert not run(float(NUMBERS[2]), **protocol).finite


def test_a_batch_that_only_the_throughput_window_passed_is_looked_at() -> None:
    protocol = {"replicates": 1, "iterations": 2, "minimum_iterations": 1, "throughput_share": 0.9999, "budget_s": 0.2}
    assert run(-1.0, **protocol).finite
    assert not run(float(NUMBERS[5]), **protocol).finite


class Large(nn.Module):
    """Answers with 64 MiB."""

    def forward(self, images: torch.Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=images.mean() + torch.ones(1, 2**24))


def test_outputs_kept_for_the_audit_are_no_part_of_the_peak() -> None:
    """The first replicate keeps three; without them it needs what the second does."""
    first, second = (run(-1.0, number, Large(), iterations=36, minimum_iterations=1).replicate for number in (0, 1))
    assert first.host_peak is not None
    assert second.host_peak is not None
    assert first.host_peak < second.host_peak + 2**25


def test_a_cpu_has_no_cold_pass_no_host_and_no_workspace() -> None:
    found = run(-1.0)
    assert found.replicate.cold_ms == ()
    assert found.replicate.sentinel.host is None
    assert (found.workspace, found.allocated_after, found.peak_allocated, found.peak_reserved) == (None,) * 4


def test_peaks_are_those_of_one_pass_from_an_empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = {"max_memory_allocated": 7, "max_memory_reserved": 9}
    for name in ("empty_cache", "reset_peak_memory_stats", "synchronize", *answers):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: (asked.append(name), answers.get(name))[1])
    assert device.of("cuda").peaks(lambda: asked.append("pass")) == (7, 9)
    assert asked == ["empty_cache", "reset_peak_memory_stats", "pass", "synchronize", *answers]
    assert device.of("cpu").peaks(lambda: pytest.fail("a pass")) == (None, None)
