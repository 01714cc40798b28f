"""The batch that fits: exact against an allocator with a script, and against allocations that really fail."""

import gc
import resource

import pytest
import torch
from torch import nn

from visionquant.bench import memory
from visionquant.deploy import batch
from visionquant.errors import StudyError

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
        assert batch.largest(scripted.fits, most) == min(capacity, most)
        assert len(scripted.asked) == len(set(scripted.asked))  # nothing is tried twice
        assert all(1 <= size <= most for size in scripted.asked)


def test_doubling_then_bisection() -> None:
    scripted = Scripted(21)
    assert batch.largest(scripted.fits, 1000) == 21
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
        if size > 5:
            raise error

    assert batch.adaptive(run, most=64) == 5


def test_another_error_is_passed_on_and_the_limit_taken_back() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)

    def run(size: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        batch.adaptive(run)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


class Hungry(nn.Module):
    """Takes 64 MiB an image, in one allocation, and keeps a reference in a cycle that only the collector breaks."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        held: list[object] = [torch.empty(len(images) * 64 * MIB, dtype=torch.uint8)]
        held.append(held)
        return images.sum()


def test_real_allocations_fail_and_the_answer_leaves_the_margin() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    net = Hungry()

    def run(size: int) -> object:
        return net(torch.zeros(size, 3))

    gc.collect()
    limit = memory.resident_bytes() + 1024 * MIB
    whole = batch.adaptive(run, limit_bytes=limit, margin=0.0)
    assert 13 <= whole <= 16  # sixteen and not one more; what else this process reserves meanwhile counts too
    careful = batch.adaptive(run, limit_bytes=limit, margin=0.3)
    assert 1 <= careful < whole
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert torch.empty(1024 * MIB, dtype=torch.uint8).numel() == 1024 * MIB  # beyond the limit again


def test_a_pass_of_a_network_is_found_by_really_running_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 3, 3, padding=1)).eval()
    ran: list[int] = []

    def run(size: int) -> object:
        with torch.inference_mode():
            found = net(torch.zeros(size, 3, 128, 128))
        ran.append(size)
        return found

    found = batch.adaptive(run, limit_bytes=memory.resident_bytes() + 128 * MIB, margin=0.0, most=256)
    assert 1 <= found < 32  # 64 channels of 128 x 128 in FP32 are 4 MiB an image
    assert max(ran) == found


def test_what_can_not_be_is_one_line() -> None:
    with pytest.raises(StudyError, match=r"not one image fits: \d+ MiB allowed, \d+ MiB held already; raise"):
        batch.adaptive(lambda size: None, limit_bytes=MIB)
    with pytest.raises(StudyError, match="not one image fits"):
        batch.adaptive(lambda size: torch.empty(2**50, dtype=torch.uint8))
    with pytest.raises(StudyError, match=r"margin: 1\.0 is out of range"):
        batch.adaptive(lambda size: None, margin=1.0)
