"""Gradient checkpointing measured: bytes kept for the backward pass against the time of a training step."""

import copy
import time
from functools import partial

import torch
from torch import nn

from visionquant.bench import fidelity, interleave, torch_flags
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.deploy import gradient_checkpointing
from visionquant.records.recipe import Recipe, Value
from visionquant.settings.params import Params

MODELS, BATCH, ROUNDS = ("deit-tiny-ultra-efficient", "deit-small-distilled-224"), 4, 5
SHARE = 1e-4  # of a tensor's largest gradient


def run(project: Project, params: Params, machine: Environment) -> Recipe:
    """A row a model, with and without; in FP32, a forward and a backward pass without an optimizer's step."""
    begun = time.monotonic()
    torch_flags.begin(machine.device)
    rows: list[dict[str, Value]] = []
    for model in MODELS:
        net, images = interleave.seeded(project, params, model, BATCH)
        images = images.to(machine.device)
        ways = {"plain": net.to(machine.device).train(), "checkpoints": copy.deepcopy(net).to(machine.device).train()}
        gradient_checkpointing.enable(ways["checkpoints"])
        times = interleave.take(
            {way: partial(_step, one, images) for way, one in ways.items()},
            machine.device,
            ROUNDS,
        )
        kept = {way: _step(one, images)[1] for way, one in ways.items()}
        gradients = [[one.grad for one in ways[way].parameters() if one.grad is not None] for way in ways]
        same = all(_same(a, b, machine.device) for a, b in zip(*gradients, strict=True))
        rows += [
            {
                "model": model,
                "batch_size": BATCH,
                "way": way,
                "kept_mib": round(kept[way] / 2**20, 2),
                "share": round(kept[way] / kept["plain"], 4),
                "median_ms": interleave.milliseconds(times, way),
                "time_ratio": round(1 / interleave.speedup(times, way, "plain"), 3),
                "same_gradients": "yes" if same else "no",
            }
            for way in ways
        ]
    return Recipe(
        name="checkpointing",
        command="visionquant recipe checkpointing",
        weights="seeded",
        environment=machine,
        elapsed_s=round(time.monotonic() - begun, 1),
        rows=tuple(rows),
    )


def _same(a: torch.Tensor, b: torch.Tensor, device: str) -> bool:
    """To the last bit on a CPU; a GPU adds up in another order each time, so there within a share of the largest."""
    return torch.equal(a, b) if device == "cpu" else float((a - b).abs().max()) <= SHARE * float(a.abs().max())


def _step(net: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, int]:
    net.zero_grad()
    loss, kept = gradient_checkpointing.saved_bytes(lambda: fidelity.features_of(net(images)).square().mean(), net)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), kept
