"""Outliers on real small networks: the function stays, and LLM.int8() meets what it looks for."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from visionquant.bench import loading, outliers
from visionquant.bench.backends import bnb, convert
from visionquant.core.errors import StudyError
from visionquant.settings.precision import Int8Precision
from visionquant.weights import checkpoint

FAMILIES = ("tiny-vit", "tiny-deit", "tiny-beit", "tiny-dinov2", "tiny-mobilevit")


def model_of(root: Path, name: str) -> tuple[nn.Module, torch.Tensor]:
    root.mkdir()
    project, params = tiny.project(root, tiny.settings((name,), ("fp32",)))
    spec = params.models[name]
    net = loading.load(project, name, spec, checkpoint.download(project, params, name), "sdpa", 0)
    return net, torch.randn(1, 3, spec.input_size, spec.input_size, generator=torch.Generator().manual_seed(1))


def largest_inputs(net: nn.Module, image: torch.Tensor) -> list[float]:
    """The largest magnitude at the input of each Linear layer."""
    found: list[float] = []
    hooks = [
        one.register_forward_pre_hook(lambda _, inputs: found.append(float(inputs[0].abs().max())))
        for one in net.modules()
        if type(one) is nn.Linear
    ]
    with torch.inference_mode():
        net(image)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_its_function_and_gets_outliers(tmp_path: Path, name: str) -> None:
    net, image = model_of(tmp_path / "study", name)
    with torch.inference_mode():
        before = net(image).last_hidden_state.clone()
    assert max(largest_inputs(net, image)) < 6
    norms = outliers.plant(net, 4, image)
    with torch.inference_mode():
        after = net(image).last_hidden_state
    assert norms >= 2
    assert sum(one >= 6 for one in largest_inputs(net, image)) >= 2
    assert float((after - before).norm() / before.norm()) < 1e-4


@pytest.mark.parametrize(("planted", "threshold", "met"), [(0, 6.0, 0), (4, 6.0, 8), (4, 0.0, None)])
def test_int8_meets_planted_outliers_and_no_others(
    tmp_path: Path, planted: int, threshold: float, met: int | None
) -> None:
    """Two blocks, four Linear layers each that read a normalisation."""
    net, image = model_of(tmp_path / "study", "tiny-vit")
    if planted:
        outliers.plant(net, planted, image)
    row = Int8Precision(
        method="bitsandbytes_int8", dtype="float16", cpu_dtype="bfloat16", threshold=threshold, skip=("pooler",)
    )
    convert.convert(net, row, "cpu")
    with torch.inference_mode():
        net(image.to(torch.bfloat16))
    assert bnb.ENGINE.outlier_layers(net) == met


def test_a_model_without_such_a_place_is_refused() -> None:
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 4, 3)

        def forward(self, image: torch.Tensor) -> Any:
            return type("Answer", (), {"last_hidden_state": self.inner(image)})()

    with pytest.raises(StudyError, match="no Linear layer reads a LayerNorm"):
        outliers.plant(Convolution(), 2, torch.zeros(1, 3, 8, 8))


def test_a_model_that_would_change_is_refused() -> None:
    class Shared(nn.Module):
        """The norm's output is used twice, by a Linear layer and as it is."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, image: torch.Tensor) -> Any:
            x = self.norm(image)
            return type("Answer", (), {"last_hidden_state": self.linear(x) + x})()

    with pytest.raises(StudyError, match="moved the outputs"):
        outliers.plant(Shared(), 2, torch.randn(1, 8))
