"""Training in mixed precision: FP32 master weights, the forward pass under autocast, for FP16 a scaled loss.

FP16 holds nothing below 6e-8, so that small gradients would vanish: the loss is multiplied before the backward pass and
the gradients divided before the step; a step with an infinite gradient is left out and the factor halved. BF16 has
FP32's range and is not scaled. The weights and AdamW's moments stay in FP32, for an update of one ten-thousandth of a
weight is lost to rounding in either half type. The guide's listing halves the model itself; then the gradients are
FP16, which the scaler refuses ("Attempting to unscale FP16 gradients").

FP16 with the scaler works on a CPU too, slowly: that is how this is tested where no GPU is. Trade-off: activations take
half the memory; weights take no less, and on a CPU without BF16 instructions it is slower than FP32.
Source: P. Micikevicius et al., Mixed Precision Training, ICLR 2018.
"""

import torch
from torch import nn

from visionquant.accuracy import training
from visionquant.deploy import gradient_checkpointing, half_precision


def stepper(device: str = "cpu", dtype: torch.dtype | None = None, checkpoint: bool = False) -> training.Stepper:
    """Steps for :func:`visionquant.accuracy.training.train`.

    Args:
        dtype: of the forward pass: float16 (scaled) or bfloat16; by default the one that suits ``device``; float32 for
            none, e.g. to check-point alone.
        checkpoint: keep the inputs of the blocks alone and compute the rest again in the backward pass.

    Raises:
        StudyError: when it is given a network whose weights are not FP32.
    """
    chosen = dtype or half_precision.dtype_for(device)

    def prepare(net: nn.Module, optimizer: torch.optim.Optimizer) -> training.Step:
        half_precision.require_fp32(net, "mixed-precision training")
        if checkpoint:
            gradient_checkpointing.enable(net)
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
