"""Ways of a recipe that take turns as the arms of a round do, for ratios that a busy machine does not bend.

A ratio is formed within a round and the median over the rounds is kept: what slows the machine for a second slows both
sides of it. Absolute times compare with nothing but each other.
"""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

from visionquant.bench import device as devices
from visionquant.bench import turns

ROUNDS, WARMUPS = 7, 2
Times = Mapping[str, list[float]]


def take(ways: Mapping[str, Callable[[], object]], device: str, rounds: int = ROUNDS, warmups: int = WARMUPS) -> Times:
    """Seconds of every way in every round, after warm-up rounds; a GPU is waited for."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-warmups, rounds):
        for name in turns.order(list(ways), number):
            begun = time.perf_counter()
            ways[name]()
            devices.of(device).synchronize()
            if number >= 0:
                times[name].append(time.perf_counter() - begun)
    return times


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
