"""The switches that make FP32 arithmetic faster, and compilation: on for one block, then as they were.

The guide's listing sets ``allow_tf32`` for the rest of the process, which changes every result after it, and fuses with
``fuser2``, the fuser of TorchScript that newer versions of torch no longer have. Here TF32 is torch's per-operation
``fp32_precision``, put back even after an exception, and fusion is ``torch.compile``. The trade-off of TF32: 10 bits of
mantissa for 23, on NVIDIA GPUs since Ampere; nothing happens on a CPU. That of compiling: tens of seconds before the
first answer, again for every new shape, and it needs a C++ compiler.

Within :func:`switches` torch refuses to say what its older names (``allow_tf32``) stand at: ask ``fp32_precision``.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from visionquant.core.errors import StudyError

COMPILERS = (  # words of Inductor (CPU) and Triton (GPU), what they mean, and what to do
    ("InvalidCxxCompiler", "no working C++ compiler", "install g++, or name one in CXX"),
    ("Failed to find C compiler", "no C compiler", "install gcc, or name one in CC"),
    ("CalledProcessError", "the C compiler failed, see above", "install Python's headers (Python.h, python3-dev)"),
)


@contextmanager
def switches(tf32: bool = False, cudnn_benchmark: bool = False) -> Iterator[None]:
    """TF32 in matrix products and cuDNN, and cuDNN's search for the fastest kernel, as given within the block."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    benchmark = torch.backends.cudnn.benchmark
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if tf32 else "ieee"
        torch.backends.cudnn.benchmark = cudnn_benchmark
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
        torch.backends.cudnn.benchmark = benchmark


def compiled(model: nn.Module, images: torch.Tensor) -> Callable[..., Any]:
    """``model`` as ``torch.compile`` makes it for the shape of ``images``, after the first, slow pass; no gradients.

    The model itself stays as it is and shares its weights with what is returned.

    Raises:
        StudyError: there is no C or C++ compiler, or torch can't compile this model.
    """
    made: Callable[..., Any] = torch.compile(model, dynamic=False)
    try:
        with torch.inference_mode():
            made(images)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        for words, found, remedy in COMPILERS:
            if words in text:
                raise StudyError("torch.compile", found, f"{remedy}; or run the model eagerly") from None
        # Whatever a compiler may raise, told by where its class lives; what the model itself raises is passed on.
        if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            raise
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StudyError("torch.compile", why, "run the model eagerly") from None
    return made
