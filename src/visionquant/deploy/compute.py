"""What makes a model faster than plain FP32, or train in less memory: TF32, half precision, compilation, checkpointing.

TF32 keeps 10 bits of mantissa of 23, on NVIDIA GPUs since Ampere (nothing happens on a CPU). Half weights halve memory
and traffic, and every operation runs in half; autocast keeps FP32 weights and casts them for matrix products and
convolutions alone: closer to FP32, with no memory saved and a cast at each pass. FP16 on a GPU, BF16 on a CPU, where
FP16 is mostly emulated. Compiling takes tens of seconds, again for every new shape, and a C++ compiler. The guide's
listings set ``allow_tf32`` for the rest of the process, fuse with ``fuser2``, which torch no longer has, and halve the
model of their caller. Here nothing outlasts the call, TF32 is torch's per-operation ``fp32_precision`` (within
:func:`switches` torch refuses to say what its older names stand at), and fusion is ``torch.compile``.

Mixed-precision training: FP32 master weights (an update of a ten-thousandth of a weight is lost in either half type),
the forward pass under autocast. FP16 holds nothing below 6e-8, so the loss is multiplied before the backward pass and
the gradients divided before the step; a step with an infinite gradient is left out and the factor halved. BF16 has
FP32's range and is not scaled. (The guide's listing halves the model itself, whose gradients the scaler refuses.)
Checkpointing: of every block its input alone is kept, and the rest computed again in the backward pass, about one more
forward pass. Gradients are the same numbers, on a GPU up to the order of sums. The guide's listing names
``checkpoint_sequential``, which takes a chain of modules, as no model of the study is; here it is the library's switch.
Sources: https://docs.pytorch.org/docs/stable/amp.html and .../stable/notes/cuda.html (TensorFloat-32);
P. Micikevicius et al., Mixed Precision Training, ICLR 2018; T. Chen et al., arXiv:1604.06174 (2016).
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from visionquant.accuracy import training
from visionquant.bench import device as devices
from visionquant.bench import loading
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
        devices.of(device).require()
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
    """Insist that all parameters are FP32. Raises StudyError: one is not."""
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise StudyError(asked, f"{name} is {parameter.dtype}", "start from the model in float32")


def stepper(device: str = "cpu", dtype: torch.dtype | None = None, checkpoint: bool = False) -> training.Stepper:
    """Steps for :func:`visionquant.accuracy.training.train`.

    Args:
        dtype: of the forward pass: float16 (scaled) or bfloat16; by default the one that suits ``device``; float32 for
            none, e.g. to check-point alone.
        checkpoint: keep the inputs of the blocks alone and compute the rest again in the backward pass.

    Raises:
        StudyError: when it is given a network whose weights are not FP32.
    """
    chosen = dtype or dtype_for(device)

    def prepare(net: nn.Module, optimizer: torch.optim.Optimizer) -> training.Step:
        require_fp32(net, "mixed-precision training")
        if checkpoint:
            enable_checkpointing(net)
        scaler = torch.amp.GradScaler(device, enabled=chosen == torch.float16)

        def step(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, bool]:
            with torch.autocast(device, dtype=chosen, enabled=chosen != torch.float32):
                loss = training.loss_of(net, images, labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            return loss.detach(), scaler.get_scale() >= before

        return step

    return prepare


def enable_checkpointing(net: nn.Module) -> None:
    """Switch it on in every block of a model of the library; it acts in training mode."""
    # The older name is deprecated since the library has the newer one.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    switch = next((getattr(net, name) for name in names if hasattr(net, name)), None)
    if switch is None or not getattr(net, "supports_gradient_checkpointing", False):
        what, remedy = f"{type(net).__name__} has no blocks for it", "train it without, on smaller batches"
        raise StudyError("gradient checkpointing", what, remedy)
    switch()


def saved_bytes(forward: Callable[[], torch.Tensor], net: nn.Module) -> tuple[torch.Tensor, int]:
    """The result of ``forward``, and the bytes kept for its backward pass: each storage once, weights apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    return result, sum(size for address, size in saved.items() if address not in weights)
