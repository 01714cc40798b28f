"""The process-wide switches that a measurement depends on, set where it is made, and what libraries say meanwhile.

Their warnings and log records are counted instead of printed while a pair is prepared: a fallback to slower code is
told in such a message and nowhere else. Timed passes stay silent: what they would say at each layer has been heard in
the passes of the preparation, and saying it takes time.
"""

import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from visionquant.bench import device as devices
from visionquant.core import processors
from visionquant.settings.params import Protocol
from visionquant.settings.precision import PrecisionRow

SETTINGS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
SETTINGS |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
LIBRARIES = ("torch", "transformers", "bitsandbytes")
LONGEST = 300  # characters of a message
AT_IMPORT: Counter[str] = Counter()  # what the libraries said when this process imported them, once for all its pairs


def quiet(device: str) -> None:
    """Silence libraries that print per layer or per pass, and choose the device; call before they are imported.

    What they have to say is :func:`heard` where a pair is prepared. More threads than the affinity and a
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
    """torch's own number of CPU threads before anyone asked for one (call it first), at most those that find a CPU."""
    return min(torch.get_num_threads(), processors.usable())


def exact(tf32: bool = False) -> None:
    """FP32 is FP32 in this process from here on, in matrix products and convolutions, unless TF32 is asked for."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def begin(device: str) -> None:
    """For a process that computes and forks nothing: quiet, the device usable (MachineMismatch), FP32 without TF32."""
    quiet(device)
    devices.of(device).require()
    exact()


def apply(precision: PrecisionRow, protocol: Protocol) -> int:
    """Set threads and backend flags for this process, and return the number of CPU threads."""
    threads = protocol.threads or default_threads()
    torch.set_num_threads(threads)
    exact(precision.uses_tf32)
    torch.backends.cudnn.benchmark = protocol.cudnn_benchmark
    torch.set_grad_enabled(False)
    return threads


@contextmanager
def heard() -> Iterator[Counter[str]]:
    """Count what is said meanwhile, as "library: text", and print nothing; deprecations, for coders, are left out."""
    said: Counter[str] = Counter()
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger.level, logger.handlers, logger.propagate) for logger in loggers]

    def warned(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        parts = Path(filename).parts
        said[_text(next((name for name in LIBRARIES if name in parts), category.__name__), str(message))] += 1

    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
            logger.handlers, logger.propagate = [_Collector(said)], False
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            for category in (DeprecationWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", category)
            warnings.showwarning = warned
            yield said
    finally:
        for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers, logger.propagate = handlers, propagate


class _Collector(logging.Handler):
    def __init__(self, said: Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said[_text(record.name.partition(".")[0], record.getMessage())] += 1


def _text(source: str, message: str) -> str:
    """One line without addresses in memory, by which equal messages would differ."""
    line = re.sub(r"0x[0-9a-f]{6,}", "0x...", " ".join(message.split()))
    return f"{source}: {line if len(line) <= LONGEST else line[:LONGEST] + ' ...'}"
