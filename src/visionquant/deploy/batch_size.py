"""The largest batch that fits, found by running it: doubled until memory runs out, then bisected.

Memory use is not predicted, for workspaces, fragmentation and attention's kernels are in no formula: each size is run
under the limit, after one image without it, which starts threads and fills caches. On a GPU the limit is the
allocator's own; on a CPU, where Linux promises more memory than there is and then kills, it is the address space of
this process, so that the allocation itself fails and can be recovered from. A margin is taken off beforehand. (The
guide's listing never runs the model in between, and does not end.)

Trade-off: about two passes for each doubling. Address space counts what is reserved and not used, so on a CPU the
result errs on the small side. While it runs, other threads of this process share the limit.
"""

import gc
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import psutil
import torch

from visionquant.bench import host, worker
from visionquant.core.errors import StudyError
from visionquant.core.machine import require_linux

REMEDY = "raise the limit, or take a smaller model or precision"
# What oneDNN, cuDNN and cuBLAS say of many failures, their own allocations' too.
VAGUE = ("could not create a primitive", "could not execute a primitive", *worker.EXHAUSTED_IF_FULL)


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest size from 1 to ``most`` that fits, 0 if none does; whatever is above one that does not, does not."""
    good, size = 0, 1
    while fits(size):
        if size == most:
            return most
        good, size = size, min(2 * size, most)
    return good + bisect_left(range(good + 1, size), True, key=lambda between: not fits(between))


def largest_that_fits(
    run: Callable[[int], object],
    device: str = "cpu",
    limit_bytes: int | None = None,
    margin: float = 0.1,
    most: int = 4096,
) -> int:
    """The largest batch size at which ``run`` stays within memory.

    Args:
        run: one pass, or one training step, at a batch size; its result is dropped.
        limit_bytes: what this process may hold in all: resident memory on a CPU, allocated memory on a GPU. By default
            all that is free now, beyond what it holds already.
        margin: share of the limit that is left free.
        most: where to stop looking.

    Raises:
        StudyError: a margin that leaves nothing, not even one image fits, or a CPU under another system than Linux.
    """
    if not 0 <= margin < 1:
        raise StudyError("largest batch: margin", f"{margin} is out of range", "give a share from 0 up to below 1")
    if not _fits(run, 1, device, None):
        raise StudyError("largest batch", "not one image fits in this machine's memory", REMEDY)
    held = torch.cuda.memory_allocated() if device == "cuda" else host.resident_bytes()
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else host.available_bytes()
    allowed = int((1 - margin) * (held + free if limit_bytes is None else limit_bytes))
    size = largest(lambda size: _fits(run, size, device, allowed - held), most) if allowed > held else 0
    if not size:
        what = f"not one image fits: {allowed / 2**20:.0f} MiB allowed, {held / 2**20:.0f} MiB held already"
        raise StudyError("largest batch", what, REMEDY)
    return size


def _fits(run: Callable[[int], object], size: int, device: str, more_bytes: int | None) -> bool:
    """Whether a pass of ``size`` stays within ``more_bytes`` beyond what is held; memory is given back either way."""
    try:
        with nullcontext() if more_bytes is None else limited(device, more_bytes):
            run(size)
    except (RuntimeError, MemoryError) as error:
        starved = more_bytes is not None and any(words in str(error).lower() for words in VAGUE)
        if not starved and worker.classify(error) != "out_of_memory":
            raise
        return False
    finally:
        gc.collect()  # what only garbage holds
        if device == "cuda":
            torch.cuda.empty_cache()
    return True


@contextmanager
def limited(device: str, more_bytes: int) -> Iterator[None]:
    """Let this process allocate so much more within the block, and have allocations beyond it fail.

    A limit that was there before still holds within the block, and after it.
    """
    if device == "cuda":
        before = torch.cuda.get_per_process_memory_fraction()
        wanted = (torch.cuda.memory_reserved() + more_bytes) / torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(before, wanted))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(before)
        return
    require_linux("the largest batch on a CPU")  # elsewhere there is no such limit, or nothing heeds it
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [int(psutil.Process().memory_info().vms) + more_bytes, soft, hard]
    resource.setrlimit(resource.RLIMIT_AS, (min(limit for limit in limits if limit != resource.RLIM_INFINITY), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
