"""A policy converts what its rules say, module by module, and the network still computes what it did."""

import copy
from pathlib import Path

import families
import pytest
import tiny
import torch
from torch import nn

from visionquant.bench import loading
from visionquant.bench.backends import convert
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records import record
from visionquant.settings.params import Params, parse
from visionquant.settings.precision import MixedPrecision
from visionquant.weights.checkpoint import download

POLICIES = ("mixed-sensitive", "mixed-attention")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    return tiny.project(tmp_path_factory.mktemp("study"), tiny.settings(tuple(tiny.CONFIGS), ("fp32", *POLICIES)))


@pytest.fixture(scope="module")
def networks(study: tuple[Project, Params]) -> dict[str, nn.Module]:
    project, params = study
    return {
        model: loading.load(project, model, params.models[model], download(project, params, model), "sdpa", 0)
        for model in params.study.models
    }


def policy(*rules: tuple[str, str], dtype: str = "bfloat16") -> MixedPrecision:
    return MixedPrecision.model_validate(
        {
            "method": "mixed",
            "dtype": dtype,
            "cpu_dtype": dtype,
            "rules": tuple({"modules": name, "to": to} for name, to in rules),
        }
    )


def features(net: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = net(pixels).last_hidden_state.float().flatten(1)
    return found


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("model", tiny.CONFIGS)
def test_the_shipped_policies_take_every_family_and_keep_what_it_computes(
    model: str, name: str, study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    _, params = study
    row = params.precisions[name]
    pixels = tiny.pictures(4, params.models[model].input_size)
    net = convert.convert(copy.deepcopy(networks[model]), row, "cpu")
    proof = convert.prove(net, row, "cpu")
    found = features(net, pixels.to(convert.dtype_of(row, "cpu")))
    assert torch.cosine_similarity(features(networks[model], pixels), found).mean() > 0.99
    assert proof.modules is not None
    kinds = {part: {kind for one, kind in proof.modules.items() if part in one} for part in ("norm", "attention")}
    if name == "mixed-sensitive":
        assert kinds["norm"] == {"float32"}
        assert "int8" in kinds["attention"]
    else:
        assert "int8" not in kinds["attention"]
        assert "float16" in kinds["attention"]
    assert proof.quantized_modules == sum(kind == "int8" for kind in proof.modules.values()) > 0


def test_each_module_takes_the_type_of_the_first_rule_that_matches_it_or_what_is_around_it(
    networks: dict[str, nn.Module],
) -> None:
    row = policy(
        (r"layers\.0\.attention$", "fp16"), (r"layers\.0$", "fp32"), (r"mlp\.fc1", "nf4"), ("layernorm_after", "fp32")
    )
    net = convert.convert(copy.deepcopy(networks["tiny-vit"]), row, "cpu")
    found = convert.prove(net, row, "cpu").modules
    assert found is not None
    assert {name: kind for name, kind in found.items() if kind != "bfloat16"} == {
        **{f"layers.0.attention.{part}_proj": "float16" for part in "qkvo"},
        "layers.0.layernorm_before": "float32",
        "layers.0.layernorm_after": "float32",
        "layers.0.mlp.fc1": "float32",
        "layers.0.mlp.fc2": "float32",
        "layers.1.mlp.fc1": "nf4",
        "layers.1.layernorm_after": "float32",
    }


def test_a_rule_to_fp32_keeps_every_bit_and_types_meet_without_loss(networks: dict[str, nn.Module]) -> None:
    net = networks["tiny-vit"]
    converted = convert.convert(copy.deepcopy(net), policy(("embeddings", "fp32")), "cpu")
    before, after = net.get_submodule("embeddings"), converted.get_submodule("embeddings")
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    pixels = tiny.pictures(2, 32).bfloat16()
    with torch.inference_mode():
        assert torch.equal(after(pixels), before(pixels.float()).bfloat16())


def test_a_rule_that_takes_nothing_is_an_error(networks: dict[str, nn.Module]) -> None:
    net = networks["tiny-vit"]
    for rules, named in (
        ([("atention", "fp16")], "'atention': no module with parameters of this model matches it.*layers.0.attention"),
        ([("layernorm", "int8")], "'layernorm': no Linear layer"),
        ([(".", "fp32"), ("mlp", "int8")], "'mlp': no Linear layer.*earlier rules take all"),
    ):
        with pytest.raises(StudyError, match=named):
            convert.convert(copy.deepcopy(net), policy(*rules), "cpu")


def test_a_module_that_is_not_what_its_rule_says_is_found(networks: dict[str, nn.Module]) -> None:
    row = policy(("mlp", "int8"))
    net = convert.convert(copy.deepcopy(networks["tiny-vit"]), row, "cpu")
    net.get_submodule("layers.1.layernorm_before").float()
    with pytest.raises(StudyError, match=r"layers\.1\.layernorm_before is float32, asked was bfloat16"):
        convert.prove(net, row, "cpu")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rules": []}, "precisions.mixed-sensitive.rules"),
        ({"rules": [{"modules": "(", "to": "fp32"}]}, "precisions.mixed-sensitive.rules.0.modules: no regular"),
        ({"rules": [{"modules": ".", "to": "int4"}]}, "precisions.mixed-sensitive.rules.0.to"),
    ],
)
def test_a_policy_that_is_no_policy_is_one_line(change: dict[str, object], named: str) -> None:
    raw = tiny.settings()
    raw["precisions"]["mixed-sensitive"] |= change
    with pytest.raises(StudyError) as caught:
        parse(raw)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_is_measured_like_any_precision(tmp_path: Path) -> None:
    project, params = tiny.project(tmp_path, tiny.settings(("tiny-vit",), ("fp32", "mixed-sensitive")))
    from visionquant.core import machine

    machine.declare(project, machine.probe("cpu"))
    download(project, params, "tiny-vit")
    row = tiny.measure(project, params, "tiny-vit", "mixed-sensitive", [1])
    assert row.cells[0].status in tiny.MEASURED
    assert row.conversion is not None
    assert row.conversion.modules is not None
    assert row.conversion.modules["layers.0.mlp.fc1"] == "int8"
    assert row.conversion.modules["embeddings"] == "float32"
    assert record.read(project.record("tiny-vit", "mixed-sensitive")) == row


def test_a_layer_that_is_read_and_never_called_stays_with_what_reads_it() -> None:
    """nn.MultiheadAttention, of SigLIP's head, takes the weight of its out_proj past its forward and its hooks."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    plain = AutoModel.from_config(
        AutoConfig.for_model("siglip_vision_model", **families.CONFIGS["siglip_vision_model"])
    ).eval()
    pixels = tiny.pictures(2, 32)
    for rules, expected in (
        ([("head.attention$", "fp16"), (".", "int8")], "float16"),
        ([("out_proj|mlp", "int8"), ("head.attention", "fp32")], "float32"),
        ([(".", "int8")], "bfloat16"),
    ):
        net = convert.convert(copy.deepcopy(plain), policy(*rules), "cpu")
        proof = convert.prove(net, policy(*rules), "cpu")
        assert proof.modules is not None
        assert {kind for name, kind in proof.modules.items() if "head.attention" in name} == {expected}
        assert torch.cosine_similarity(features(plain, pixels), features(net, pixels.bfloat16())).min() > 0.99


def test_a_rule_over_a_model_without_linear_layers_is_one_line() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    with pytest.raises(StudyError, match=r"no Linear layer of this model matches it.*a name here is 0"):
        convert.convert(net, policy((".", "int8")), "cpu")
