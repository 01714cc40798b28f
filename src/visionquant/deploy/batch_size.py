"""The largest batch that fits, found by running it: doubled until memory runs out, then bisected.

Memory use is not predicted, for workspaces, fragmentation and attention's kernels are not in any formula: each size is
really run under the limit, after one image without it, which starts threads and fills caches. On a GPU the limit is
the allocator's own; on a CPU, where Linux promises more memory than there is and then kills, it is the address space of
this process, so that the allocation itself fails, here and now, and can be recovered from. A margin is taken off the
limit before anything is tried, so what is found leaves it free.

The guide's listing doubles while memory used is below the limit, never runs the model in between, and so does not end.
Trade-off: the search costs about two passes for each doubling. Address space counts what is reserved and not used, so
on a CPU the answer errs on the small side; memory that this process freed and its heap kept counts as held, and may
be used again by what is tried. While it runs, other threads of this process share the limit.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import psutil
import torch

from visionquant.bench import memory, worker
from visionquant.core.errors import StudyError
from visionquant.core.machine import require_linux

MARGIN = 0.1
MOST = 4096
REMEDY = "raise the limit, or take a smaller model or precision"
VAGUE = ("could not create a primitive", "could not execute a primitive", *worker.EXHAUSTED_IF_FULL)
"""What oneDNN, cuDNN and cuBLAS say of many failures, their own allocations' too."""


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest size from 1 to ``most`` that fits, 0 if none does; whatever is above one that does not, does not."""
    good, bad = 0, most + 1
    while good + 1 < bad:
        size = max(1, min(2 * good, most)) if bad == most + 1 else (good + bad) // 2
        if fits(size):
            good = size
        else:
            bad = size
    return good


def adaptive(
    run: Callable[[int], object],
    device: str = "cpu",
    limit_bytes: int | None = None,
    margin: float = MARGIN,
    most: int = MOST,
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
        raise StudyError("adaptive batch: margin", f"{margin} is out of range", "give a share from 0 up to below 1")
    if not _fits(run, 1, device, None):
        raise StudyError("adaptive batch", "not one image fits in this machine's memory", REMEDY)
    held = torch.cuda.memory_allocated() if device == "cuda" else memory.resident_bytes()
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else memory.available_host_bytes()
    allowed = int((1 - margin) * (held + free if limit_bytes is None else limit_bytes))
    found = largest(lambda size: _fits(run, size, device, allowed - held), most) if allowed > held else 0
    if not found:
        raise StudyError(
            "adaptive batch",
            f"not one image fits: {allowed / 2**20:.0f} MiB allowed, {held / 2**20:.0f} MiB held already",
            REMEDY,
        )
    return found


def _fits(run: Callable[[int], object], size: int, device: str, more_bytes: int | None) -> bool:
    """Whether a pass of ``size`` stays within ``more_bytes`` beyond what is held; memory is given back either way."""
    try:
        with limited(device, more_bytes) if more_bytes is not None else nullcontext():
            run(size)
    except (RuntimeError, MemoryError) as error:
        starved = more_bytes is not None and any(words in str(error).lower() for words in VAGUE)
        if not starved and worker.classify(error) != "out_of_memory":
            raise
        return False
    finally:
        _release(device)
    return True


@contextmanager
def limited(device: str, more_bytes: int) -> Iterator[None]:
    """Let this process allocate so much more within the block, and have allocations beyond it fail."""
    if device == "cuda":
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + more_bytes) / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    require_linux("the largest batch on a CPU")  # elsewhere there is no such limit, or nothing heeds it
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = int(psutil.Process().memory_info().vms) + more_bytes
    ceilings = [ceiling for ceiling in (soft, hard) if ceiling != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *ceilings]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _release(device: str) -> None:
    """Give back what only garbage holds."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
