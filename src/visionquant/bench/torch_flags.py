"""The process-wide switches that a measurement depends on, set and checked in each replicate."""

import logging
import os
import warnings
from contextlib import suppress
from functools import cache

import torch

from visionquant.bench import messages
from visionquant.core import driver, processors
from visionquant.core.errors import MachineMismatch
from visionquant.settings.params import Protocol
from visionquant.settings.precision import FloatPrecision, Precision


def quiet(device: str) -> None:
    """Silence libraries that print per layer or per pass, and name the device; call before they are imported.

    What they have to say is collected by :mod:`messages` where a pair is prepared.
    The GPU is the one that NVML lists first, as the environment probe reads it. A study on the CPU hides the GPUs, so
    that no library opens one in the process that replicates are forked from. More threads than the affinity and a
    container's quota carry are taken back: torch counts neither a quota nor, where OMP_NUM_THREADS is set, CPUs.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(transformers|bitsandbytes)\..*")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if torch.get_num_threads() > processors.usable():
        torch.set_num_threads(processors.usable())


def preload(device: str, with_bitsandbytes: bool) -> None:
    """Import what every pair's process needs and takes seconds, once, before they are forked; after :func:`quiet`.

    On a GPU bitsandbytes is left to each process, for its import opens the device; what that import takes long for, and
    opens nothing, is imported here. ONNX Runtime, whose import starts a thread, is left to each process everywhere.
    """
    with messages.heard() as said:
        import transformers.modeling_utils
        import transformers.models.auto.modeling_auto  # noqa: F401

        if with_bitsandbytes and device == "cpu":
            import bitsandbytes  # noqa: F401
        if with_bitsandbytes and device == "cuda":
            import torch._dynamo
            import torch._inductor.compile_fx  # noqa: F401

            _close_nvml()
    messages.AT_IMPORT.update(said)


def _close_nvml() -> None:
    """Close what torch 2.11 leaves open after its compiler is imported: a fork must not use its parent's."""
    import pynvml

    with suppress(pynvml.NVMLError):  # it was not open
        pynvml.nvmlShutdown()


@cache
def default_threads() -> int:
    """torch's own number of CPU threads, as it was before anyone asked for one thread (call it first), and no more than
    find a CPU within the affinity and the container's quota.
    """
    return min(torch.get_num_threads(), processors.usable())


def require(device: str) -> None:
    """Insist that torch can use the device; opens the GPU, so call it in a process that forks nothing afterwards.

    Raises:
        MachineMismatch: it can't, e.g. because the driver is too old for this build of torch.
    """
    if device == "cuda":
        try:  # is_available() would ask NVML alone, which knows the card and not whether its driver serves torch
            float(torch.zeros(1, device=device))
        except (RuntimeError, AssertionError) as error:
            why = str(error).strip().split("\n")[0].split(". ")[0]
            if "out of memory" in why:
                raise
            busy = "busy or unavailable" in why  # compute mode EXCLUSIVE_PROCESS
            remedy = "end what else uses it" if busy else driver.remedy(torch.version.cuda)
            found = f"torch {torch.__version__} can't use a GPU here ({why})"
            raise MachineMismatch("study.device", found, f"{remedy}, or set it to cpu") from None


def alive(device: str) -> bool:
    """Whether the device still works: after a kernel's failure every call to a GPU fails, after running out none."""
    if device == "cuda":
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return False
    return True


def exact(tf32: bool = False) -> None:
    """FP32 is FP32 in this process from here on, in matrix products and convolutions, unless TF32 is asked for."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    assert torch.backends.cuda.matmul.allow_tf32 is tf32
    assert torch.backends.cudnn.allow_tf32 is tf32


def begin(device: str) -> None:
    """Make a process ready that computes itself and forks nothing: quiet, the device usable, FP32 without TF32.

    Raises:
        MachineMismatch: torch can't use the device.
    """
    quiet(device)
    require(device)
    exact()


def apply(precision: Precision, protocol: Protocol) -> int:
    """Set threads and backend flags for this process, check them, and return the number of CPU threads."""
    threads = protocol.threads or default_threads()
    torch.set_num_threads(threads)
    exact(tf32=isinstance(precision, FloatPrecision) and precision.tf32)
    torch.backends.cudnn.benchmark = protocol.cudnn_benchmark
    torch.set_grad_enabled(False)
    return threads
