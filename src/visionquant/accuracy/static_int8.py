"""Static INT8: the range of every activation fixed beforehand, from images that a network was calibrated on.

Inputs of Linear layers become unsigned 8-bit numbers, affine, one scale and zero point a tensor; weights signed ones,
symmetric, a scale an output channel. All else keeps FP32, as under bitsandbytes. Without observers the ranges are taken
anew from every batch (dynamic quantisation). What is rounded is multiplied in FP32, which gives what integer kernels
give, up to FP32's own rounding: this is about accuracy, not about speed.

Min-max clips nothing: one strange image stretches every step for all others. A percentile clips a fixed share whatever
it costs. MSE clips where rounding and clipping together cost least. Observers, rounding and histograms are PyTorch's
(``torch.ao.quantization``, on notice since torch 2.10 in favour of torchao, whose import costs every measured process
seconds); it lacks a percentile, and its own MSE search ends at twice the least error on heavy tails.
Two corrections beside them: SmoothQuant moves what is wide in a channel of the inputs into the weights, which have a
scale a row; bias correction takes out of the biases what rounded weights add to the mean output.
Sources: Nagel et al., A White Paper on Neural Network Quantization (2021), sections 3.1 and 3.3; Xiao et al.,
SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models, ICML 2023.
"""

import copy
from collections.abc import Iterable, Mapping
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
LEAST = 1e-5  # of a channel's range, where it is all zeros
STRENGTH = 0.5  # of SmoothQuant: how much of a channel's range goes into the weights
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


class ChannelStatistics(nn.Module):
    """Of each input channel the largest magnitude, and the sum and the count for its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.sum, self.count = torch.zeros(1), torch.zeros(1), 0

    def forward(self, inputs: torch.Tensor) -> None:
        """Take in (..., channels)."""
        rows = inputs.flatten(0, -2)
        self.largest = torch.maximum(self.largest, rows.abs().amax(0))
        self.sum, self.count = self.sum + rows.sum(0), self.count + len(rows)


class Divided(nn.Module):
    """Divides its inputs by a number a channel."""

    by: torch.Tensor

    def __init__(self, by: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("by", by)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., channels) to the same shape."""
        return inputs / self.by


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


def observe(net: nn.Module, batches: Iterable[torch.Tensor], seen: Mapping[str, nn.Module]) -> None:
    """Run ``net``, in evaluation mode, over batches (N, 3, height, width); ``seen`` take in what its layers do.

    May be called again with more images; ``net`` itself is left as it was.
    """

    def watch(each: nn.Module, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
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


def channel_statistics(net: nn.Module, batches: Iterable[torch.Tensor]) -> dict[str, ChannelStatistics]:
    """Of every Linear layer by name those of its inputs; errors as of :func:`observe`."""
    seen = {name: ChannelStatistics() for name in _linear_layers(net)}
    observe(net, batches, seen)
    return seen


def smoothed(net: nn.Module, seen: Mapping[str, ChannelStatistics]) -> nn.Module:
    """A copy of ``net`` that computes the same with narrower inputs of the layers ``seen``: SmoothQuant's.

    The division stands in front of each layer; a deployment would fold it into what comes before.
    """
    smooth = copy.deepcopy(net)
    for name, each in seen.items():
        linear: Any = smooth.get_submodule(name)
        weights = linear.weight.detach().abs().amax(0).clamp(min=LEAST)
        by = each.largest.clamp(min=LEAST) ** STRENGTH / weights ** (1 - STRENGTH)
        linear.weight.data *= by
        smooth.set_submodule(name, nn.Sequential(Divided(by), linear).eval())
    return smooth


def correct_biases(quantised: nn.Module, net: nn.Module, seen: Mapping[str, ChannelStatistics]) -> None:
    """Take out of the biases of ``quantised`` what its rounded weights add to each mean output of ``net``."""
    for name, each in seen.items():
        layer: Any = quantised.get_submodule(name)
        linear: Any = net.get_submodule(name)
        added = (layer.codes * layer.scale - linear.weight.detach()) @ (each.sum / each.count)
        layer.bias = (0.0 if layer.bias is None else layer.bias) - added


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
