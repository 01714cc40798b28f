"""Ways of a recipe that take turns as the arms of a round do, for ratios that a busy machine does not bend.

A ratio is formed within a round and the median over the rounds is kept: what slows the machine for a second slows both
sides of it. Absolute times compare with nothing but each other.
"""

from statistics import median

import torch

from visionquant.bench.interleaved import Times, take

__all__ = ["mean_cosine", "milliseconds", "speedup", "take"]


def milliseconds(times: Times, name: str) -> float:
    """The median of a way."""
    return 1e3 * median(times[name])


def speedup(times: Times, name: str, over: str) -> float:
    """How many times as fast as ``over``: the median of the rounds' ratios."""
    return median(b / a for a, b in zip(times[name], times[over], strict=True))


def mean_cosine(output: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean over images of the cosine of two (n, ...) outputs."""
    a, b = (tensor.double().flatten(1).cpu() for tensor in (output, reference))
    return float(torch.cosine_similarity(a, b).mean())
