"""Static INT8: the range of every activation fixed beforehand, from images that a network was calibrated on.

Inputs of Linear layers become unsigned 8-bit numbers, affine, one scale and zero point a tensor; weights signed ones,
symmetric, a scale an output channel. All else keeps FP32, as under bitsandbytes. Without observers the ranges are taken
anew from every batch (dynamic quantisation). What is rounded is multiplied in FP32, which gives what integer kernels
give, up to FP32's own rounding: this is about accuracy, not about speed.

Min-max clips nothing: one strange image stretches every step for all others. A percentile clips a fixed share whatever
it costs. MSE clips where rounding and clipping together cost least. Observers, rounding and histograms are PyTorch's
(``torch.ao.quantization``, on notice since torch 2.10 in favour of torchao, whose import costs every measured process
seconds); it lacks a percentile, and its own MSE search ends at twice the least error on heavy tails.
Source: Nagel et al., A White Paper on Neural Network Quantization (2021), section 3.1.
"""

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.ao.quantization import observer
from torch.ao.quantization.fake_quantize import FakeQuantize, FixedQParamsFakeQuantize
from torch.nn import functional

from visionquant.core.errors import StudyError

Statistic = Literal["min-max", "percentile", "mse"]
Observers = dict[str, observer.ObserverBase]
PERCENTILE = 99.99  # of all values are inside the range, half of the others on each side of it
SHARES = torch.linspace(0.05, 1.0, 20)  # of the lowest and of the highest value: ranges that MSE is tried for


class PercentileObserver(observer.HistogramObserver):
    """The range that holds ``PERCENTILE`` percent of all values, interpolated within the histogram's bins."""

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        below = np.concatenate(([0.0], np.cumsum(self.histogram.double().numpy())))
        edges = np.linspace(float(self.min_val), float(self.max_val), self.bins + 1)
        outside = (1 - PERCENTILE / 100) / 2
        low, high = np.interp([outside * below[-1], (1 - outside) * below[-1]], below, edges)
        return self._calculate_qparams(torch.tensor(low).float(), torch.tensor(high).float())


class MseObserver(observer.HistogramObserver):
    """Of ``SHARES`` squared pairs of ends, the range that the middles of the histogram's bins lose least to."""

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        low, high = torch.cartesian_prod(self.min_val * SHARES, self.max_val * SHARES).unbind(1)
        scale, zero_point = self._calculate_qparams(low, high)
        edges = torch.linspace(float(self.min_val), float(self.max_val), self.bins + 1)
        middles = ((edges[1:] + edges[:-1]) / 2).expand(len(scale), -1)
        rounded = torch.fake_quantize_per_channel_affine(middles, scale, zero_point.int(), 0, 0, 255)
        best = int(((rounded - middles) ** 2 @ self.histogram).argmin())
        return scale[best], zero_point[best]


OBSERVERS: dict[Statistic, type[observer.ObserverBase]]
OBSERVERS = {"min-max": observer.MinMaxObserver, "percentile": PercentileObserver, "mse": MseObserver}


class Int8Linear(nn.Module):
    """A Linear layer with INT8 codes and a scale a row for weights; ``rounding`` puts its inputs on 256 steps."""

    codes: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, rounding: FakeQuantize) -> None:
        super().__init__()
        weights = observer.PerChannelMinMaxObserver(dtype=torch.int8, qscheme=torch.per_channel_symmetric)
        weights(linear.weight)
        scale = weights.calculate_qparams()[0][:, None]
        self.rounding = rounding
        self.register_buffer("codes", torch.round(linear.weight.detach() / scale).clamp(-128, 127).to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out), float32."""
        return functional.linear(self.rounding(inputs), self.codes * self.scale, self.bias)


def observers(net: nn.Module, statistic: Statistic) -> Observers:
    """A fresh observer by name for every Linear layer of ``net``. Raises StudyError: there is none."""
    seen = {name: OBSERVERS[statistic](dtype=torch.uint8) for name in _linear_layers(net)}
    if not seen:
        raise StudyError("calibration", "a network without a Linear layer", "calibrate one that has some")
    return seen


def _linear_layers(net: nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if type(module) is nn.Linear]


def observe(net: nn.Module, batches: Iterable[torch.Tensor], seen: Observers) -> None:
    """Run ``net``, in evaluation mode, over batches (N, 3, height, width); ``seen`` take in what its layers do.

    May be called again with more images; ``net`` itself is left as it was.
    """

    def watch(each: observer.ObserverBase, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if not torch.isfinite(inputs[0]).all():
            raise StudyError("calibration", "an activation that is not finite", "leave the image out")
        each(inputs[0])

    hooks = [net.get_submodule(name).register_forward_pre_hook(partial(watch, each)) for name, each in seen.items()]
    images = 0
    try:
        with torch.inference_mode():
            for batch in batches:
                net(batch)
                images += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not images:
        raise StudyError("calibration", "no image in the batches", "give one or more; an iterator runs out once read")


def quantise(net: nn.Module, seen: Observers | None) -> nn.Module:
    """A copy of ``net`` (FP32, on the CPU) in INT8, with the ranges of ``seen``; if None, with those of each batch."""
    quantised = copy.deepcopy(net).eval()
    for name in seen or _linear_layers(net):
        rounding: Any  # torch annotates neither class
        if seen:
            scale, zero_point = seen[name].calculate_qparams()  # type: ignore[no-untyped-call]
            fixed = {"scale": float(scale), "zero_point": int(zero_point), "dtype": torch.uint8}
            rounding = FixedQParamsFakeQuantize(observer.FixedQParamsObserver.with_args(**fixed))  # type: ignore[no-untyped-call]
        else:
            batch: Any = {"averaging_constant": 1, "is_dynamic": True, "dtype": torch.uint8}
            rounding = FakeQuantize(observer.MovingAverageMinMaxObserver, **batch)  # type: ignore[no-untyped-call]
        linear: Any = net.get_submodule(name)
        quantised.set_submodule(name, Int8Linear(linear, rounding).eval())
    return quantised


def calibrated(net: nn.Module, batches: Iterable[torch.Tensor], statistic: Statistic) -> nn.Module:
    """``net`` in static INT8, calibrated on ``batches`` (N, 3, height, width) and proved; errors as of its steps."""
    seen = observers(net, statistic)
    observe(net, batches, seen)
    quantised = quantise(net, seen)
    prove_int8(quantised)
    return quantised


def prove_int8(net: nn.Module) -> int:
    """How many Linear layers have INT8 weights and rounded inputs. Raises StudyError: none, or one is left in FP32."""
    layers = [module for module in net.modules() if isinstance(module, Int8Linear)]
    good = [layer for layer in layers if layer.codes.dtype == torch.int8 and bool(layer.rounding.fake_quant_enabled)]
    left = len(layers) - len(good) + len(_linear_layers(net))
    if not good or left:
        raise StudyError("calibration", f"{len(good)} Linear layers in INT8 and {left} not", "report this defect")
    return len(good)
