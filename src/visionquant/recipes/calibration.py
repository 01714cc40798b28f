"""Static INT8 by three statistics against dynamic INT8, and how many calibration images it takes.

Of every fold with trained weights, calibration images are drawn from the part that the network has learned from, the
held-out part is predicted. The first 1, 2, 4, ... images of a draw (a seeded order) are calibrated on, so each set
holds the one before. Three accidents show what bad calibration does: an inverted image, or one whose pixels were left
at 0 to 255, is added to the largest set of the first draw; a blank image is all that is calibrated on. SQNR is
10 log10(sum of FP32's squared logits / sum of squared differences), over all images of all folds. SmoothQuant and bias
correction are tried with min-max on the largest set of each draw.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from visionquant.accuracy import static_int8, training
from visionquant.bench.backends import convert
from visionquant.recipes import Environment, Params, Project, Row, recipe
from visionquant.settings.params import known

SIZES = tuple(2**i for i in range(10))  # 1 to 512 images
DRAWS = 5
SMOOTH, CORRECTED = "min-max, SmoothQuant", "min-max, bias correction"
BLANK = "a blank image and nothing else"
INT8 = "int8"  # the row of `precisions` that is bitsandbytes' variant
ACCIDENTS: dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]] = {
    "an inverted image": lambda image, low, high: low + high - image,
    "an image at 0 to 255": lambda image, low, high: 255 * (image - low) / (high - low),
}


class CalibrationVariant(NamedTuple):
    """What a row is about: a statistic or another way, the calibration images, the draw, and what was added to them."""

    statistic: str
    images: int | None = None
    draw: int | None = None
    added: str = ""


FP32 = CalibrationVariant("fp32")
Result = tuple[torch.Tensor, int]  # logits (n, 10) of a fold's held-out images, and how many layers were quantised


@recipe("calibration", weights="trained here", device="cpu")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """A row a variant, for every chosen network, over every fold that was trained; without one it is a StudyError."""
    known("precisions", [INT8], params.precisions)
    for network in params.training.chosen:
        spec = params.training.networks[network]
        data = training.load(project, spec)
        split = data.splits(params.training)
        trained = [fold for fold in range(len(split)) if project.weights(network, fold).is_file()]
        folds = trained or training.folds_of(spec, params.training, False)  # if none is trained, loading says so
        results: dict[CalibrationVariant, list[Result]] = {}
        for fold in folds:
            net = training.load_trained(project, params, network, fold)
            learned, held_out = (data.images[part] for part in split[fold])
            seed = params.training.seed + fold
            for variant, result in calibrated_variants(net, learned, held_out, params, seed, SIZES, DRAWS):
                results.setdefault(variant, []).append(result)
        labels = torch.cat([data.labels[split[fold][1]] for fold in folds])
        base = torch.cat([logits for logits, _ in results[FP32]])
        for variant, parts in results.items():
            figures = compared(torch.cat([logits for logits, _ in parts]), base, labels)
            named: Row = {"network": network, "folds": " ".join(map(str, folds)), **variant._asdict()}
            yield named | figures | {"quantised_layers": parts[0][1]}


def calibrated_variants(
    net: nn.Module,
    learned: torch.Tensor,
    held_out: torch.Tensor,
    params: Params,
    seed: int,
    sizes: Sequence[int],
    draws: int,
    accidents: bool = True,
) -> Iterator[tuple[CalibrationVariant, Result]]:
    """Every variant on the ``held_out`` images of one fold; ``learned`` are those that may be calibrated on."""

    def static(seen: static_int8.Observers | None) -> Result:
        return predicted(static_int8.quantise(net, seen))

    def predicted(quantised: nn.Module) -> Result:
        return training.logits_of(quantised, held_out, torch.float32), static_int8.prove_int8(quantised)

    yield FP32, (training.logits_of(net, held_out, torch.float32), 0)
    row = params.precisions[INT8]
    bnb = convert.convert(copy.deepcopy(net), row, "cpu")
    layers = convert.prove(bnb, row, "cpu").quantized_modules
    yield CalibrationVariant("bitsandbytes"), (training.logits_of(bnb, held_out, convert.dtype_of(row, "cpu")), layers)
    yield CalibrationVariant("dynamic"), static(None)
    low, high = float(learned.min()), float(learned.max())
    sizes = [size for size in sizes if size <= len(learned)]
    for draw in range(draws):
        order = torch.randperm(len(learned), generator=torch.Generator().manual_seed(1000 * seed + draw))
        largest = torch.split(learned[order[: sizes[-1]]], training.BATCH)
        channels = static_int8.channel_statistics(net, largest)
        smooth = static_int8.calibrated(static_int8.smoothed(net, channels), largest, "min-max")
        yield CalibrationVariant(SMOOTH, sizes[-1], draw), predicted(smooth)
        for statistic in static_int8.OBSERVERS:
            seen, before = static_int8.observers(net, statistic), 0
            for size in sizes:
                static_int8.observe(net, torch.split(learned[order[before:size]], training.BATCH), seen)
                yield CalibrationVariant(statistic, size, draw), static(seen)
                before = size
            if statistic == "min-max":
                corrected = static_int8.quantise(net, seen)
                static_int8.correct_biases(corrected, net, channels)
                yield CalibrationVariant(CORRECTED, before, draw), predicted(corrected)
            if draw or not accidents:
                continue
            for name, accident in ACCIDENTS.items():
                spoilt = copy.deepcopy(seen)
                static_int8.observe(net, [accident(learned[order[:1]], low, high)], spoilt)
                yield CalibrationVariant(statistic, before + 1, 0, name), static(spoilt)
            blank = static_int8.observers(net, statistic)
            static_int8.observe(net, [torch.full_like(learned[:1], low)], blank)
            yield CalibrationVariant(statistic, 1, 0, BLANK), static(blank)


def compared(logits: torch.Tensor, base: torch.Tensor, labels: torch.Tensor) -> Row:
    """Images that are classified right, of n (``labels``), against FP32's logits ``base``, and SQNR in dB."""
    noise = float(((logits - base) ** 2).sum())
    right, right_base = logits.argmax(1) == labels, base.argmax(1) == labels
    only = {"only_fp32": int((right_base & ~right).sum()), "only_here": int((right & ~right_base).sum())}
    sqnr_db = 10 * float(torch.log10((base**2).sum() / noise)) if noise else None
    why = "" if noise else "the logits are FP32's own"
    return {"right": int(right.sum()), "n": len(labels), **only, "sqnr_db": sqnr_db, "why": why}
