"""The committed architectures are the models of params.yaml, to the parameter."""

import json
import math

import pytest
import tiny
import torch
from torch import nn

from visionquant.bench import loading, op_count
from visionquant.core.paths import Project
from visionquant.settings import params
from visionquant.weights import architectures
from visionquant.weights.sources import Manifest

PROJECT = Project(tiny.ROOT)
PARAMS = params.load(PROJECT)


def on_meta(model: str) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    raw = dict(architectures.config(PROJECT, model) or {})
    with torch.device("meta"):
        found: nn.Module = AutoModel.from_config(AutoConfig.for_model(raw.pop("model_type"), **raw))
    return found.eval()


@pytest.mark.parametrize("model", PARAMS.models)
def test_counts_of_the_built_model_are_the_committed_facts(model: str) -> None:
    facts = architectures.facts(PROJECT, model)
    assert facts is not None
    net = on_meta(model)
    assert sum(parameter.numel() for parameter in net.parameters()) == facts.parameters
    assert op_count.linear_layers(net) == facts.linear_layers
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Linear))
    assert weights == facts.linear_weight_params


@pytest.mark.parametrize("model", PARAMS.models)
def test_multiply_accumulates_are_the_committed_facts(model: str) -> None:
    facts = architectures.facts(PROJECT, model)
    assert facts is not None
    assert op_count.macs(on_meta(model), PARAMS.models[model].shape(3)) == pytest.approx(facts.macs, rel=0.01)


@pytest.mark.parametrize("model", [name for name in PARAMS.study.models if PARAMS.models[name].package is None])
def test_the_published_parameter_count_is_the_models(model: str) -> None:
    facts = architectures.facts(PROJECT, model)
    assert facts is not None
    config = architectures.config(PROJECT, model) or {}
    # for MobileViT the supplement counts the classifier (1,000 classes), which AutoModel leaves out
    head = (config["neck_hidden_sizes"][-1] + 1) * 1000 if config["model_type"] == "mobilevit" else 0
    assert facts.published_params is not None
    assert math.isclose(facts.parameters + head, facts.published_params, rel_tol=0.04)


@pytest.mark.parametrize("model", PARAMS.models)
def test_every_row_has_config_and_preprocessing_that_fit_its_input_size(model: str) -> None:
    config, preprocessing = architectures.config(PROJECT, model), architectures.preprocessing(PROJECT, model)
    assert config is not None
    assert preprocessing is not None
    assert "model_type" in config
    assert len(preprocessing.get("image_mean", [0, 0, 0])) == 3


def test_a_broken_config_is_named(tmp_path: object) -> None:
    from pathlib import Path

    from visionquant.core.errors import StudyError

    root = Path(str(tmp_path))
    folder = root / "data" / "architectures" / "m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")
    with pytest.raises(StudyError, match=r"data/architectures/m/config\.json"):
        architectures.config(Project(root), "m")
    assert architectures.config(Project(root), "none") is None
    assert json.loads((tiny.ROOT / "data/architectures/beit-large-2021/config.json").read_text())


@pytest.mark.parametrize("model", ["deit-tiny-ultra-efficient", "mobilevit-xxs-edge", "dinov2-small-packaged"])
def test_committed_operations_are_those_of_a_pass(model: str) -> None:
    spec = PARAMS.models[model]
    manifest = Manifest(model=model, weights="seeded", source="made up", config_sha256="0")
    net = loading.load(PROJECT, model, spec, manifest, "sdpa", 0)
    image = torch.zeros(1, 3, spec.input_size, spec.input_size)
    with torch.inference_mode(), op_count.OperationCounter() as counter:
        net(image)
    facts = architectures.facts(PROJECT, model)
    assert facts is not None
    assert counter.count == facts.operations["fp32"]
