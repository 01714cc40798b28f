"""Static INT8: the range of every activation fixed beforehand, from images that a network was calibrated on.

``observe`` runs the FP32 network over calibration images with an observer in front of every Linear layer; ``quantise``
copies the network with those ranges: inputs as unsigned 8-bit numbers, affine, one scale and zero point a tensor;
weights as signed ones, symmetric, a scale an output channel. Convolutions, norms and products inside attention keep
FP32, as they do under bitsandbytes, so that both quantise the same layers. Without observers the ranges are taken anew
from every batch (dynamic quantisation). What is rounded is then multiplied in FP32, which gives what integer kernels
give, up to FP32's own rounding: this is about accuracy, not about speed.

Min-max clips nothing: one strange image stretches every step for all others. A percentile clips a fixed share whatever
it costs. MSE clips where rounding and clipping together cost least.

Observers, rounding and histograms are PyTorch's (``torch.ao.quantization``). Two things are read off its histogram:
the percentile, which it lacks, and the MSE range, for its own search takes the first cut without comparing, and on
heavy tails ends at twice the least error, beyond that of clipping nothing. The package is on notice since torch 2.10;
torchao has the same classes under ``torchao.quantization.pt2e``, the place to go when it ends. It is not used yet:
transformers imports torchao in every process where it is installed, some seconds and 60 MiB for each one measured.
NVIDIA's ModelOpt 0.47 has all three statistics, but its MSE passes ``num_bits`` where a bias is expected and always
clips at a sixteenth of the range (83 of 360 digits named rightly, FP32: 356). ONNX Runtime and NNCF have no MSE.

Source: Nagel et al., A White Paper on Neural Network Quantization (2021), section 3.1.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.ao.quantization.fake_quantize import FakeQuantize, FixedQParamsFakeQuantize
from torch.ao.quantization.observer import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    ObserverBase,
    PerChannelMinMaxObserver,
)
from torch.nn import functional

from visionquant.core.errors import StudyError

Statistic = Literal["min-max", "percentile", "mse"]
Observers = dict[str, ObserverBase]
PERCENTILE = 99.99  # of all values are inside the range, half of the others on each side of it
SHARES = torch.linspace(0.05, 1.0, 20)  # of the lowest and of the highest value: ranges that MSE is tried for


class PercentileObserver(HistogramObserver):
    """The range that holds ``PERCENTILE`` percent of all values, interpolated within the histogram's bins."""

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        share = torch.cumsum(self.histogram.double(), 0) / self.histogram.double().sum()
        edges = torch.linspace(float(self.min_val), float(self.max_val), self.bins + 1)
        outside = (1 - PERCENTILE / 100) / 2
        low, high = (_interpolate(at, share, edges) for at in (outside, 1 - outside))
        return self._calculate_qparams(low, high)


def _interpolate(at: float, share: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """The value below which ``at`` of the histogram lies."""
    bin_ = int(torch.searchsorted(share, at).clamp(max=len(share) - 1))
    below = share[bin_ - 1] if bin_ else share.new_zeros(())
    inside = (at - below) / (share[bin_] - below)
    return edges[bin_] + inside.clamp(0, 1).float() * (edges[bin_ + 1] - edges[bin_])


class MseObserver(HistogramObserver):
    """Of ``SHARES`` squared pairs of ends, the range that the middles of the histogram's bins lose least to."""

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        low, high = torch.cartesian_prod(self.min_val * SHARES, self.max_val * SHARES).unbind(1)
        scale, zero_point = self._calculate_qparams(low, high)
        edges = torch.linspace(float(self.min_val), float(self.max_val), self.bins + 1)
        middles = ((edges[1:] + edges[:-1]) / 2).expand(len(scale), -1)
        rounded = torch.fake_quantize_per_channel_affine(middles, scale, zero_point.int(), 0, 0, 255)
        best = int(((rounded - middles) ** 2 @ self.histogram).argmin())
        return scale[best], zero_point[best]


OBSERVERS: dict[Statistic, type[ObserverBase]] = {
    "min-max": MinMaxObserver,
    "percentile": PercentileObserver,
    "mse": MseObserver,
}


class Int8Linear(nn.Module):
    """A Linear layer with INT8 codes and a scale a row for weights; ``rounding`` puts its inputs on 256 steps."""

    codes: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, rounding: FakeQuantize) -> None:
        super().__init__()
        observer = PerChannelMinMaxObserver(dtype=torch.int8, qscheme=torch.per_channel_symmetric)
        observer(linear.weight)
        scale, _ = observer.calculate_qparams()
        codes = torch.round(linear.weight.detach() / scale[:, None]).clamp(-128, 127)
        self.rounding = rounding
        self.register_buffer("codes", codes.to(torch.int8))
        self.register_buffer("scale", scale[:, None])
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out), float32."""
        return functional.linear(self.rounding(inputs), self.codes * self.scale, self.bias)


def observers(net: nn.Module, statistic: Statistic) -> Observers:
    """An observer by name for every Linear layer of ``net``, which have seen nothing yet.

    Raises:
        StudyError: there is no Linear layer.
    """
    names = [name for name, module in net.named_modules() if type(module) is nn.Linear]
    if not names:
        raise StudyError("calibration", "a network without a Linear layer", "calibrate one that has some")
    return {name: OBSERVERS[statistic](dtype=torch.uint8) for name in names}


def observe(net: nn.Module, batches: Iterable[torch.Tensor], seen: Observers) -> None:
    """Run ``net``, in evaluation mode, over batches (N, 3, height, width); ``seen`` take in what its layers do.

    May be called again with more images; ``net`` itself is left as it was.

    Raises:
        StudyError: there is no image, or an activation is not finite.
    """
    hooks = [net.get_submodule(name).register_forward_pre_hook(_watching(one)) for name, one in seen.items()]
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


def _watching(one: ObserverBase) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if not torch.isfinite(inputs[0]).all():
            raise StudyError("calibration", "an activation that is not finite", "leave the image out")
        one(inputs[0])

    return hook


def quantise(net: nn.Module, seen: Observers | None) -> nn.Module:
    """A copy of ``net`` (FP32, on the CPU) in INT8, with the ranges of ``seen``; if None, with those of each batch."""
    copied = copy.deepcopy(net).eval()
    names = list(seen) if seen else [name for name, module in net.named_modules() if type(module) is nn.Linear]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        linear = net.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        int8 = Int8Linear(linear, _static(seen[name]) if seen else _dynamic())
        setattr(copied.get_submodule(parent), leaf, int8.eval())
    return copied


def calibrate(net: nn.Module, batches: Iterable[torch.Tensor], statistic: Statistic) -> nn.Module:
    """``net`` in static INT8, calibrated on ``batches`` (N, 3, height, width) and proved.

    Raises:
        StudyError: no image, no Linear layer, or an activation that is not finite.
    """
    seen = observers(net, statistic)
    observe(net, batches, seen)
    quantised = quantise(net, seen)
    prove(quantised)
    return quantised


def _static(seen: ObserverBase) -> FakeQuantize:
    scale, zero_point = seen.calculate_qparams()  # type: ignore[no-untyped-call]
    fixed = FixedQParamsObserver.with_args(scale=float(scale), zero_point=int(zero_point), dtype=torch.uint8)
    return FixedQParamsFakeQuantize(fixed)  # type: ignore[no-untyped-call]


def _dynamic() -> FakeQuantize:
    batch: dict[str, Any] = {"averaging_constant": 1, "is_dynamic": True, "dtype": torch.uint8}
    return FakeQuantize(MovingAverageMinMaxObserver, **batch)  # type: ignore[no-untyped-call]


def prove(net: nn.Module) -> int:
    """How many Linear layers of a quantised network have INT8 weights and rounded inputs.

    Raises:
        StudyError: there is none, or one is left in FP32.
    """
    layers = [module for module in net.modules() if isinstance(module, Int8Linear)]
    good = [one for one in layers if one.codes.dtype == torch.int8 and bool(one.rounding.fake_quant_enabled)]
    left = len(layers) - len(good) + sum(type(module) is nn.Linear for module in net.modules())
    if not good or left:
        raise StudyError("calibration", f"{len(good)} Linear layers in INT8 and {left} not", "report this defect")
    return len(good)
