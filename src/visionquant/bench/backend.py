"""The process-wide switches that a measurement depends on, set and checked in each replicate."""

import logging
import os
import warnings
from functools import cache

import torch

from visionquant.params import FloatPrecision, Precision, Protocol


def quiet() -> None:
    """Silence libraries that print per layer or per pass; call before they are imported."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(transformers|bitsandbytes)\..*")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@cache
def default_threads() -> int:
    """torch's own number of CPU threads, as it was before anyone asked for one thread: call it first."""
    return torch.get_num_threads()


def apply(precision: Precision, protocol: Protocol) -> int:
    """Set threads and backend flags for this process, check them, and return the number of CPU threads."""
    threads = protocol.threads or default_threads()
    torch.set_num_threads(threads)
    tf32 = isinstance(precision, FloatPrecision) and precision.tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = protocol.cudnn_benchmark
    torch.set_grad_enabled(False)
    assert torch.backends.cuda.matmul.allow_tf32 is tf32
    assert torch.backends.cudnn.allow_tf32 is tf32
    return threads
