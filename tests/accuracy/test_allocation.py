"""Allocations against all choices there are, and rows of params.yaml that give the allocation back."""

import random
from itertools import product
from typing import Any

import numpy as np
import pytest
import tiny
from torch import nn

from visionquant.accuracy import allocation, layer_sensitivity, policy_search
from visionquant.bench.backends import mixed
from visionquant.core import yaml12
from visionquant.core.errors import StudyError
from visionquant.settings.params import parse
from visionquant.settings.precision import FloatPrecision, MixedPrecision

ROWS = parse(tiny.settings()).precisions
NAMES = ("nf4", "int8", "bf16")


def tables(seed: int, layers: int = 5) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Bytes that grow with the precision and losses that fall with it, over six decades."""
    rng = np.random.default_rng(seed)
    costs, losses = {}, {}
    for layer in map(str, range(layers)):
        weights = int(rng.integers(1_000, 3_000_000))
        costs[layer] = dict(zip(NAMES, (0.5625 * weights, 1.0 * weights, 2.0 * weights), strict=True))
        losses[layer] = dict(zip(NAMES, np.sort(10.0 ** rng.uniform(-6, 0, 3))[::-1].tolist(), strict=True))
    return costs, losses


@pytest.mark.parametrize("seed", range(6))
def test_an_allocation_is_the_best_of_all_that_fit(seed: int) -> None:
    costs, losses = tables(seed)
    choices = [dict(zip(costs, names, strict=True)) for names in product(NAMES, repeat=len(costs))]
    least, most = (allocation.summed(costs, dict.fromkeys(costs, name)) for name in ("nf4", "bf16"))
    for budget in np.linspace(least, most, 7).tolist():
        fitting = [choice for choice in choices if allocation.summed(costs, choice) <= budget]
        best = min(allocation.summed(losses, choice) for choice in fitting)
        found = allocation.allocate(costs, losses, budget)
        assert set(found) == set(costs)
        assert allocation.summed(costs, found) <= budget
        assert allocation.summed(losses, found) == pytest.approx(best, rel=1e-9)


def test_what_does_not_fit_is_one_line_with_what_would() -> None:
    costs, losses = tables(0)
    least = allocation.summed(costs, dict.fromkeys(costs, "nf4"))
    with pytest.raises(StudyError, match=rf"a budget of 1: the cheapest .* 5 layers cost {least:,.10g}; raise it"):
        allocation.allocate(costs, losses, 1)
    with pytest.raises(StudyError, match="0 layers"):
        allocation.allocate({}, {}, 1)
    losses["3"]["int8"] = float("nan")
    with pytest.raises(StudyError, match="loss of 3 in int8: it is nan; leave int8 out"):
        allocation.allocate(costs, losses, 2 * least)


@pytest.mark.parametrize(
    ("asked", "expected"), [("nf4", 30), ("0.5*int8", 40), ("12", 12), ("1.5e3", 1500), ("2*nf4", 60)]
)
def test_a_budget_is_a_precision_a_multiple_or_a_number(asked: str, expected: float) -> None:
    assert policy_search.budget(asked, {"nf4": 30.0, "int8": 80.0}.__getitem__) == expected


def network(model: str) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    config = dict(tiny.CONFIGS[model])
    return AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).eval()


@pytest.mark.parametrize("model", ["tiny-vit", "tiny-beit", "tiny-mobilevit"])
def test_the_text_of_a_row_gives_the_allocation_back(model: str) -> None:
    net = network(model)
    layers = layer_sensitivity.quantisable(net)
    assert len(layers) > 10
    for seed in range(8):
        draw = random.Random(seed)
        among = ("nf4", "int8", "fp32", "")[: 2 + seed % 3]
        kinds = {layer: draw.choice(among) for layer in layers}
        row = allocation.policy(kinds, [ROWS["nf4"], ROWS["int8-threshold-0"]], "float16", "bfloat16")
        raw = tiny.settings()
        text = allocation.row_text("mine", row)
        raw["precisions"] |= yaml12.parse(text, "a row", "mend it")
        read: Any = parse(raw).precisions["mine"]
        assert read == row
        assert read.threshold == 0.0
        assert {layer: mixed.assign(net, read)[layer] for layer in layers} == kinds


def test_layers_of_one_kind_share_a_rule_and_exceptions_come_first() -> None:
    kinds = {f"layers.{number}.{name}": "nf4" for number in range(12) for name in ("q", "mlp.fc1", "mlp.fc2")}
    assert [(one.modules, one.to) for one in allocation.rules(kinds)] == [
        (r"^layers\.\d+\.(?:q|mlp\.fc1|mlp\.fc2)$", "nf4")
    ]
    kinds |= {"layers.0.mlp.fc1": "int8", "layers.11.mlp.fc1": "int8", "layers.3.q": "", "head": "fp32"}
    assert [(one.modules, one.to) for one in allocation.rules(kinds)] == [
        (r"^layers\.(?:0|1|2|4|5|6|7|8|9|10|11)\.q$", "nf4"),
        (r"^layers\.(?:0|11)\.mlp\.fc1$", "int8"),
        (r"^layers\.\d+\.(?:mlp\.fc1|mlp\.fc2)$", "nf4"),
        ("^head$", "fp32"),
    ]


def test_a_policy_that_quantises_nothing_is_a_float_row() -> None:
    row = allocation.policy({"a": "", "b": ""}, [ROWS["nf4"]], "float16", "bfloat16")
    assert row == FloatPrecision(method="float", dtype="float16", cpu_dtype="bfloat16")
    assert isinstance(allocation.policy({"a": "int8", "b": ""}, [], "float16", "bfloat16"), MixedPrecision)


@pytest.mark.parametrize("name", ["fp32_onnxruntime", "int8-outliers", "mixed-sensitive"])
def test_rows_that_no_rule_can_ask_for_are_refused(name: str) -> None:
    with pytest.raises(StudyError, match=r"no rule of a policy.*name rows of bitsandbytes"):
        allocation.kind_of(ROWS[name], "cpu")


def test_a_kind_is_that_of_the_device() -> None:
    assert [allocation.kind_of(ROWS[name], "cpu") for name in ("fp32", "fp16", "bf16", "int8", "nf4")] == [
        "fp32", "fp16", "bf16", "int8", "nf4",
    ]  # fmt: skip
    half = FloatPrecision(method="float", dtype="float16", cpu_dtype="bfloat16")
    assert [allocation.kind_of(half, device) for device in ("cpu", "cuda")] == ["bf16", "fp16"]
