"""Layers exchanged one at a time give what converting them by a policy gives, and the policy found keeps its word."""

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import clothes
import numpy as np
import pytest
import tiny
import torch
from torch import nn

from visionquant import cli
from visionquant.accuracy import allocation, fashion, layer_latency, layer_sensitivity, probe, probe_task
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
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Params]]:
    """Seeded models, and one of trained weights with a small data set."""
    raw = tiny.settings(MODELS)
    raw["study"]["weights"] = "auto"
    raw["models"]["mine"] = {"path": "mine", "input_size": 32, "group": "tiny"}
    project, params = tiny.project(tmp_path_factory.mktemp("study"), raw)
    tiny.checkpoint(project.root / "mine", False)
    download(project, params, "mine")
    seeded = params.model_copy(update={"study": params.study.model_copy(update={"weights": "seeded"})})
    for model in MODELS:
        download(project, seeded, model)
    with pytest.MonkeyPatch.context() as patch:
        clothes.publish(project.local / "datasets" / "fashion-mnist", patch)
        yield project, params


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


def test_latency_is_of_every_layer_that_is_called(study: tuple[Project, Params]) -> None:
    search = searching(study, "nf4", "int8", "bf16", "fp32")
    net, rows, layers = search.net, search.rows, search.layers
    ways = {name: search.row_of(dict.fromkeys(layers, name)) for name in rows}
    found = layer_latency.measure(net, ways, layers, tiny.pictures(1, 32), "cpu")
    assert tuple(found) == layers
    assert all(each.keys() == rows.keys() and min(each.values()) > 0 for each in found.values())


def searching(
    study: tuple[Project, Params], *names: str, kept: Path | None = None, told: list[str] | None = None
) -> PolicySearch:
    """A search on ten images, with fifteen that choose a budget and twenty that check."""
    source = open_model(*study, "mine")
    net, rows = source.build(), study[1].precisions
    task = probe_task.fitted(source, net, "cpu", (10, 15, 20))
    kept = kept or study[0].local / "sensitivities" / "test.json"
    tell = (lambda line: None) if told is None else told.append
    return PolicySearch(net, task, {name: rows[name] for name in names}, "cpu", rows, [], kept, tell)


def test_a_search_keeps_to_its_budget_and_its_row_does_what_it_says(study: tuple[Project, Params]) -> None:
    search = searching(study, "nf4", "int8", "bf16", "fp32")
    cheapest = search.find(0.0, "bytes", None)
    assert set(cheapest.chosen.values()) == {"nf4"}
    assert search.find(0.0, "bytes", "nf4") == cheapest
    assert cheapest.cost == search.stored_bytes(study[1].precisions["nf4"])
    middle = search.find(0.0, "bytes", "0.8*int8")
    assert cheapest.cost < middle.cost <= middle.budget == 0.8 * search.stored_bytes(study[1].precisions["int8"])
    assert middle.cost == search.stored_bytes(middle.row)
    assert len(set(middle.chosen.values())) > 1
    converted = convert.convert(copy.deepcopy(search.net), middle.row, "cpu")
    kinds = convert.prove(converted, middle.row, "cpu").modules
    assert kinds is not None
    words = {"nf4": "nf4", "int8": "int8", "bf16": "bfloat16", "fp32": "float32"}
    assert {layer: kinds[layer] for layer in middle.chosen} == {k: words[v] for k, v in middle.chosen.items()}
    check = search.task.parts[2]
    right = [
        float((fidelity.outputs(net, check.images.to(dtype), search.task.head).logits.argmax(1) == check.labels).mean())
        for net, dtype in ((converted, torch.bfloat16), (search.net, torch.float32))
    ]
    assert middle.kept_in_check == right[0] / right[1]
    quick = search.find(0.0, "latency", "int8")
    assert quick.cost <= quick.budget


def test_parts_share_no_image_and_none_that_the_head_learned_from(study: tuple[Project, Params]) -> None:
    project, params = study
    source = open_model(project, params, "mine")
    task = probe_task.fitted(source, source.build(), "cpu", (10, 15, 20))
    assert [len(part.labels) for part in task.parts] == [10, 15, 20]
    training, _ = fashion.load(project)
    learned = training.images[probe.drawn(100, 300, params.evaluation.probe.seed)]
    known = {image.numpy().tobytes() for image in probe.Pictures(source, 32).batch(learned)}
    others = [image.numpy().tobytes() for part in task.parts for image in part.images]
    assert len(set(others)) == 45
    assert not known & set(others)


def test_an_interrupted_search_goes_on_with_the_sensitivities_that_are_known(
    study: tuple[Project, Params], tmp_path: Path
) -> None:
    told: list[str] = []
    first = searching(study, "nf4", "int8", kept=tmp_path / "kept.json", told=told).find(0.0, "bytes", "0.8*int8")
    assert [line.split(":")[0] for line in told] == ["sensitivity of layers in nf4", "sensitivity of layers in int8"]
    assert told[0].endswith(": 100%, about 0.0 min left")
    told.clear()
    again = searching(study, "nf4", "int8", "bf16", kept=tmp_path / "kept.json", told=told)
    losses = again.losses("kl")
    assert [line.split(":")[0] for line in told] == ["sensitivity of layers in bf16"]
    assert {layer: set(each) for layer, each in losses.items()} == {
        layer: {"nf4", "int8", "bf16"} for layer in again.layers
    }
    assert searching(study, "nf4", "int8", kept=tmp_path / "kept.json").find(0.0, "bytes", "0.8*int8") == first


def test_a_loss_is_the_noise_of_the_layer_alone(study: tuple[Project, Params]) -> None:
    search = searching(study, "nf4", "fp32")
    images = search.task.parts[0].images
    found = layer_sensitivity.measure(search.net, study[1].precisions["nf4"], images, search.task.head)
    noise, divergence = search.losses("noise"), search.losses("kl")
    for one in found.layers:
        assert one.alone.sqnr_db is not None
        assert one.alone.kl_nats is not None
        assert noise[one.layer] == pytest.approx({"nf4": 10 ** (-one.alone.sqnr_db / 10), "fp32": 0.0})
        assert divergence[one.layer] == pytest.approx({"nf4": one.alone.kl_nats, "fp32": 0.0})


def test_the_budget_is_the_least_that_keeps_the_floor(study: tuple[Project, Params]) -> None:
    told: list[str] = []
    search = searching(study, "nf4", "int8", "fp32", told=told)
    found = search.find(1.0, "bytes", None)
    tried = [re.fullmatch(r"a budget of ([\d,.]+): ([\d.]+) of FP32's top-1", line) for line in told[-9:]]
    shares = {float(one[1].replace(",", "")): float(one[2]) for one in tried if one}
    assert len(shares) >= 5
    assert all(share < 1.0 for size, share in shares.items() if size < 0.999 * found.budget)
    assert all(share >= 1.0 for size, share in shares.items() if abs(size / found.budget - 1) < 1e-9)
    with pytest.raises(StudyError, match=r"a budget of 1,000: the cheapest precisions of 12 layers come to [\d,]+;"):
        search.find(1.0, "bytes", "1000")
    with pytest.raises(StudyError, match="no row named int3"):
        search.find(1.0, "bytes", "0.5*int3")


def test_a_search_among_rows_that_make_no_policy_is_one_line(study: tuple[Project, Params]) -> None:
    for names, message in (
        (("int8", "int8-threshold-0"), "precisions int8, int8-threshold-0: a policy takes them for one"),
        (("bf16", "fp32"), "precisions bf16, fp32: none of them quantises; add e.g. int8"),
    ):
        with pytest.raises(StudyError, match=message):
            searching(study, *names)


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
    words = ("allocate", "--model", "mine", "--images", "8", "--floor", "0", "--budget-of", "0.8*int8")
    assert run(study[0].root, monkeypatch, *words, "--name", "mine") == 0
    out, _ = capfd.readouterr()
    assert re.search(r"\nmine, pretrained weights: \d+ Linear layers in nf4, \d+ .* int8, \d+ .* bf16, .* fp32\n", out)
    assert re.search(r"FP32's: [\d.]+ on 32 images that budgets are chosen by, [\d.]+ on 64 others\nA row", out)
    row = yaml12.parse(out.partition("\n\n")[2], "out", "")["mine"]
    assert row["method"] == "mixed"
    assert {rule["to"] for rule in row["rules"]} <= {"nf4", "int8", "fp16", "fp32"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--budget-of", "1000"), r"a budget of 1,000: the cheapest precisions of 12 layers come to [\d,]+; raise it"),
        (("--budget-of", "gptq"), "no row named gptq; "),
        (("--budget-of", "x*int8"), r"budget x\*int8: neither a number nor a multiple of a precision; write"),
        (("--name", "int8"), "--name int8: no name, or that of a row which is there"),
        (("--precision", "int3"), "no row named int3"),
        (("--images", "16"), "208 other images of fashion-mnist: it has 300, of which the head learns from 100; ask"),
        (("--model", "tiny-vit"), "allocate of tiny-vit: seeded weights recognise nothing; take a model with trained"),
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
    base = ("allocate", "--model", "mine", *(() if "--images" in words else ("--images", "4")))
    assert run(study[0].root, monkeypatch, *base, *words) == 1
    out, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert "rules:" not in out
    assert re.search(message, err)


def test_a_policy_below_the_floor_is_shown_and_refused(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--images", "4", "--budget-of", "nf4", "--floor", "2")
    assert run(study[0].root, monkeypatch, "allocate", "--model", "mine", *words) == 1
    out, err = capfd.readouterr()
    assert "mixed-allocated:" in out
    shown = r"visionquant: --floor 2: top-1 is [01]\.\d{4} of FP32's on images that nothing was chosen by; raise"
    assert re.match(shown, err)
