"""FP32 is FP32 wherever networks run outside the measuring loop: TF32, torch's default in convolutions, is off."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from visionquant import recipes
from visionquant.accuracy import evaluation, training
from visionquant.accuracy.model_source import open_model
from visionquant.core import machine
from visionquant.core.paths import Project
from visionquant.deploy.predictor import Predictor
from visionquant.settings.params import Params
from visionquant.weights import checkpoint

sys.path.append(str(tiny.ROOT / "tests" / "accuracy"))
import test_judging

ON_A_CPU = {"calibration", "clipping", "onnxruntime", "monitor"}  # whatever the machine has; the last runs no network


class Stop(Exception):
    """The first pass has begun."""


@pytest.fixture(autouse=True)
def _as_torch_begins() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.set_grad_enabled(True)


@pytest.fixture
def study(tmp_path: Path) -> tuple[Project, Params]:
    project, params = tiny.project(tmp_path, tiny.settings(precisions=("fp32",)))
    checkpoint.download(project, params, "tiny-vit")
    spec = params.training.networks["tiny-digits"]
    net = training.train(spec, params.training, training.load_digits(spec.image_size), 0).net
    training.save_trained(project, "tiny-digits", 0, net)
    return project, params


def recipe(name: str) -> Callable[[Project, Params, Path], Any]:
    return lambda project, params, _: recipes.recipe_named(name)(project, params, machine.probe("cpu"))


ENTRIES: dict[str, Callable[[Project, Params, Path], Any]] = {
    **{name: recipe(name) for name in recipes.NAMES if name not in ON_A_CPU},
    "evaluate": lambda project, params, _: evaluation.evaluate_trained(
        project, params, "tiny-digits", (0,), machine.probe("cpu")
    ),
    "judge": lambda _, __, folder: evaluation.evaluate_labelled(
        *test_judging.opened(folder / "judged"), machine.probe("cpu"), lambda line: None
    ),
    "serve": lambda project, params, _: Predictor(open_model(project, params, "tiny-vit"), "fp32"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_first_pass_is_made_without_tf32(
    study: tuple[Project, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name in recipes.NAMES:
        module = importlib.import_module(f"visionquant.recipes.{name}")
        for constant, value in (
            ("MODEL", "tiny-vit"), ("MODELS", ("tiny-vit",)), ("NETWORK", "tiny-digits"), ("EPOCHS", 1),
        ):  # fmt: skip
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, value)
    seen: list[tuple[str, str]] = []

    def note(*_: object) -> None:
        seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision))
        raise Stop

    assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        with pytest.raises(Stop):
            ENTRIES[name](*study, tmp_path)
    finally:
        hook.remove()
    assert "tf32" not in seen[0]
