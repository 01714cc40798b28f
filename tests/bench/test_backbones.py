"""Backbones of forty families, from their configs."""

import families
import pytest

from visionquant.bench import fidelity, loading
from visionquant.core.paths import Project
from visionquant.settings.params import Params
from visionquant.weights.checkpoint import download


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    return families.study(tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize("model", families.CONFIGS)
def test_a_backbone_runs_in_every_precision(model: str, study: tuple[Project, Params]) -> None:
    project, params = study
    spec, manifest = params.models[model], download(project, params, model)
    assert manifest.weights == "seeded"
    net = loading.load(project, model, spec, manifest, "sdpa", 0)
    head, _ = fidelity.head_of(project, manifest, 0)
    families.require_every_precision(net, params, families.images_of(project, model, spec, None), head)


@pytest.mark.parametrize("model", families.GREY)
def test_one_channel_and_a_rectangle_are_taken(model: str, study: tuple[Project, Params]) -> None:
    project, params = study
    spec, manifest = params.models[model], download(project, params, model)
    net = loading.load(project, model, spec, manifest, "sdpa", 0)
    head, _ = fidelity.head_of(project, manifest, 0)
    images = families.images_of(project, model, spec, None)
    _, channels, height, width = images.shape
    assert (channels, width // height) == (1, 1 if model.removesuffix("-grey") in families.SQUARE else 2)
    families.require_every_precision(net, params, images, head, ("bf16", "int8"))
