"""How long each Linear layer takes in each precision, on its own input of one image, precisions in turns."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from visionquant.bench import interleaved
from visionquant.bench.backends import convert
from visionquant.settings.precision import PrecisionRow

ROUNDS = 9


@torch.inference_mode()
def measure(
    net: nn.Module, rows: Mapping[str, PrecisionRow], layers: Sequence[str], image: torch.Tensor, device: str
) -> dict[str, dict[str, float]]:
    """Median ms by layer and name of a row, conversions where types meet included; 0 of a layer that is not called.

    Args:
        net: FP32, on ``device``; left as it was.
        rows: in each all of ``layers`` have another precision, and all else the same.
        image: prepared, float32, (1, channels, height, width).
    """
    converted = {name: convert.convert(copy.deepcopy(net).cpu(), row, device) for name, row in rows.items()}
    dtype = convert.dtype_of(next(iter(rows.values())), device)
    given: dict[str, torch.Tensor] = {}

    def keep(name: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        given[name] = inputs[0].to(dtype)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(net.get_submodule(layer).register_forward_pre_hook(partial(keep, layer)))
        net(image.to(device))
    times = {layer: dict.fromkeys(rows, 0.0) for layer in layers}
    for layer, inputs in given.items():
        modules: dict[str, Any] = {name: one.get_submodule(layer) for name, one in converted.items()}
        taken = interleaved.take({name: partial(one, inputs) for name, one in modules.items()}, device, ROUNDS)
        times[layer] = {name: 1e3 * median(each) for name, each in taken.items()}
    return times
