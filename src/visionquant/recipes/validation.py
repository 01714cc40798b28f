"""The monitor asked about the networks trained here: does each precision retain enough of FP32's accuracy?"""

from collections.abc import Iterator

import torch

from visionquant.accuracy import training
from visionquant.bench.backends import convert
from visionquant.deploy.accuracy_monitor import AccuracyMonitor
from visionquant.recipes import Environment, Params, Project, Row, recipe


@recipe("validation", weights="trained here")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """The first fold of ``training.run``: FP32 on its held-out images is the baseline, with the uncertainty it has."""
    for network in params.training.chosen:
        spec = params.training.networks[network]
        data, fold = training.load(project, spec), training.folds_of(spec, params.training, False)[0]
        _, held_out = data.splits(params.training)[fold]
        images, labels = data.images[held_out], data.labels[held_out]
        net = training.load_trained(project, params, network, fold).to(machine.device)
        classes = training.logits_of(net, images, torch.float32, machine.device).argmax(1)
        monitor = AccuracyMonitor((int((classes == labels).sum()), len(labels)))
        for name in dict.fromkeys((*params.study.precisions, *params.training.also)):
            if name == "fp32":
                continue
            row = params.precisions[name]
            net = convert.convert(training.load_trained(project, params, network, fold), row, machine.device)
            batches = torch.split(images.to(convert.dtype_of(row, machine.device)), training.BATCH)
            loader = zip(batches, torch.split(labels, training.BATCH), strict=True)
            result = monitor.validate_quantized_model(net, loader)
            kept = result.retention
            counts: Row = {"network": network, "precision": name, "right": result.correct, "n": result.n}
            shares: Row = {"retention": kept.value, "low": kept.low, "high": kept.high}
            yield counts | shares | {"decision": result.decision, "samples_needed": result.samples_needed}
