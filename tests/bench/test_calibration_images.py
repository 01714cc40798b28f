"""What static INT8 of the engines of graphs takes its ranges from."""

import numpy as np
import tiny
import torch
from torch import nn

from visionquant.bench import inputs
from visionquant.bench.backends import graph_engine
from visionquant.bench.inputs import Preprocessing


def test_other_crops_are_normalised_as_the_networks_own_processor_does() -> None:
    """Exactly where only the normalisation differs, which is what a checkpoint's settings mostly change."""
    settings = {**inputs.DEFAULT, "image_mean": [0.48, 0.46, 0.4], "image_std": [0.23, 0.22, 0.28]}
    own, net = Preprocessing(settings, (3, 32, 32)), nn.Module()
    graph_engine.show(net, inputs.batch(1, own))
    found = graph_engine.calibration_images(net)
    expected = torch.cat([inputs.batch(1, own), inputs.batch(graph_engine.CROPS, own, first=8)]).numpy()
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-3)
    assert not np.allclose(found[:1], tiny.pictures(1, 32).numpy(), atol=1e-1)
