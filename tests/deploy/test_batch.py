"""The batch that fits: exact against an allocator with a script, and against allocations that really fail."""

import gc
import multiprocessing
import resource
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import nn

from visionquant.bench import host
from visionquant.core.errors import StudyError
from visionquant.deploy import batch_size

Result = TypeVar("Result")

MIB = 2**20


class Scripted:
    """An allocator that holds ``capacity`` images, and notes what it was asked for."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.asked = capacity, list[int]()

    def fits(self, size: int) -> bool:
        self.asked.append(size)
        return size <= self.capacity


@pytest.mark.parametrize("most", [1, 2, 7, 64, 100])
def test_the_largest_size_is_found_exactly_whatever_the_capacity(most: int) -> None:
    for capacity in range(most + 20):
        scripted = Scripted(capacity)
        assert batch_size.largest(scripted.fits, most) == min(capacity, most)
        assert len(scripted.asked) == len(set(scripted.asked))  # nothing is tried twice
        assert all(1 <= size <= most for size in scripted.asked)


def test_doubling_then_bisection() -> None:
    scripted = Scripted(21)
    assert batch_size.largest(scripted.fits, 1000) == 21
    assert scripted.asked == [1, 2, 4, 8, 16, 32, 24, 20, 22, 21]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_each_way_of_running_out_of_memory_is_understood(error: Exception) -> None:
    def run(size: int) -> None:
        if size > 1:
            raise error

    assert batch_size.largest_that_fits(run, most=64) == 1


@pytest.mark.parametrize(
    "words", ["could not create a primitive", "GET was unable to find an engine to execute this computation"]
)
def test_a_kernel_library_that_says_only_that_it_failed_ran_out_of_memory_if_it_worked_before(words: str) -> None:
    def run(size: int) -> None:
        if size > fine:
            raise RuntimeError(words)

    fine = 1
    assert batch_size.largest_that_fits(run, most=64) == 1
    fine = 0  # not even one image without a limit: a defect, and passed on
    with pytest.raises(RuntimeError, match=words):
        batch_size.largest_that_fits(run)


def test_another_error_is_passed_on_and_the_limit_taken_back() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)

    def run(size: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        batch_size.largest_that_fits(run)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_on_a_gpu_the_callers_own_cap_holds_within_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fractions = [0.5]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 100)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: fractions[-1])
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    for more_bytes, within in ((200, 0.3), (900, 0.5)):
        with batch_size.limited("cuda", more_bytes):
            assert fractions[-1] == within
        assert fractions[-1] == 0.5


class Hungry(nn.Module):
    """Takes 64 MiB an image, in one allocation, and keeps a reference in a cycle that only the collector breaks."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        held: list[object] = [torch.empty(len(images) * 64 * MIB, dtype=torch.uint8)]
        held.append(held)
        return images.sum()


def apart(task: Callable[[], Result]) -> Result:
    """Run in a process of its own: what earlier tests freed and this one's heap kept, would hold images too."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task)


def in_one_allocation() -> tuple[int, int, bool]:
    """The batch found without a margin, with one, and whether the limit is gone afterwards."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    net = Hungry()

    def run(size: int) -> object:
        return net(torch.zeros(size, 3))

    gc.collect()
    limit = host.resident_bytes() + 1024 * MIB
    whole = batch_size.largest_that_fits(run, limit_bytes=limit, margin=0.0)
    careful = batch_size.largest_that_fits(run, limit_bytes=limit, margin=0.3)
    beyond = torch.empty(1024 * MIB, dtype=torch.uint8).numel() == 1024 * MIB
    return whole, careful, beyond and resource.getrlimit(resource.RLIMIT_AS) == before


def test_real_allocations_fail_and_the_answer_leaves_the_margin() -> None:
    whole, careful, lifted = apart(in_one_allocation)
    assert 13 <= whole <= 16  # sixteen and not one more; what else the process reserves meanwhile counts too
    assert 1 <= careful < whole
    assert lifted


def of_a_network() -> tuple[int, list[int]]:
    """The batch found, and each batch that ran to its end."""
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 3, 3, padding=1)).eval()
    ran: list[int] = []

    def run(size: int) -> object:
        with torch.inference_mode():
            found = net(torch.zeros(size, 3, 128, 128))
        ran.append(size)
        return found

    return batch_size.largest_that_fits(run, limit_bytes=host.resident_bytes() + 128 * MIB, margin=0.0, most=256), ran


def test_a_pass_of_a_network_is_found_by_really_running_it() -> None:
    found, ran = apart(of_a_network)
    assert 1 <= found < 32  # 64 channels of 128 x 128 in FP32 are 4 MiB an image
    assert max(ran) == found


def beside_a_hole() -> tuple[int, int, int]:
    """The batch found, most bytes resident ever, and the limit, with 512 MiB freed that the heap keeps."""
    torch.ones(31 * MIB, dtype=torch.uint8)  # glibc maps what is larger than it has seen freed; now 16 MiB is heap
    held = [torch.ones(16 * MIB, dtype=torch.uint8) for _ in range(33)]
    del held[:-1]  # the last is above the hole, so that it is not given back
    limit = host.resident_bytes() + 256 * MIB
    found = batch_size.largest_that_fits(
        lambda size: torch.ones(size * 32 * MIB, dtype=torch.uint8), limit_bytes=limit, margin=0.0
    )
    assert len(held) == 1
    return found, host.peak_bytes() or 0, limit


def test_memory_that_was_freed_and_kept_does_not_lead_beyond_the_limit() -> None:
    found, peak, limit = apart(beside_a_hole)
    assert 5 <= found <= 24  # eight are 256 MiB; the hole, where the heap lies in one piece, takes sixteen more
    assert peak <= limit


def test_what_can_not_be_is_one_line() -> None:
    with pytest.raises(StudyError, match=r"not one image fits: \d+ MiB allowed, \d+ MiB held already; raise"):
        batch_size.largest_that_fits(lambda size: None, limit_bytes=MIB)
    with pytest.raises(StudyError, match="not one image fits"):
        batch_size.largest_that_fits(lambda size: torch.empty(2**50, dtype=torch.uint8))
    with pytest.raises(StudyError, match=r"margin: 1\.0 is out of range"):
        batch_size.largest_that_fits(lambda size: None, margin=1.0)
