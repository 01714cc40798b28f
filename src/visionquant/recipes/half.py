"""Half precision measured: the digits learnt in FP32 and in mixed precision, and one model run in each way."""

import copy
import time
from collections.abc import Callable
from functools import partial

import torch

from visionquant.accuracy import digits, training
from visionquant.bench import fidelity, interleave, torch_flags
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.deploy import amp, half_precision
from visionquant.records.recipe import Recipe, Value
from visionquant.settings.params import Params

NETWORK, EPOCHS = "digits-vit", 12
MODEL, BATCHES = "deit-small-distilled-224", (1, 8)


def run(project: Project, params: Params, machine: Environment) -> Recipe:
    """Training rows have rightly named held-out images and seconds, inference rows a paired speedup and a cosine."""
    begun = time.monotonic()
    torch_flags.begin(machine.device)
    name = half_precision.NAMES[half_precision.dtype_for(machine.device)]
    rows = [*_trained(params, machine.device, name), *_run(project, params, machine.device, name)]
    return Recipe(
        name="half",
        command="visionquant recipe half",
        weights="trained here and seeded",
        environment=machine,
        elapsed_s=round(time.monotonic() - begun, 1),
        rows=tuple(rows),
    )


def _trained(params: Params, device: str, half_name: str) -> list[dict[str, Value]]:
    spec = params.training.networks[NETWORK].model_copy(update={"epochs": EPOCHS})
    data, fold = digits.load(spec.image_size), params.training.run[0]
    ways: dict[str, training.Stepper] = {
        "fp32": training.full,
        f"{half_name} autocast": amp.stepper(device),
        f"{half_name} autocast, checkpoints": amp.stepper(device, checkpoint=True),
    }
    rows = []
    if device == "cuda":  # its context, cuDNN and cuBLAS start for nobody's account
        training.train(spec.model_copy(update={"epochs": 1}), params.training, data, fold, device=device)
    for way, stepper in ways.items():
        done = training.train(spec, params.training, data, fold, stepper, device)
        learnt: dict[str, Value] = {
            "seconds": round(done.seconds, 2),
            "right": done.correct,
            "held_out": done.held_out,
        }
        rows.append(_row("training", "trained here", NETWORK, way, params.training.batch_size, learnt))
    return rows


def _run(project: Project, params: Params, device: str, half_name: str) -> list[dict[str, Value]]:
    net, images = interleave.seeded(project, params, MODEL, max(BATCHES))
    ways: dict[str, Callable[[torch.Tensor], object]] = {
        "fp32": _plain(net, device),
        f"{half_name} weights": half_precision.prepare(net, device, "weights"),
        f"{half_name} autocast": half_precision.prepare(net, device, "autocast"),
    }
    rows = []
    for size in BATCHES:
        part = images[:size].to(device)
        expected = fidelity.features_of(ways["fp32"](part))
        times = interleave.take({way: partial(call, part) for way, call in ways.items()}, device)
        for way, call in ways.items():
            figures: dict[str, Value] = {
                "median_ms": interleave.milliseconds(times, way),
                "speedup": interleave.speedup(times, way, "fp32"),
                "cosine": interleave.cosine(fidelity.features_of(call(part)), expected),
            }
            rows.append(_row("inference", "seeded", MODEL, way, size, figures))
    return rows


def _plain(net: torch.nn.Module, device: str) -> Callable[[torch.Tensor], object]:
    own = copy.deepcopy(net).to(device).eval()

    def call(images: torch.Tensor) -> object:
        with torch.inference_mode():
            return own(images.to(device))

    return call


def _row(part: str, weights: str, model: str, way: str, batch_size: int, figures: dict[str, Value]) -> dict[str, Value]:
    keys = ("seconds", "right", "held_out", "median_ms", "speedup", "cosine")
    found: dict[str, Value] = {"part": part, "weights": weights, "model": model, "way": way, "batch_size": batch_size}
    found |= {key: figures.get(key) for key in keys}
    return found | {"why_missing": f"not a figure of {part}"}
