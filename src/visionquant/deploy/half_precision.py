"""Inference in half precision, on a copy: half weights, or FP32 weights under autocast.

Half weights halve memory and traffic, and every operation runs in half. Autocast keeps FP32 weights and casts them for
matrix products and convolutions alone, so that normalisation and softmax stay in FP32: closer to FP32, with no memory
saved and a cast at each pass. FP16 on a GPU, BF16 on a CPU, where FP16 is mostly emulated. The guide's listing does
both at once, halves the model of its caller, and keeps gradients; here the caller's model stays as it is. Attention is
torch's fused one wherever the architecture has it, and backend switches hold for the call alone.

Source: https://docs.pytorch.org/docs/stable/amp.html
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from visionquant.bench import loading, torch_flags
from visionquant.bench.backends import convert
from visionquant.core.errors import StudyError
from visionquant.deploy import compute
from visionquant.settings.precision import FP32, FloatPrecision

How = Literal["weights", "autocast"]
NAMES: dict[torch.dtype, Literal["float16", "bfloat16"]] = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class HalfModel:
    """Call it with images (n, 3, height, width), wherever they are and in whichever floating-point type."""

    net: nn.Module
    device: str
    dtype: torch.dtype
    how: How
    tf32: bool
    cudnn_benchmark: bool

    def __call__(self, images: torch.Tensor) -> Any:
        """What the model answers, on its device; without gradients."""
        taken = self.dtype if self.how == "weights" else torch.float32
        with (
            torch.inference_mode(),
            compute.switches(self.tf32, self.cudnn_benchmark),
            torch.autocast(self.device, dtype=self.dtype, enabled=self.how == "autocast"),
        ):
            return self.net(images.to(self.device, taken))


def dtype_for(device: str) -> torch.dtype:
    """The half type that ``device`` is fast in."""
    return torch.float16 if device == "cuda" else torch.bfloat16


def prepare(
    model: nn.Module,
    device: str = "cpu",
    how: How = "weights",
    dtype: torch.dtype | None = None,
    tf32: bool = False,
    cudnn_benchmark: bool = True,
) -> HalfModel:
    """A copy of ``model`` (FP32) made ready on ``device``.

    Args:
        dtype: float16 or bfloat16; by default the one that suits the device.
        tf32: for what autocast leaves in FP32, on a GPU.
        cudnn_benchmark: let cuDNN try its kernels at the first pass of each shape; pays where shapes stay the same.

    Raises:
        StudyError: the type is no half type, the model is not in FP32 or stays in training mode, or the device can't be
            used.
    """
    chosen = dtype or dtype_for(device)
    if chosen not in NAMES:
        raise StudyError("half precision", f"{chosen} is none", "take torch.float16 or torch.bfloat16")
    require_fp32(model, "half precision")
    torch_flags.require(device)
    halved = FloatPrecision(method="float", dtype=NAMES[chosen], cpu_dtype=NAMES[chosen])
    net = convert.convert(copy.deepcopy(model), halved if how == "weights" else FP32, device)
    if hasattr(net, "set_attn_implementation"):
        loading.with_attention(net.set_attn_implementation, "sdpa")
    return HalfModel(net, device, chosen, how, tf32, cudnn_benchmark)


def require_fp32(model: nn.Module, asked: str) -> None:
    """Insist that all parameters are FP32.

    Raises:
        StudyError: one is not.
    """
    other = next((f"{name} is {one.dtype}" for name, one in model.named_parameters() if one.dtype != torch.float32), "")
    if other:
        raise StudyError(asked, other, "start from the model in float32")
