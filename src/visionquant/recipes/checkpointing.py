"""Gradient checkpointing measured: bytes kept for the backward pass against the time of a training step."""

import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from visionquant.accuracy.model_source import seeded_model
from visionquant.bench import fidelity
from visionquant.deploy import compute
from visionquant.recipes import Environment, Params, Project, Row, recipe, timing

MODELS, BATCH, ROUNDS = ("deit-tiny-ultra-efficient", "deit-small-distilled-224"), 4, 5
SHARE = 1e-4  # of a tensor's largest gradient


@recipe("checkpointing", weights="seeded")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """A row a model, with and without; in FP32, a forward and a backward pass without an optimizer's step."""
    for model in MODELS:
        net, images = seeded_model(project, params, model, BATCH)
        plain, images = net.to(machine.device).train(), images.to(machine.device)
        nets = {"plain": plain, "checkpoints": copy.deepcopy(plain)}
        compute.enable_checkpointing(nets["checkpoints"])
        times = timing.take({way: partial(_step, nets[way], images) for way in nets}, machine.device, ROUNDS)
        kept = {way: _step(nets[way], images) for way in nets}
        gradients = [[p.grad for p in each.parameters() if p.grad is not None] for each in nets.values()]
        same = all(_same(a, b, machine.device) for a, b in zip(*gradients, strict=True))
        for way in nets:
            named: Row = {"model": model, "batch_size": BATCH, "way": way}
            yield named | {
                "kept_mib": kept[way] / 2**20,
                "share": kept[way] / kept["plain"],
                "median_ms": timing.milliseconds(times, way),
                "time_ratio": 1 / timing.speedup(times, way, "plain"),
                "same_gradients": "yes" if same else "no",
            }


def _same(a: torch.Tensor, b: torch.Tensor, device: str) -> bool:
    """To the last bit on a CPU; a GPU adds up in another order each time, so there within a share of the largest."""
    return torch.equal(a, b) if device == "cpu" else float((a - b).abs().max()) <= SHARE * float(a.abs().max())


def _step(net: nn.Module, images: torch.Tensor) -> int:
    """A pass forward and back; the bytes that were kept in between."""
    net.zero_grad()
    loss, kept = compute.saved_bytes(lambda: fidelity.features_of(net(images)).square().mean(), net)
    loss.backward()  # type: ignore[no-untyped-call]
    return kept
