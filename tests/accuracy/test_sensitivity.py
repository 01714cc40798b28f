"""Layers exchanged one at a time give what converting them by a policy gives, and the policy found keeps its word."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from visionquant import cli
from visionquant.accuracy import allocation, crops, layer_latency, layer_sensitivity
from visionquant.accuracy.layer_sensitivity import Noise
from visionquant.accuracy.model_source import ModelSource, open_model
from visionquant.accuracy.policy_search import PolicySearch
from visionquant.bench import fidelity, outliers
from visionquant.bench.backends import convert
from visionquant.core import machine, yaml12
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.recipes import sensitivity as recipe
from visionquant.records import outcomes
from visionquant.settings.params import Params
from visionquant.settings.precision import PrecisionRow
from visionquant.weights.checkpoint import download

pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt")
MODELS = ("tiny-vit", "tiny-dinov2", "tiny-mobilevit")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    project, params = tiny.project(tmp_path_factory.mktemp("study"), tiny.settings(MODELS))
    for model in MODELS:
        download(project, params, model)
    return project, params


def opened(study: tuple[Project, Params], model: str = "tiny-vit") -> tuple[ModelSource, nn.Module, fidelity.Head]:
    source = open_model(*study, model)
    head, _ = source.head()
    assert head is not None
    return source, source.build(), head


def by_policy(
    net: nn.Module, kinds: Mapping[str, str], row: PrecisionRow, images: torch.Tensor, head: fidelity.Head
) -> Noise:
    """What the engine of mixed policies gives, converting the whole network."""
    policy = allocation.policy(kinds, [row], "float32", "float32")
    exact = fidelity.outputs(net, images, head)
    found = fidelity.outputs(convert.convert(copy.deepcopy(net), policy, "cpu"), images, head)
    whole = fidelity.compare(exact, found, "")
    pairs = zip(exact.logits, found.logits, strict=True)
    logits = [ratio for a, b in pairs if (ratio := fidelity.sqnr_db(a, b)) is not None]
    return Noise(whole.sqnr_db, float(np.mean(logits)) if logits else None, whole.kl_nats)


def same(found: Noise | None, expected: Noise) -> bool:
    """To rounding; None where None is expected."""
    assert found is not None
    pairs = list(zip(found, expected, strict=True))
    return all(a == b or (a is not None and b is not None and a == pytest.approx(b, rel=1e-9)) for a, b in pairs)


@pytest.mark.parametrize("precision", ["nf4", "int8", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_layer_exchanged_is_a_layer_converted_by_a_policy(
    study: tuple[Project, Params], model: str, precision: str
) -> None:
    source, net, head = opened(study, model)
    row = study[1].precisions[precision]
    images = tiny.pictures(3, source.shape[1])
    found = layer_sensitivity.measure(net, row, images, head)
    layers = [one.layer for one in found.layers]
    skipped = {name for name in layer_sensitivity.quantisable(net) if "pooler" in name and precision != "bf16"}
    assert set(layers) == set(layer_sensitivity.quantisable(net)) - skipped
    every = dict.fromkeys(layer_sensitivity.quantisable(net), "")
    whole = every | dict.fromkeys(layers, precision)
    assert same(found.whole, by_policy(net, whole, row, images, head))
    for one in (found.layers[0], found.layers[len(layers) // 2], *found.layers[-3:]):
        assert same(one.alone, by_policy(net, every | {one.layer: precision}, row, images, head))
        assert same(one.left_out, by_policy(net, whole | {one.layer: ""}, row, images, head))


def test_the_network_is_left_as_it_was_and_batches_come_to_the_same(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, net, head = opened(study)
    images = tiny.pictures(6, source.shape[1])
    before, modules = fidelity.outputs(net, images, head), dict(net.named_modules())
    at_once = layer_sensitivity.measure(net, study[1].precisions["nf4"], images, head)
    monkeypatch.setattr(layer_sensitivity, "BATCH", 4)
    found = layer_sensitivity.measure(net, study[1].precisions["nf4"], images, head)
    for a, b in zip(found.layers, at_once.layers, strict=True):
        assert a.alone == pytest.approx(b.alone, rel=1e-3)
    assert dict(net.named_modules()) == modules
    assert not any("forward" in vars(one) or one._forward_hooks or one._forward_pre_hooks for one in modules.values())
    assert np.array_equal(fidelity.outputs(net, images, head).logits, before.logits)


def test_bytes_are_those_that_are_kept(study: tuple[Project, Params]) -> None:
    source, net, head = opened(study)
    images = tiny.pictures(2, source.shape[1])
    for precision, expected in (("int8", 1 + 4 / 64), ("bf16", 2.0)):  # a scale a row of 64
        row = study[1].precisions[precision]
        found = layer_sensitivity.measure(net, row, images, head, leave_out=False)
        first, kind = found.layers[0], precision
        linear = net.get_submodule(first.layer)
        assert isinstance(linear, nn.Linear)
        bias = linear.out_features * (2 if kind == "bf16" else 4)
        assert first.bytes_by_precision["fp32"] == 4 * linear.weight.numel() + 4 * linear.out_features
        assert first.bytes_by_precision[kind] == expected * linear.weight.numel() + bias
        assert (found.whole, first.left_out) == (None, None)


def test_the_layer_that_meets_outliers_is_the_most_sensitive_in_int8(study: tuple[Project, Params]) -> None:
    source, net, head = opened(study)
    images = tiny.pictures(4, source.shape[1])
    norm, layer = "layers.1.layernorm_after", "layers.1.mlp.fc1"
    readers = outliers._readers(net, images[:1])
    assert readers[norm] == [layer]
    before = layer_sensitivity.measure(net, study[1].precisions["int8-threshold-0"], images, head, leave_out=False)
    outliers._scale(net, {norm: [layer]}, 4)
    off, on = (
        layer_sensitivity.measure(net, study[1].precisions[name], images, head) for name in ("int8-threshold-0", "int8")
    )
    assert min(off.layers, key=lambda one: one.alone.sqnr_db or np.inf).layer == layer
    assert max(off.layers, key=lambda one: one.alone.kl_nats or 0).layer == layer
    assert max(off.layers, key=lambda one: (one.left_out and one.left_out.sqnr_db) or 0).layer == layer
    counts = {one.layer: one.outlier_channels for one in off.layers}
    assert 1 <= counts.pop(layer) <= 4
    assert not any(counts.values())
    own, apart, first = (next(one for one in each.layers if one.layer == layer) for each in (off, on, before))
    assert (own.alone.sqnr_db or 0) < (apart.alone.sqnr_db or 0) - 6
    assert (own.alone.sqnr_db or 0) < (first.alone.sqnr_db or 0) - 6


def test_of_a_mixed_policy_the_layers_that_it_quantises(study: tuple[Project, Params]) -> None:
    source, net, _ = opened(study)
    found = layer_sensitivity.measure(net, study[1].precisions["mixed-attention"], tiny.pictures(2, source.shape[1]))
    assert {one.kind for one in found.layers} == {"int8"}
    assert {one.layer.split(".")[-1] for one in found.layers} == {"fc1", "fc2"}
    assert all(one.alone.sqnr_db and one.alone[1:] == (None, None) for one in found.layers)  # without a head


def test_a_row_that_changes_nothing_is_one_line(study: tuple[Project, Params]) -> None:
    source, net, head = opened(study)
    images = tiny.pictures(2, source.shape[1])
    with pytest.raises(StudyError, match="precision float: it changes no Linear layer of this model"):
        layer_sensitivity.measure(net, study[1].precisions["fp32"], images, head)
    with pytest.raises(StudyError, match="no rule of a policy"):
        layer_sensitivity.measure(net, study[1].precisions["int8_onnxruntime"], images, head)
    with pytest.raises(StudyError, match=r"sensitivity of layers\.0\S+: outputs that are not finite"):
        layer_sensitivity.measure(net, study[1].precisions["nf4"], images * torch.nan, head)


def test_halves_share_no_pixel() -> None:
    left, right = crops.halves(16, tiny.preprocessing(32))
    assert left.shape == right.shape == (8, 3, 32, 32)
    assert len({image.numpy().tobytes() for image in torch.cat([left, right])}) == 16
    places = [crops.SIDE + (320 - crops.SIDE), 320]
    assert places[0] <= places[1]
    with pytest.raises(StudyError, match="10 crops: two halves of two photographs want a multiple of four"):
        crops.halves(10, tiny.preprocessing(32))


def test_latency_is_of_every_layer_that_is_called(study: tuple[Project, Params]) -> None:
    source, net, head = opened(study)
    rows = {name: study[1].precisions[name] for name in ("nf4", "int8", "bf16", "fp32")}
    search = PolicySearch(net, head, rows, "cpu")
    layers = [name for name in layer_sensitivity.quantisable(net) if "pooler" not in name]
    ways = {name: search.row_of(dict.fromkeys(layers, name)) for name in rows}
    found = layer_latency.measure(net, ways, layers, tiny.pictures(1, source.shape[1]), "cpu")
    assert list(found) == layers
    assert all(each.keys() == rows.keys() and min(each.values()) > 0 for each in found.values())


def test_a_search_keeps_to_its_budget_and_its_row_does_what_it_says(study: tuple[Project, Params]) -> None:
    source, net, head = opened(study)
    rows = {name: study[1].precisions[name] for name in ("nf4", "int8", "bf16")}
    search = PolicySearch(net, head, rows, "cpu")
    images, check = crops.halves(16, source.preprocessing)
    cheapest = search.find(images, check, 0.0, "bytes", None)
    assert set(cheapest.chosen.values()) == {"nf4"}
    assert search.find(images, check, 0.0, "bytes", "nf4") == cheapest
    middle = search.find(images, check, 0.0, "bytes", "0.8*int8")
    assert cheapest.cost < middle.cost <= middle.budget
    assert len(set(middle.chosen.values())) > 1
    converted = convert.convert(copy.deepcopy(net), middle.row, "cpu")
    kinds = convert.prove(converted, middle.row, "cpu").modules
    assert kinds is not None
    words = {"nf4": "nf4", "int8": "int8", "bf16": "bfloat16"}
    assert {layer: kinds[layer] for layer in middle.chosen} == {k: words[v] for k, v in middle.chosen.items()}
    found = fidelity.outputs(converted, check.bfloat16(), head).logits.argmax(1)
    kept = float((found == fidelity.outputs(net, check, head).logits.argmax(1)).mean())
    assert middle.kept_in_check == kept
    quick = search.find(images, check, 0.0, "latency", "int8")
    assert quick.cost <= quick.budget


def test_a_search_among_rows_that_make_no_policy_is_one_line(study: tuple[Project, Params]) -> None:
    _, net, head = opened(study)
    for names, message in (
        (("int8", "int8-threshold-0"), "precisions int8, int8-threshold-0: a policy takes them for one"),
        (("bf16", "fp32"), "precisions bf16, fp32: none of them quantises; add e.g. int8"),
    ):
        with pytest.raises(StudyError, match=message):
            PolicySearch(net, head, {name: study[1].precisions[name] for name in names}, "cpu")


def test_the_recipe_has_a_row_a_layer_and_one_of_all(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, params = study
    monkeypatch.setattr(recipe, "MODEL", "tiny-dinov2")
    monkeypatch.setattr(recipe, "IMAGES", 8)
    found = recipe.run(project, params, machine.probe("cpu"))
    assert len({frozenset(row) for row in found.rows}) == 1
    layers = [row["layer"] for row in found.rows]
    assert layers.count(recipe.ALL) == 4
    assert len(set(layers)) == 1 + 12
    for row in found.rows:
        assert row["sqnr_db"] is not None
        assert row["kl_nats"] is not None
        assert (row["left_out_sqnr_db"] is None) == (row["layer"] == recipe.ALL)
    kept = outcomes.read_recipe(outcomes.write_recipe(project, found, params))
    assert set(kept.under) >= {"models.tiny-dinov2", "precisions.nf4", "precisions.int8"}


def run(root: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.argv", ["visionquant", *words])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_verb_prints_a_row_that_can_be_pasted(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("allocate", "--model", "tiny-vit", "--images", "8", "--floor", "0", "--budget-of", "0.8*int8")
    assert run(study[0].root, monkeypatch, *words, "--name", "mine") == 0
    out, _ = capfd.readouterr()
    assert re.match(
        r"tiny-vit, seeded weights: \d+ Linear layers in nf4, \d+ Linear layers in int8, \d+ .* bf16\n", out
    )
    assert re.search(r"of 4 images\nthat were searched on, [01]\.\d{4} of 4 that were not\n\n  mine:\n", out)
    row = yaml12.parse(out.partition("\n\n")[2], "out", "")["mine"]
    assert row["method"] == "mixed"
    assert {rule["to"] for rule in row["rules"]} <= {"nf4", "int8"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--budget-of", "1000"), r"a budget of 1,000: the cheapest precisions of 12 layers cost [\d,]+; raise it"),
        (("--budget-of", "gptq"), "budget gptq: neither a number nor of one of nf4, int8, bf16"),
        (("--name", "int8"), "--name int8: no name, or that of a row which is there"),
        (("--precision", "int3"), "no row named int3"),
        (("--images", "10"), "10 crops: "),
        (("--precision", "bf16"), "none of them quantises"),
    ],
)
def test_what_can_not_be_allocated_is_one_line(
    study: tuple[Project, Params],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    base = ("allocate", "--model", "tiny-vit", *(() if "--images" in words else ("--images", "4")))
    assert run(study[0].root, monkeypatch, *base, *words) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.search(message, err)


def test_a_policy_below_the_floor_is_shown_and_refused(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--images", "64", "--budget-of", "nf4", "--floor", "1")
    assert run(study[0].root, monkeypatch, "allocate", "--model", "tiny-vit", *words) == 1
    out, err = capfd.readouterr()
    assert "mixed-allocated:" in out
    shown = r"visionquant: --floor 1: 0\.\d{4} of the images that were not searched on are predicted as in FP32; raise"
    assert re.match(shown, err)
