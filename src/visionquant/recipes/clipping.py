"""Static INT8 calibrated on trained weights: the packaged DINOv2-S on Fashion-MNIST, where digits are too easy to tell.

The linear head is the probe's, in FP32 throughout. Training images are calibrated on, the first ``TEST_IMAGES`` of the
test images are classified. Variants and figures are those of the recipe ``calibration``, without its accidents.
"""

from collections.abc import Iterator

import numpy as np
import torch

from visionquant.accuracy import fashion, probe, probe_task
from visionquant.accuracy.model_source import open_model
from visionquant.core.errors import StudyError
from visionquant.recipes import Environment, Params, Project, Row, calibration, recipe
from visionquant.records.record import TRAINED

MODEL = "dinov2-small-packaged"
SIZES, DRAWS = (1, 16, 256), 2
TEST_IMAGES = 1000


@recipe("clipping", weights="pretrained", device="cpu")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """A row a variant. StudyError: the model was not downloaded, or the images can't be had."""
    source, choice = open_model(project, params, MODEL), params.evaluation.probe
    if source.weights not in TRAINED:
        raise StudyError(f"calibration of {MODEL}", f"its weights are {source.weights}", "calibrate trained ones")
    training, test = fashion.load(project)
    net, pictures = source.build(), probe.Pictures(source, choice.pixels)
    patches = probe.patch_count(net, *pictures.size)
    learned, known = probe_task.learned_features(source, net, "cpu", training)
    head = probe.linear_head(known, training.labels[learned])
    images, held_out = map(pictures.batch, (training.images[learned[: 2 * SIZES[-1]]], test.images[:TEST_IMAGES]))
    whole = probe.ProbedNetwork(net, patches, head).eval()
    labels, base = torch.from_numpy(test.labels[:TEST_IMAGES].astype(np.int64)), torch.empty(0)
    for variant, (logits, layers) in calibration.calibrated_variants(
        whole, images, held_out, params, choice.seed, SIZES, DRAWS, accidents=False
    ):
        base = logits if variant == calibration.FP32 else base
        figures = calibration.compared(logits, base, labels)
        yield {"network": MODEL, **variant._asdict(), **figures, "quantised_layers": layers}
