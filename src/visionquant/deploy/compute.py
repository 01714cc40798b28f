"""What makes inference faster than plain FP32: TF32, half precision, compilation; nothing outlasts the call.

TF32 keeps 10 bits of mantissa of 23, on NVIDIA GPUs since Ampere (nothing happens on a CPU). Half weights halve memory
and traffic, and every operation runs in half; autocast keeps FP32 weights and casts them for matrix products and
convolutions alone: closer to FP32, with no memory saved and a cast at each pass. FP16 on a GPU, BF16 on a CPU, where
FP16 is mostly emulated. Compiling takes tens of seconds, again for every new shape, and a C++ compiler.

The guide's listings set ``allow_tf32`` for the rest of the process, fuse with ``fuser2``, which torch no longer has,
and halve the model of their caller. Here that stays as it is, TF32 is torch's per-operation ``fp32_precision`` (within
:func:`switches` torch refuses to say what its older names stand at), and fusion is ``torch.compile``.
Sources: https://docs.pytorch.org/docs/stable/amp.html and .../stable/notes/cuda.html (TensorFloat-32)
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from visionquant.bench import loading, torch_flags
from visionquant.bench.backends import convert
from visionquant.core.errors import StudyError
from visionquant.settings.precision import FP32, FloatPrecision

How = Literal["weights", "autocast"]
NAMES: dict[torch.dtype, Literal["float16", "bfloat16"]] = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
COMPILERS = (  # words of Inductor (CPU) and Triton (GPU), what they mean, and what to do
    ("InvalidCxxCompiler", "no working C++ compiler", "install g++, or name one in CXX"),
    ("Failed to find C compiler", "no C compiler", "install gcc, or name one in CC"),
    ("CalledProcessError", "the C compiler failed, see above", "install Python's headers (Python.h, python3-dev)"),
)


@contextmanager
def switches(tf32: bool = False, cudnn_benchmark: bool = False) -> Iterator[None]:
    """TF32 in matrix products and cuDNN, and cuDNN's search for the fastest kernel, as given within the block."""
    cudnn: Any = torch.backends.cudnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before, benchmark = [backend.fp32_precision for backend in backends], cudnn.benchmark
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if tf32 else "ieee"
        cudnn.benchmark = cudnn_benchmark
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
        cudnn.benchmark = benchmark


def compiled(model: nn.Module, images: torch.Tensor) -> Callable[..., Any]:
    """``model`` as ``torch.compile`` makes it for the shape of ``images``, after the first, slow pass; no gradients.

    The model itself stays as it is and shares its weights with what is returned.

    Raises:
        StudyError: there is no C or C++ compiler, or torch can't compile this model.
    """
    net: Callable[..., Any] = torch.compile(model, dynamic=False)
    try:
        with torch.inference_mode():
            net(images)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        for words, what, remedy in COMPILERS:
            if words in text:
                raise StudyError("torch.compile", what, f"{remedy}; or run the model eagerly") from None
        # Whatever a compiler may raise, told by where its class lives; what the model itself raises is passed on.
        if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            raise
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StudyError("torch.compile", why, "run the model eagerly") from None
    return net


def dtype_for(device: str) -> torch.dtype:
    """The half type that ``device`` is fast in."""
    return torch.float16 if device == "cuda" else torch.bfloat16


class HalfModel:
    """A copy of ``model`` (FP32) in half precision, to call with images (n, 3, height, width) of any place and type.

    Args:
        dtype: float16 or bfloat16; by default the one that suits the device.
        tf32: for what autocast leaves in FP32, on a GPU.
        cudnn_benchmark: let cuDNN try its kernels at the first pass of each shape; pays where shapes stay the same.

    Raises:
        StudyError: the type is no half type, the model is not in FP32, or the device can't be used.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str = "cpu",
        how: How = "weights",
        dtype: torch.dtype | None = None,
        tf32: bool = False,
        cudnn_benchmark: bool = True,
    ) -> None:
        self.device, self.how, self.dtype = device, how, dtype or dtype_for(device)
        self.tf32, self.cudnn_benchmark = tf32, cudnn_benchmark
        if self.dtype not in NAMES:
            raise StudyError("half precision", f"{self.dtype} is none", "take torch.float16 or torch.bfloat16")
        require_fp32(model, "half precision")
        torch_flags.require(device)
        half = FloatPrecision(method="float", dtype=NAMES[self.dtype], cpu_dtype=NAMES[self.dtype])
        self.net = convert.convert(copy.deepcopy(model), half if how == "weights" else FP32, device)
        if hasattr(self.net, "set_attn_implementation"):
            loading.with_attention(self.net.set_attn_implementation, "sdpa")

    def __call__(self, images: torch.Tensor) -> Any:
        """The model's output, on its device; without gradients."""
        with (
            torch.inference_mode(),
            switches(self.tf32, self.cudnn_benchmark),
            torch.autocast(self.device, dtype=self.dtype, enabled=self.how == "autocast"),
        ):
            return self.net(images.to(self.device, self.dtype if self.how == "weights" else torch.float32))


def require_fp32(model: nn.Module, asked: str) -> None:
    """Insist that all parameters are FP32.

    Raises:
        StudyError: one is not.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise StudyError(asked, f"{name} is {parameter.dtype}", "start from the model in float32")
