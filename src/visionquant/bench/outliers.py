"""Outlier channels planted into a model with seeded weights, without changing what it computes.

In a trained transformer a few channels of the normalised activations are twenty times as large as the rest; LLM.int8()
treats them apart, and seeded weights have none. A channel of a normalisation is scaled up and the columns of the Linear
layers that read it are scaled down by as much. Which layers read which normalisation is seen in one pass, and the
outputs before and after must agree.

Source: T. Dettmers et al., LLM.int8() (2022), section 4, for the channels' number and size.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from visionquant.bench import fidelity
from visionquant.core.errors import StudyError

SCALE = 20.0
TOLERANCE = 1e-3
Readers = dict[str, list[str]]  # names of normalisations, and of the Linear layers that read each


def plant(model: nn.Module, channels: int, image: torch.Tensor) -> int:
    """Plant ``channels`` outliers in front of every Linear layer that reads a LayerNorm; return how many norms.

    ``model`` is FP32 on the CPU and changed in place; ``image`` is prepared, (1, 3, side, side). It is passed here: a
    pass may open CUDA, so this is no process to fork from.

    Raises:
        StudyError: no such normalisation, or the outputs change.
    """
    readers, remedy = _readers(model, image), "set outliers: 0 in the row"
    if not readers:
        raise StudyError("outliers", "no Linear layer reads a LayerNorm in this model", remedy)
    with torch.inference_mode():
        before = fidelity.features_of(model(image)).clone()
        _scale(model, readers, channels)
        after = fidelity.features_of(model(image))
    moved = float((after - before).norm() / before.norm())
    if not moved <= TOLERANCE:
        raise StudyError("outliers", f"planting them moved the outputs by {moved:.2g}", remedy)
    return len(readers)


def _scale(model: nn.Module, readers: Readers, channels: int) -> None:
    with torch.no_grad():
        for name, linears in readers.items():
            norm: Any = model.get_submodule(name)
            width = norm.weight.numel()
            chosen = torch.arange(channels) * (width // channels)
            norm.weight[chosen] *= SCALE
            norm.bias[chosen] *= SCALE
            for reader in linears:
                linear: Any = model.get_submodule(reader)
                linear.weight[:, chosen] /= SCALE


def _readers(model: nn.Module, image: torch.Tensor) -> Readers:
    """Each LayerNorm whose output Linear layers take as it is, with these."""
    names = {module: name for name, module in model.named_modules()}
    normalised: dict[int, tuple[str, torch.Tensor]] = {}  # outputs by their identity, with who made them
    readers: Readers = {}

    def after_norm(module: Any, _: Any, output: torch.Tensor) -> None:
        normalised[id(output)] = (names[module], output)

    def before_linear(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if id(inputs[0]) in normalised:
            readers.setdefault(normalised[id(inputs[0])][0], []).append(names[module])

    with ExitStack() as hooks, torch.inference_mode():
        for module in names:
            if isinstance(module, nn.LayerNorm):
                hooks.enter_context(module.register_forward_hook(after_norm))
            elif type(module) is nn.Linear:
                hooks.enter_context(module.register_forward_pre_hook(before_linear))
        model(image)
    return readers
