"""Gradient checkpointing: of every block its input alone is kept, and the rest computed again in the backward pass.

Memory for activations falls from that of all blocks to that of one and the inputs of the others; the price is about one
more forward pass, a third more arithmetic a step. Gradients are the same numbers, on a GPU up to the order in which
sums are taken. The guide's listing names ``checkpoint_sequential``, which takes a chain of modules: no model of the
study is one, so the library's own switch on its blocks is used, which calls ``torch.utils.checkpoint``.
Source: T. Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174 (2016).
"""

from collections.abc import Callable

import torch
from torch import nn

from visionquant.core.errors import StudyError


def enable(net: nn.Module) -> None:
    """Switch it on in every block of a model of the library; it acts in training mode.

    Raises:
        StudyError: the architecture has no such blocks.
    """
    # The older name is deprecated since the library has the newer one.
    switch = getattr(net, "activation_checkpointing_enable", None) or getattr(
        net, "gradient_checkpointing_enable", None
    )
    if switch is None or not getattr(net, "supports_gradient_checkpointing", False):
        raise StudyError(
            "gradient checkpointing",
            f"{type(net).__name__} has no blocks for it",
            "train it without, on smaller batches",
        )
    switch()


def saved_bytes(forward: Callable[[], torch.Tensor], net: nn.Module) -> tuple[torch.Tensor, int]:
    """The result of ``forward``, and the bytes kept for its backward pass: each storage once, weights apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    return result, sum(kept.values())
