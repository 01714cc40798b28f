"""The monitor asked about the networks trained here: does each precision retain enough of FP32's accuracy?"""

import time

import torch

from visionquant.accuracy import digits, training
from visionquant.bench import torch_flags
from visionquant.bench.backends import convert
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.deploy.accuracy_monitor import AccuracyMonitor
from visionquant.records.recipe import Recipe
from visionquant.settings.params import Params
from visionquant.settings.precision import FP32

BATCH = 100


def run(project: Project, params: Params, machine: Environment) -> Recipe:
    """The first fold of ``training.run``: FP32 on its held-out images is the baseline, with the uncertainty it has.

    Raises:
        StudyError: a network was not trained yet.
    """
    begun = time.monotonic()
    torch_flags.begin(machine.device)
    rows: list[dict[str, str | int | float | None]] = []
    fold = params.training.run[0]
    for network in params.training.chosen:
        spec = params.training.networks[network]
        data = digits.load(spec.image_size)
        _, held = digits.folds(data.labels, params.training.folds, params.training.seed)[fold]
        known = AccuracyMonitor(1.0)
        for name in dict.fromkeys(("fp32", *params.study.precisions, *params.training.also)):
            row = params.precisions[name] if name != "fp32" else FP32
            net = training.restore(project, network, spec, params.training, fold)
            net = convert.convert(net, row, machine.device)
            dtype = convert.dtype_of(row, machine.device)
            loader = [(data.images[part].to(dtype), data.labels[part]) for part in torch.split(held, BATCH)]
            found = known.validate_quantized_model(net, loader)
            if name == "fp32":
                known = AccuracyMonitor((found.correct, found.n))
                continue
            rows.append(
                {
                    "network": network,
                    "precision": name,
                    "right": found.correct,
                    "n": found.n,
                    "retention": round(found.retention.value, 6),
                    "low": round(found.retention.low, 6),
                    "high": round(found.retention.high, 6),
                    "decision": found.decision,
                    "samples_needed": found.samples_needed,
                }
            )
    return Recipe(
        name="validation",
        command="visionquant recipe validation",
        weights="trained here",
        environment=machine,
        elapsed_s=round(time.monotonic() - begun, 1),
        rows=tuple(rows),
    )
