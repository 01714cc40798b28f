"""Images that are no square of three channels, from the settings to a measured record, a folder and an answer."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from visionquant.accuracy.model_source import open_model
from visionquant.bench import loading
from visionquant.bench.backends import convert
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.deploy import predictor, serialization
from visionquant.settings.params import ModelSpec, Params, parse
from visionquant.weights import checkpoint

SHAPES = {"grey-wide": (1, 32, 64), "tall": (3, 48, 32)}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    """A tiny ViT of each shape."""
    raw = tiny.settings(models=tuple(SHAPES), precisions=("fp32", "int8", "nf4"))
    root = tmp_path_factory.mktemp("shapes")
    for name, (channels, height, width) in SHAPES.items():
        size = [height, width] if height != width else height
        raw["models"][name] = {"path": name, "input_size": size}
        folder = root / "data" / "architectures" / name
        folder.mkdir(parents=True)
        changed = {"num_channels": channels, "image_size": size}
        (folder / "config.json").write_text(json.dumps(tiny.CONFIGS["tiny-vit"] | changed))
    project, params = tiny.project(root, raw)
    machine.declare(project, machine.probe("cpu"))
    for name in SHAPES:
        checkpoint.download(project, params, name)
    return project, params


@pytest.mark.parametrize("model", SHAPES)
def test_rectangles_and_one_channel_are_measured_stored_and_served(
    study: tuple[Project, Params], model: str, tmp_path: Path
) -> None:
    project, params = study
    record = tiny.measure(project, params, model, "int8", (2,))
    assert {cell.status for cell in record.cells} <= tiny.MEASURED
    assert record.fidelity is not None
    assert (record.fidelity.cosine or 0) > 0.9
    source = open_model(project, params, model)
    assert source.shape == SHAPES[model]
    assert predictor.Predictor(source, "nf4").predict(np.ones(SHAPES[model], np.float32)).ndim == 1
    serialization.export_model(source, "nf4", "cpu", tmp_path / "stored")
    assert serialization.restore(tmp_path / "stored").shape == SHAPES[model]


@pytest.mark.parametrize("model", SHAPES)
def test_a_graph_of_onnx_runtime_takes_them(study: tuple[Project, Params], model: str) -> None:
    pytest.importorskip("onnxruntime")
    project, params = study
    net = loading.seeded(project, model, params.models[model], "sdpa", 0)
    images = tiny.inputs.batch(2, loading.preprocessing(project, model, params.models[model], None))
    with torch.inference_mode():
        expected = net(images).last_hidden_state
        found = convert.convert(net, params.precisions["fp32_onnxruntime"], "cpu")(images).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_square_by_its_two_sides_is_that_square() -> None:
    spec = ModelSpec(path="mine", input_size=(64, 64))
    assert spec == ModelSpec(path="mine", input_size=64)
    wide = ModelSpec(path="mine", input_size=(32, 64))
    assert ModelSpec.model_validate_json(wide.model_dump_json()) == wide


@pytest.mark.parametrize("size", [[32], [32, 32, 32], [32, 8], "32", True, None, 4096])
def test_another_size_is_one_line(size: object) -> None:
    raw = tiny.settings()
    raw["models"]["tiny-vit"]["input_size"] = size
    with pytest.raises(StudyError, match=r"models\.tiny-vit\.input_size: is neither the side of a square nor \[height"):
        parse(raw)
