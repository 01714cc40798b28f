"""Variants that take turns, for ratios that a busy machine does not bend.

A round runs every variant once, each round beginning with another one; a ratio is formed within each round, and the
median over the rounds is kept. What slows the machine for a second slows both sides of a ratio. Absolute times are kept
beside the ratios, and compare with nothing but themselves.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import TypeVar

import torch

from visionquant.bench import device as devices

ROUNDS, WARMUPS = 7, 2
Times = dict[str, tuple[float, ...]]
Name = TypeVar("Name")


def turns(names: Sequence[Name], rounds: int, warmups: int = 0) -> Iterator[tuple[int, Name]]:
    """(round, variant) in the order in which they run; warm-up rounds come first and have numbers below zero."""
    for number in range(-warmups, rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            yield number, name


def take(
    variants: Mapping[str, Callable[[], object]], device: str, rounds: int = ROUNDS, warmups: int = WARMUPS
) -> Times:
    """Seconds of every variant in every round, after warm-up; a GPU is waited for."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number, name in turns(list(variants), rounds, warmups):
        begun = time.perf_counter()
        variants[name]()
        synchronize(device)
        if number >= 0:
            times[name].append(time.perf_counter() - begun)
    return {name: tuple(each) for name, each in times.items()}


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    devices.of(device).synchronize()


def milliseconds(times: Times, name: str) -> float:
    """The median of a variant."""
    return 1e3 * median(times[name])


def speedup(times: Times, name: str, over: str) -> float:
    """How many times as fast as ``over``: the median of the rounds' ratios."""
    return median(b / a for a, b in zip(times[name], times[over], strict=True))


def mean_cosine(output: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean over images of the cosine of two (n, ...) outputs."""
    a, b = (tensor.double().flatten(1).cpu() for tensor in (output, reference))
    return float(torch.cosine_similarity(a, b).mean())
