"""Training in less memory: mixed precision, and gradient checkpointing.

Mixed precision: FP32 master weights (an update of a ten-thousandth of a weight is lost in either half type), the
forward pass under autocast. FP16 holds nothing below 6e-8, so the loss is multiplied before the backward pass and the
gradients divided before the step; a step with an infinite gradient is left out and the factor halved. BF16 has FP32's
range and is not scaled. (The guide's listing halves the model itself, whose gradients the scaler refuses.) Activations
take half the memory, weights no less, and a CPU without BF16 instructions is slower than in FP32.

Checkpointing: of every block its input alone is kept, and the rest computed again in the backward pass, about one more
forward pass. Gradients are the same numbers, on a GPU up to the order of sums. The guide's listing names
``checkpoint_sequential``, which takes a chain of modules, as no model of the study is; here it is the library's switch.
Sources: P. Micikevicius et al., Mixed Precision Training, ICLR 2018; T. Chen et al., arXiv:1604.06174 (2016).
"""

from collections.abc import Callable

import torch
from torch import nn

from visionquant.accuracy import training
from visionquant.core.errors import StudyError
from visionquant.deploy import compute


def stepper(device: str = "cpu", dtype: torch.dtype | None = None, checkpoint: bool = False) -> training.Stepper:
    """Steps for :func:`visionquant.accuracy.training.train`.

    Args:
        dtype: of the forward pass: float16 (scaled) or bfloat16; by default the one that suits ``device``; float32 for
            none, e.g. to check-point alone.
        checkpoint: keep the inputs of the blocks alone and compute the rest again in the backward pass.

    Raises:
        StudyError: when it is given a network whose weights are not FP32.
    """
    chosen = dtype or compute.dtype_for(device)

    def prepare(net: nn.Module, optimizer: torch.optim.Optimizer) -> training.Step:
        compute.require_fp32(net, "mixed-precision training")
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
    """Switch it on in every block of a model of the library; it acts in training mode.

    Raises:
        StudyError: the architecture has no such blocks.
    """
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
