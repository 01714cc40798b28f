"""Every precision is what it says, on live networks of every family in the study."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from visionquant.bench import fidelity, loading, op_count
from visionquant.bench.backends import convert
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.deploy import compute as half
from visionquant.settings.params import Params
from visionquant.settings.precision import Precision
from visionquant.weights.checkpoint import download

FLOORS = {"fp32": 1.0 - 1e-6, "fp16": 0.99, "int8": 0.99, "nf4": 0.9, "fp4": 0.9, "bf16": 0.99}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    raw = tiny.settings(tuple(tiny.CONFIGS), tuple(FLOORS))
    return tiny.project(tmp_path_factory.mktemp("study"), raw)


@pytest.fixture(scope="module")
def networks(study: tuple[Project, Params]) -> dict[str, nn.Module]:
    project, params = study
    return {
        model: loading.load(project, model, params.models[model], download(project, params, model), "sdpa", 0)
        for model in params.study.models
    }


def images(params: Params, model: str) -> torch.Tensor:
    return tiny.pictures(4, params.models[model].input_size)


def features(net: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = net(pixels).last_hidden_state.float().flatten(1).numpy()
    return found


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).mean())


@pytest.mark.parametrize("precision", FLOORS)
@pytest.mark.parametrize("model", tiny.CONFIGS)
def test_outputs_agree_with_fp32_far_above_chance(
    model: str, precision: str, study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    _, params = study
    row, pixels = params.precisions[precision], images(params, model)
    expected = features(networks[model], pixels)
    other = features(networks[model], pixels.flip(0))
    converted = convert.convert(copy.deepcopy(networks[model]), row, "cpu")
    found = features(converted, pixels.to(convert.dtype_of(row, "cpu")))
    assert np.isfinite(found).all()
    assert cosine(expected, found) > FLOORS[precision]
    assert cosine(expected, found) > cosine(expected, other)  # the network tells its inputs apart


@pytest.mark.parametrize("precision", FLOORS)
def test_a_conversion_proves_its_dtypes_and_counts_its_layers(
    precision: str, study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    _, params = study
    row = params.precisions[precision]
    net = convert.convert(copy.deepcopy(networks["tiny-vit"]), row, "cpu")
    proof = convert.prove(net, row, "cpu")
    linear = op_count.linear_layers(networks["tiny-vit"])
    if precision in ("int8", "nf4", "fp4"):
        assert proof.skipped_modules == ("pooler.dense",)
        assert proof.quantized_modules == linear - 1
        total = sum(parameter.numel() for parameter in networks["tiny-vit"].parameters())
        assert proof.quantized_share == pytest.approx(2 * (4 * 64 * 64 + 2 * 64 * 128) / total)
        assert {"int8": "int8", "nf4": "uint8", "fp4": "uint8"}[precision] in proof.dtypes
    else:
        assert (proof.quantized_modules, proof.quantized_share) == (0, 0.0)
        assert set(proof.dtypes) == {{"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision]}


def test_nf4_weights_are_a_quarter_of_fp16s(study: tuple[Project, Params], networks: dict[str, nn.Module]) -> None:
    _, params = study
    weights = {}
    for precision in ("fp16", "int8", "nf4"):
        net = convert.convert(copy.deepcopy(networks["tiny-vit"]), params.precisions[precision], "cpu")
        weights[precision] = sum(
            p.numel() * p.element_size() for n, p in net.named_parameters() if "mlp" in n and "weight" in n
        )
    assert weights["int8"] * 2 == weights["fp16"]
    assert weights["nf4"] * 4 == weights["fp16"]


@pytest.mark.parametrize("precision", ["int8", "nf4", "fp4"])
def test_quantised_weights_are_the_models_own(
    precision: str, study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    """The supplement's listing builds new layers and never copies the weights into them."""
    _, params = study
    net = convert.convert(copy.deepcopy(networks["tiny-vit"]), params.precisions[precision], "cpu")
    for (name, original), (_, layer) in zip(_layers(networks["tiny-vit"]), _layers(net), strict=True):
        if name.startswith("pooler"):
            continue
        eye = torch.eye(original.in_features, dtype=torch.bfloat16)
        with torch.inference_mode():
            restored = (layer(eye) - layer(torch.zeros_like(eye))).float().T
        assert cosine(original.weight.detach().flatten()[None].numpy(), restored.flatten()[None].numpy()) > 0.98


def _layers(net: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)]


def test_a_precision_that_quantises_nothing_is_refused(networks: dict[str, nn.Module]) -> None:
    from visionquant.settings.precision import Int8Precision

    row = Int8Precision(
        method="bitsandbytes_int8",
        dtype="float16",
        cpu_dtype="bfloat16",
        threshold=6.0,
        skip=("encoder", "layers", "layer", "pooler"),
    )
    with pytest.raises(StudyError, match="no Linear layer was quantised"):
        convert.convert(copy.deepcopy(networks["tiny-vit"]), row, "cpu")


def test_a_model_that_was_never_converted_fails_the_proof(
    study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    _, params = study
    for precision in ("fp16", "int8", "nf4"):
        with pytest.raises(StudyError):
            convert.prove(networks["tiny-vit"], params.precisions[precision], "cpu")


Q = "layers.1.mlp.fc1"
ALTERED: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "training": ("int8", lambda net: net.get_submodule(Q).train(), rf"{Q} is in training mode"),
    "training, all of it": ("nf4", lambda net: net.train(), "the model is in training mode"),
    "training, in floats": ("fp32", lambda net: net.get_submodule("layernorm").train(), "layernorm is in training"),
    "training, by rules": ("mixed-sensitive", lambda net: net.get_submodule(Q).train(), rf"{Q} is in training mode"),
    "another path": (
        "int8",
        lambda net: setattr(net.get_submodule(Q).state, "has_fp16_weights", True),
        rf"{Q} is quantised anew at each pass, asked was int8 with threshold 6",
    ),
    "another path, by rules": (
        "mixed-sensitive",
        lambda net: setattr(net.get_submodule(Q).state, "has_fp16_weights", True),
        rf"{Q} is quantised anew at each pass, asked was int8 with threshold 6",
    ),
    "another threshold": (
        "int8",
        lambda net: setattr(net.get_submodule(Q).state, "threshold", 0.0),
        rf"{Q} is int8 with threshold 0, asked was int8 with threshold 6",
    ),
    "the library's own layer": (
        "int8",
        lambda net: setattr(net.get_submodule(Q), "__class__", type(net.get_submodule(Q)).__mro__[1]),
        rf"{Q} is a layer of bitsandbytes.nn.modules, which misreads inputs that are not contiguous, asked was int8",
    ),
    "no scales": (
        "int8",
        lambda net: setattr(net.get_submodule(Q).weight, "SCB", None),
        rf"{Q} is without int8 codes \(torch.int8\), asked was int8",
    ),
    "another type beside": (
        "int8",
        lambda net: net.get_submodule("layernorm").float(),
        r"layernorm\.weight is float32, asked was bfloat16 \(and so on, 2 in all\)",
    ),
    "another type in NF4": (
        "nf4",
        lambda net: setattr(net.get_submodule(Q).weight.quant_state, "quant_type", "fp4"),
        rf"{Q} is fp4 in blocks of 64, scales not quantised, asked was nf4 in blocks of 64, scales not quantised",
    ),
    "one in floats": ("fp16", lambda net: net.get_submodule(Q).float(), rf"{Q}\.weight is float32, asked was float16"),
}


@pytest.mark.parametrize("how", ALTERED)
@pytest.mark.parametrize("ran", [False, True])
def test_the_proof_names_the_part_that_differs_and_both_values(
    ran: bool, how: str, study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    """Before and after a first pass, which moves INT8's codes and scales from the weight to the layer's state."""
    _, params = study
    precision, alter, says = ALTERED[how]
    row = params.precisions[precision]
    net = convert.convert(copy.deepcopy(networks["tiny-vit"]), row, "cpu")
    if ran:
        before = convert.prove(net, row, "cpu")
        features(net, images(params, "tiny-vit").to(convert.dtype_of(row, "cpu")))
        assert convert.prove(net, row, "cpu") == before
    if ran and how == "no scales":
        net.get_submodule(Q).state.SCB = None
    alter(net)
    with pytest.raises(StudyError, match=f"{says}.*; ") as caught:
        convert.prove(net, row, "cpu")
    assert "\n" not in str(caught.value)


class Stubborn(nn.LayerNorm):
    """As some published modules do, it decides on its own mode."""

    def train(self, mode: bool = True) -> "Stubborn":
        return self


def test_nothing_is_handed_out_that_stays_in_training_mode(
    study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    net = copy.deepcopy(networks["tiny-vit"])
    net.set_submodule("layernorm", Stubborn(64))
    for precision in (*FLOORS, "mixed-sensitive"):
        with pytest.raises(StudyError, match="layernorm is in training mode, where other code runs; call"):
            convert.convert(copy.deepcopy(net), study[1].precisions[precision], "cpu")
    for how in ("weights", "autocast"):
        with pytest.raises(StudyError, match="layernorm is in training mode"):
            half.HalfModel(net, "cpu", how)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "nf4", "int8"])
def test_the_file_size_is_that_of_the_file(
    precision: str, study: tuple[Project, Params], networks: dict[str, nn.Module], tmp_path: object
) -> None:
    from pathlib import Path

    from safetensors.torch import save_file

    _, params = study
    row: Precision = params.precisions[precision]
    net = convert.convert(copy.deepcopy(networks["tiny-vit"]), row, "cpu")
    tensors = {
        name: value.contiguous().clone() for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)
    }
    path = Path(str(tmp_path)) / "model.safetensors"
    save_file(tensors, path)
    assert op_count.safetensors_bytes(net) == pytest.approx(path.stat().st_size, rel=0.001)


def test_fidelity_counts_nan_and_gives_no_figure() -> None:
    good = fidelity.Outputs(np.ones((2, 3, 4), np.float32), np.eye(2, 5, dtype=np.float32))
    bad = fidelity.Outputs(np.where(np.arange(24).reshape(2, 3, 4) == 5, np.nan, 1.0), good.logits)
    found = fidelity.compare(good, bad, "head")
    assert found.nan_count == 1
    assert found.cosine is found.sqnr_db is found.kl_nats is None


def test_fidelity_agrees_with_independent_formulas() -> None:
    from scipy.special import rel_entr, softmax

    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(3, 5, 7)), generator.normal(size=(3, 11))
    noisy, other = a + 0.1 * generator.normal(size=a.shape), b + 0.2 * generator.normal(size=b.shape)
    found = fidelity.compare(fidelity.Outputs(a, b), fidelity.Outputs(noisy, other), "head")
    kl = rel_entr(softmax(b, axis=1), softmax(other, axis=1)).sum(1).mean()
    power = [10 * np.log10(np.sum(x**2) / np.sum((x - y) ** 2)) for x, y in zip(a, noisy, strict=True)]
    assert found.kl_nats == pytest.approx(kl)
    assert found.sqnr_db == pytest.approx(np.mean(power))
    assert found.cosine == pytest.approx(cosine(a.reshape(3, -1), noisy.reshape(3, -1)))
    assert found.top1_agreement == pytest.approx((b.argmax(1) == other.argmax(1)).mean())


@pytest.mark.parametrize("model", tiny.CONFIGS)
def test_noise_is_told_after_every_block(
    model: str, study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    _, params = study
    pixels = images(params, model)
    head, _ = fidelity.head_of(study[0], download(*study, model), 0)
    reference = fidelity.outputs(networks[model], pixels, head, blocks=True)
    row = params.precisions["nf4"]
    net = convert.convert(copy.deepcopy(networks[model]), row, "cpu")
    found = fidelity.compare(reference, fidelity.outputs(net, pixels.bfloat16(), head, blocks=True), "head")
    stages = {"tiny-mobilevit": 5}
    assert len(found.blocks_sqnr_db) == stages.get(model, 2)
    assert all(ratio is not None and 0 < ratio < 60 for ratio in found.blocks_sqnr_db)
    itself = fidelity.compare(reference, reference, "head")
    assert set(itself.blocks_sqnr_db) == {None}
    half = reference.blocks[0] * 0.9
    assert fidelity.sqnr_db(reference.blocks[0], half) == pytest.approx(20.0, abs=0.01)
