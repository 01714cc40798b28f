"""What a trained network names in each precision, image by image, on images that it has not learned from."""

import torch
from torch import nn

from visionquant.accuracy import digits, training
from visionquant.bench import torch_flags
from visionquant.bench.backends import convert
from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records.predictions import Named, Scores
from visionquant.settings.params import Params
from visionquant.settings.precision import Precision

BATCH = 100


def evaluate(project: Project, params: Params, network: str, folds: tuple[int, ...], machine: Environment) -> Scores:
    """Every precision of the study, and those of ``training.also``, on the held-out images of ``folds``.

    Raises:
        StudyError: a fold was not trained yet, or a precision can't be put into effect.
    """
    torch_flags.begin(machine.device)
    spec = params.training.networks[network]
    data = digits.load(spec.image_size)
    split = digits.folds(data.labels, params.training.folds, params.training.seed)
    images = torch.cat([split[fold][1] for fold in folds])
    names = tuple(dict.fromkeys((*params.study.precisions, *params.training.also)))
    named: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in names}
    quantised: dict[str, int] = {}
    for fold in folds:
        for name in names:
            row = params.precisions[name]
            net = training.restore(project, network, spec, params.training, fold)
            net = convert.convert(net, row, machine.device)
            quantised[name] = convert.prove(net, row, machine.device).quantized_modules
            named[name].append(predict(net, data.images[split[fold][1]], row, machine.device))
    return Scores(
        network=network,
        spec=spec,
        training=params.training.model_copy(update={"networks": {network: spec}, "chosen": (network,)}),
        folds=folds,
        environment=machine,
        images=tuple(images.tolist()),
        labels=tuple(data.labels[images].tolist()),
        precisions={
            name: Named(
                precision=params.precisions[name],
                quantized_modules=quantised[name],
                classes=tuple(torch.cat([one for one, _ in parts]).tolist()),
                confidence=tuple(round(value, 4) for value in torch.cat([one for _, one in parts]).tolist()),
            )
            for name, parts in named.items()
        },
    )


def predict(
    net: nn.Module, images: torch.Tensor, precision: Precision, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(class, confidence) of each image, both (n,): the class of the highest logit and its softmax probability.

    Raises:
        StudyError: a logit is no number.
    """
    dtype = convert.dtype_of(precision, device)
    with torch.inference_mode():
        parts = torch.split(images, BATCH)
        logits = torch.cat([net(part.to(device, dtype)).logits.float().cpu() for part in parts])
    if not torch.isfinite(logits).all():
        raise StudyError(f"precision {precision.method}", "logits that are not finite", "leave it out of the study")
    confidence, classes = logits.softmax(1).max(1)
    return classes, confidence
