"""Quantised layers on inputs of any layout, with INT8 read as its CUDA kernel reads: row by row from an address."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from visionquant.accuracy import training
from visionquant.bench import loading
from visionquant.bench.backends import convert
from visionquant.bench.backends.bnb import quantised
from visionquant.deploy import serialization
from visionquant.settings.params import Params, parse
from visionquant.settings.precision import Precision

PARAMS: Params = parse(tiny.settings())
COMMITTED = parse(copy.deepcopy(tiny._committed()))
ROWS: dict[str, Precision] = {
    name: serialization.precision_on(PARAMS.precisions[name], "cuda")
    for name in ("int8", "int8-threshold-0", "nf4", "mixed-sensitive")
}
CONVNEXT = {"model_type": "convnext", "image_size": 32, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
NETWORKS = (*tiny.CONFIGS, "convnext", *COMMITTED.training.networks)


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in FP32 and two images for it."""
    if name in COMMITTED.training.networks:
        spec = COMMITTED.training.networks[name]
        net, side = training.build_network(spec, 0), spec.image_size
    else:
        config: dict[str, Any] = dict(tiny.CONFIGS.get(name, CONVNEXT))
        side = config["image_size"]
        net = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
        loading.seed_weights(net, 0)
    return net.eval(), torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What bitsandbytes' two entry points are given."""
    import bitsandbytes as bnb

    found: list[torch.Tensor] = []
    for name in ("matmul", "matmul_4bit"):
        real: Callable[..., torch.Tensor] = getattr(bnb, name)

        def spy(x: torch.Tensor, *args: Any, real: Callable[..., torch.Tensor] = real, **more: Any) -> torch.Tensor:
            found.append(x)
            return real(x, *args, **more)

        monkeypatch.setattr(bnb, name, spy)
    return found


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """INT8's input is quantised from its address on, as ``row_data = A + row_id * cols`` of the CUDA kernel does."""
    import bitsandbytes as bnb

    real = bnb.functional.int8_vectorwise_quant

    def kernel(a: torch.Tensor, threshold: float = 0.0) -> Any:
        assert a.dtype == torch.float16
        shape = (a.numel() // a.shape[-1], a.shape[-1])
        return real(a.as_strided(shape, (shape[1], 1)).clone(), threshold=threshold)

    monkeypatch.setattr(bnb.functional, "int8_vectorwise_quant", kernel)


def layer_of(row: str) -> nn.Module:
    torch.manual_seed(0)
    return quantised(nn.Linear(64, 32).half(), ROWS[row], torch.float16).to("cpu")  # type: ignore[arg-type]


def layouts() -> dict[str, torch.Tensor]:
    states = torch.randn(4, 6, 8, 192, generator=torch.Generator().manual_seed(2)).half()
    return {
        "class tokens": states[:, 0, 0, :64],
        "a third of a fused projection": states[:, 0, :, 64:128],
        "transposed": states[0, 0, :, :64].T.reshape(64, 8).T,
        "every second": states[0, :, ::2, :64],
        "four dimensions": states[..., :64].contiguous(),
        "four dimensions, channels before": states[..., :64].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "one row": states[0, 0, 0, :64],
        "no row": states[:0, 0, 0, :64],
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("row", ["int8", "int8-threshold-0", "nf4"])
def test_a_layer_answers_by_value_whatever_the_layout(
    row: str, layout: str, as_on_cuda: None, inputs: list[torch.Tensor]
) -> None:
    layer, x = layer_of(row), layouts()[layout]
    with torch.inference_mode():
        found = layer(x)
        one_by_one = [layer(one[None].clone()) for one in x.reshape(-1, 64)]
    assert found.shape == (*x.shape[:-1], 32)
    assert all(one.is_contiguous() for one in inputs)
    if len(one_by_one):  # a threshold takes columns by all rows, so a row alone may differ in its last bits
        assert torch.allclose(found.reshape(-1, 32), torch.cat(one_by_one), atol=0.02)


def test_bitsandbytes_own_layer_reads_other_rows_there(as_on_cuda: None) -> None:
    """What the above is for: if this fails, the library has been mended and the copies can go."""
    import bitsandbytes as bnb

    ours, x = layer_of("int8-threshold-0"), layouts()["class tokens"]
    with torch.inference_mode():
        right = ours(x)
        wrong = bnb.nn.Linear8bitLt.forward(ours, x)
    assert torch.equal(wrong[0], right[0])
    assert (wrong - right)[1:].abs().max() > 0.5


def test_a_contiguous_input_is_not_copied(inputs: list[torch.Tensor]) -> None:
    for row in ("int8", "nf4"):
        for x in (torch.randn(3, 64).half(), torch.randn(3, 2, 64).half()):
            with torch.inference_mode():
                layer_of(row)(x)
            assert inputs.pop() is x


@pytest.mark.parametrize("row", ["int8", "nf4", "mixed-sensitive"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_quantised_layer_of_a_network_is_given_rows(
    name: str, row: str, as_on_cuda: None, inputs: list[torch.Tensor]
) -> None:
    net, images = network(name)
    net = convert.convert(net, ROWS[row], "cpu")
    with torch.inference_mode():
        net(images.half())
    assert len(inputs) >= convert.prove(net, ROWS[row], "cpu").quantized_modules > 0
    assert all(x.is_contiguous() and (x.ndim in (2, 3) or row == "nf4") for x in inputs)


@pytest.mark.parametrize("name", COMMITTED.training.networks)
def test_a_batch_is_answered_as_its_images_one_by_one(name: str, as_on_cuda: None) -> None:
    net, images = network(name)
    net = convert.convert(net, ROWS["int8-threshold-0"], "cpu")
    with torch.inference_mode():
        together = net(images.half()).logits
        alone = torch.cat([net(one[None].half()).logits for one in images])
    assert torch.allclose(together, alone, atol=0.02 * float(alone.abs().max()))
