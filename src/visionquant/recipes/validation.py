"""The monitor asked about the networks trained here: does each precision retain enough of FP32's accuracy?"""

from collections.abc import Iterator

import torch

from visionquant.accuracy import digits, training
from visionquant.bench.backends import convert
from visionquant.deploy.accuracy_monitor import AccuracyMonitor
from visionquant.recipes import Environment, Params, Project, Row, recipe


@recipe("validation", weights="trained here")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """The first fold of ``training.run``: FP32 on its held-out images is the baseline, with the uncertainty it has."""
    fold = params.training.run[0]
    for network in params.training.chosen:
        data = digits.load_digits(params.training.networks[network].image_size)
        _, held_out = digits.folds(data.labels, params.training.folds, params.training.seed)[fold]
        images, labels = data.images[held_out], data.labels[held_out]
        net = training.load_trained(project, params, network, fold).to(machine.device)
        classes = training.logits_of(net, images, torch.float32, machine.device).argmax(1)
        monitor = AccuracyMonitor((int((classes == labels).sum()), len(labels)))
        for name in dict.fromkeys((*params.study.precisions, *params.training.also)):
            row = params.precisions[name]
            if name == "fp32":
                continue
            net = convert.convert(training.load_trained(project, params, network, fold), row, machine.device)
            batches = torch.split(images.to(convert.dtype_of(row, machine.device)), training.BATCH)
            loader = zip(batches, torch.split(labels, training.BATCH), strict=True)
            found = monitor.validate_quantized_model(net, loader)
            yield {
                "network": network,
                "precision": name,
                "right": found.correct,
                "n": found.n,
                "retention": found.retention.value,
                "low": found.retention.low,
                "high": found.retention.high,
                "decision": found.decision,
                "samples_needed": found.samples_needed,
            }
