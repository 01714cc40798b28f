"""The process-wide switches that a measurement depends on, set and checked in each replicate."""

import logging
import os
import warnings
from functools import cache

import torch

from visionquant.bench import device as devices
from visionquant.core import processors
from visionquant.settings.params import Protocol
from visionquant.settings.precision import PrecisionRow

SETTINGS = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def quiet(device: str) -> None:
    """Silence libraries that print per layer or per pass, and choose the device; call before they are imported.

    What they have to say is collected by :mod:`messages` where a pair is prepared. More threads than the affinity and a
    container's quota carry are taken back: torch counts neither a quota nor, where OMP_NUM_THREADS is set, CPUs.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    devices.of(device).choose()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(transformers|bitsandbytes)\..*")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if torch.get_num_threads() > processors.usable():
        torch.set_num_threads(processors.usable())


@cache
def default_threads() -> int:
    """torch's own number of CPU threads, as it was before anyone asked for one thread (call it first), and no more than
    find a CPU within the affinity and the container's quota.
    """
    return min(torch.get_num_threads(), processors.usable())


def require(device: str) -> None:
    """Insist that torch can use the device; errors and what to mind as of ``Device.require``."""
    devices.of(device).require()


def alive(device: str) -> bool:
    """Whether the device still works after an error."""
    return devices.of(device).alive()


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


def apply(precision: PrecisionRow, protocol: Protocol) -> int:
    """Set threads and backend flags for this process, check them, and return the number of CPU threads."""
    threads = protocol.threads or default_threads()
    torch.set_num_threads(threads)
    exact(precision.uses_tf32)
    torch.backends.cudnn.benchmark = protocol.cudnn_benchmark
    torch.set_grad_enabled(False)
    return threads
