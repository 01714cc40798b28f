"""Contestants that take turns on seeded models, for ratios that a busy machine does not bend.

A round runs every contestant once, each round beginning with another one; a ratio is formed within each round, and the
median over the rounds is kept. What slows the machine for a second slows both sides of a ratio. Absolute times are kept
beside the ratios, and compare with nothing but themselves.
"""

import time
from collections.abc import Callable, Mapping
from statistics import median

import numpy as np
import torch
from torch import nn

from visionquant.bench import device as devices
from visionquant.bench import inputs, loading
from visionquant.core.paths import Project
from visionquant.settings.params import Params
from visionquant.weights.manifest import Manifest

ROUNDS, WARMUPS = 7, 2
Times = dict[str, tuple[float, ...]]


def take(
    contestants: Mapping[str, Callable[[], object]], device: str, rounds: int = ROUNDS, warmups: int = WARMUPS
) -> Times:
    """Seconds of every contestant in every round, after warm-up; a GPU is waited for."""
    names = list(contestants)
    found: dict[str, list[float]] = {name: [] for name in names}
    for at in range(-warmups, rounds):
        turn = at % len(names)
        for name in names[turn:] + names[:turn]:
            begun = time.perf_counter()
            contestants[name]()
            synchronize(device)
            if at >= 0:
                found[name].append(time.perf_counter() - begun)
    return {name: tuple(times) for name, times in found.items()}


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    devices.of(device).synchronize()


def milliseconds(times: Times, name: str) -> float:
    """The median of a contestant."""
    return round(1e3 * median(times[name]), 3)


def speedup(times: Times, name: str, over: str) -> float:
    """How many times as fast as ``over``: the median of the rounds' ratios."""
    return round(median(b / a for a, b in zip(times[name], times[over], strict=True)), 3)


def seeded(project: Project, params: Params, model: str, count: int) -> tuple[nn.Module, torch.Tensor]:
    """A model of the study on seeded weights in FP32 on the CPU, and ``count`` photographs (count, *shape)."""
    spec = params.models[model]
    manifest = Manifest(model=model, weights="seeded", source="seeded for a recipe", config_sha256="")
    net = loading.load(project, model, spec, manifest, "sdpa", params.protocol.seed)
    return net, inputs.batch(count, loading.preprocessing(project, model, spec, None))


def cosine(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean cosine over images of two (n, ...) outputs."""
    a, b = (tensor.double().flatten(1).cpu().numpy() for tensor in (found, reference))
    return round(float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).mean()), 6)
