"""Half precision measured: the digits learned in FP32 and in mixed precision, and one model run in each way."""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch

from visionquant.accuracy import training
from visionquant.accuracy.model_source import seeded_model
from visionquant.bench import fidelity
from visionquant.deploy import compute
from visionquant.recipes import Environment, Params, Project, Row, recipe, timing

NETWORK, EPOCHS = "digits-vit", 12
MODEL, BATCHES = "deit-small-distilled-224", (1, 8)


@recipe("half", weights="trained here and seeded")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """Training rows have correct held-out images and seconds, inference rows an interleaved speedup and a cosine."""
    half = compute.NAMES[compute.dtype_for(machine.device)]
    yield from _trained(params, machine.device, half)
    net, images = seeded_model(project, params, MODEL, max(BATCHES))
    fp32, images = copy.deepcopy(net).to(machine.device), images.to(machine.device)
    ways: dict[str, Callable[[torch.Tensor], object]] = {
        "fp32": torch.inference_mode()(lambda batch: fp32(batch)),
        f"{half} weights": compute.HalfModel(net, machine.device, "weights"),
        f"{half} autocast": compute.HalfModel(net, machine.device, "autocast"),
    }
    for size in BATCHES:
        batch = images[:size]
        expected = fidelity.features_of(ways["fp32"](batch))
        times = timing.take({way: partial(call, batch) for way, call in ways.items()}, machine.device)
        for way, call in ways.items():
            named: Row = {"part": "inference", "weights": "seeded", "model": MODEL, "way": way, "batch_size": size}
            yield named | {
                "median_ms": timing.milliseconds(times, way),
                "speedup": timing.speedup(times, way, "fp32"),
                "cosine": timing.mean_cosine(fidelity.features_of(call(batch)), expected),
                "why_missing": "not a figure of inference",
            }


def _trained(params: Params, device: str, half: str) -> Iterator[Row]:
    spec = params.training.networks[NETWORK].model_copy(update={"epochs": EPOCHS})
    data, fold = training.load_digits(spec.image_size), params.training.run[0]
    ways: dict[str, training.Stepper] = {
        "fp32": training.full,
        f"{half} autocast": compute.stepper(device),
        f"{half} autocast, checkpoints": compute.stepper(device, checkpoint=True),
    }
    if device == "cuda":  # its context, cuDNN and cuBLAS start for nobody's account
        training.train(spec.model_copy(update={"epochs": 1}), params.training, data, fold, device=device)
    for way, stepper in ways.items():
        done = training.train(spec, params.training, data, fold, stepper, device)
        named: Row = {"part": "training", "weights": "trained here", "model": NETWORK, "way": way}
        counts: Row = {"seconds": done.seconds, "right": done.correct, "held_out": done.held_out}
        why = "not a figure of training"
        yield named | {"batch_size": params.training.batch_size} | counts | {"why_missing": why}
