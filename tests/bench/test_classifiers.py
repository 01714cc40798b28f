"""Fine-tuned classifiers of every family that has them, from a folder in the hub's layout."""

from typing import Any

import families
import numpy as np
import pytest
import torch

from visionquant.bench import fidelity, loading
from visionquant.core.paths import Project
from visionquant.settings.params import Params
from visionquant.weights.checkpoint import download


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    return families.study(tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize("model", families.CLASSIFIERS)
def test_a_fine_tuned_classifier_runs_in_every_precision_with_its_own_head(
    model: str, study: tuple[Project, Params]
) -> None:
    project, params = study
    row = f"{model}-classifier"
    spec, folder = params.models[row], project.root / "models" / model
    full = families.classifier(model, families.images_of(project, model, params.models[model], None))
    full.save_pretrained(folder)
    manifest = download(project, params, row)
    assert manifest.weights == "pretrained"
    net = loading.load(project, row, spec, manifest, "sdpa", 0)
    head, described = fidelity.head_of(project, manifest, 0)
    assert described == fidelity.OWN_HEAD
    images = families.images_of(project, row, spec, folder)
    with torch.inference_mode():
        expected: Any = full(images).logits
    found = fidelity.outputs(net, images, head).logits
    assert np.allclose(found, expected.numpy(), atol=1e-4)
    families.require_every_precision(net, params, images, head)
