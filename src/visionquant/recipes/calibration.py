"""The recipe `calibration`: static INT8 by three statistics against dynamic INT8, and how many images it takes.

Of every fold with trained weights, calibration images are drawn from the part that the network has learned from, the
held-out part is named. A draw is one seeded order of the training part: its first 1, 2, 4, ... images are calibrated
on, so each set holds the one before. Three accidents show what bad calibration does: an inverted image, or one whose
pixels were left at 0 to 255, is added to the largest set of the first draw; a blank image is all that is calibrated on.
Everything runs on the CPU, whatever the machine has.

SQNR is 10 log10(sum of FP32's squared logits / sum of squared differences), over all images of all folds.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from visionquant.accuracy import digits, static_int8, training
from visionquant.bench import torch_flags
from visionquant.bench.backends import convert
from visionquant.core import machine as environment
from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records.recipe import Recipe, Value
from visionquant.settings.params import Params, known

SIZES = tuple(2**i for i in range(10))  # 1 to 512 images
DRAWS = 5
BATCH = 100
BLANK = "a blank image and nothing else"
INT8 = "int8"  # the row of `precisions` that is bitsandbytes' contestant
ACCIDENTS: dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]] = {
    "an inverted image": lambda image, low, high: low + high - image,
    "an image at 0 to 255": lambda image, low, high: 255 * (image - low) / (high - low),
}


@dataclass(frozen=True)
class Contestant:
    """What a row is about: a statistic or another way, the calibration images, the draw, and what was added to them."""

    statistic: str
    images: int | None = None
    draw: int | None = None
    added: str = ""


@dataclass(frozen=True)
class Named:
    """Logits (n, 10) of a fold's held-out images, and how many layers were quantised."""

    logits: torch.Tensor
    layers: int


def run(project: Project, params: Params, machine: Environment) -> Recipe:
    """Every chosen network, over every fold that is in data/trained.

    Raises:
        StudyError: a network was not trained yet, no fold has an image to calibrate on, or logits are not finite.
    """
    known("precisions", [INT8], params.precisions)
    torch_flags.quiet("cpu")
    begun = time.perf_counter()
    rows: list[dict[str, Value]] = []
    for network in params.training.chosen:
        spec = params.training.networks[network]
        data = digits.load(spec.image_size)
        split = digits.folds(data.labels, params.training.folds, params.training.seed)
        trained = [fold for fold in range(params.training.folds) if project.weights(network, fold).is_file()]
        folds = trained or list(params.training.run)  # if none is trained, restoring says so
        named: dict[Contestant, list[Named]] = {}
        for fold in folds:
            net = training.restore(project, network, spec, params.training, fold)
            learn, held = split[fold]
            for one, found in contest(net, data.images[learn], data.images[held], params, params.training.seed + fold):
                named.setdefault(one, []).append(found)
        labels = torch.cat([data.labels[split[fold][1]] for fold in folds])
        rows += [_row(network, folds, one, named, labels) for one in named]
    return Recipe(
        name="calibration",
        command="visionquant recipe calibration",
        weights="trained here",
        environment=environment.probe("cpu"),
        elapsed_s=time.perf_counter() - begun,
        rows=tuple(rows),
    )


def contest(
    net: nn.Module, learned: torch.Tensor, held: torch.Tensor, params: Params, seed: int
) -> Iterator[tuple[Contestant, Named]]:
    """Every contestant on the ``held`` images of one fold; ``learned`` are those that may be calibrated on."""
    yield Contestant("fp32"), Named(_logits(net, held), 0)
    row = params.precisions[INT8]
    bnb = convert.convert(copy.deepcopy(net), row, "cpu")
    layers = convert.prove(bnb, row, "cpu").quantized_modules
    yield Contestant("bitsandbytes"), Named(_logits(bnb, held, convert.dtype_of(row, "cpu")), layers)
    yield Contestant("dynamic"), _named(static_int8.quantise(net, None), held)
    low, high = float(learned.min()), float(learned.max())
    for draw in range(DRAWS):
        order = torch.randperm(len(learned), generator=torch.Generator().manual_seed(1000 * seed + draw))
        for statistic in static_int8.OBSERVERS:
            seen, before = static_int8.observers(net, statistic), 0
            for size in (size for size in SIZES if size <= len(learned)):
                static_int8.observe(net, torch.split(learned[order[before:size]], BATCH), seen)
                yield Contestant(statistic, size, draw), _named(static_int8.quantise(net, seen), held)
                before = size
            if draw:
                continue
            for name, accident in ACCIDENTS.items():
                spoilt = copy.deepcopy(seen)
                static_int8.observe(net, [accident(learned[order[:1]], low, high)], spoilt)
                yield Contestant(statistic, before + 1, 0, name), _named(static_int8.quantise(net, spoilt), held)
            blank = static_int8.calibrate(net, [torch.full_like(learned[:1], low)], statistic)
            yield Contestant(statistic, 1, 0, BLANK), _named(blank, held)


def _named(net: nn.Module, images: torch.Tensor) -> Named:
    return Named(_logits(net, images), static_int8.prove(net))


def _logits(net: nn.Module, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    with torch.inference_mode():
        logits = torch.cat([net(part.to(dtype)).logits.float() for part in torch.split(images, BATCH)])
    if not torch.isfinite(logits).all():
        raise StudyError("calibration", "logits that are not finite", "train the network again")
    return logits


def _row(
    network: str, folds: list[int], one: Contestant, named: dict[Contestant, list[Named]], labels: torch.Tensor
) -> dict[str, Value]:
    base = torch.cat([found.logits for found in named[Contestant("fp32")]])
    mine = torch.cat([found.logits for found in named[one]])
    noise = float(((mine - base) ** 2).sum())
    right, right_base = mine.argmax(1) == labels, base.argmax(1) == labels
    return {
        "network": network,
        "folds": " ".join(map(str, folds)),
        "statistic": one.statistic,
        "images": one.images,
        "draw": one.draw,
        "added": one.added,
        "right": int(right.sum()),
        "n": len(labels),
        "only_fp32": int((right_base & ~right).sum()),
        "only_here": int((right & ~right_base).sum()),
        "sqnr_db": round(10 * float(torch.log10((base**2).sum() / noise)), 3) if noise else None,
        "quantised_layers": named[one][0].layers,
        "why": "" if noise else "the logits are FP32's own",
    }
