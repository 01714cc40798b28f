"""ONNX Runtime as a precision, on live networks of every family: as FP32 says, quantised, measured, and absent."""

import copy
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from visionquant.bench import loading, sampling
from visionquant.bench.backends import convert, onnx_graph, ort
from visionquant.bench.command import Matrix
from visionquant.core import machine, processors
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.settings.params import Params
from visionquant.settings.precision import OnnxRuntimePrecision
from visionquant.weights import checkpoint

WANTED = "needs ONNX Runtime: pip install --editable '.[onnx]'"
present = pytest.mark.skipif(bool(convert.backend_of("ort").unsupported("cpu")), reason=WANTED)
STATIC = "int8_onnxruntime_static"
ROWS = ("fp32_onnxruntime", "int8_onnxruntime", STATIC)
FLOORS = (1 - 1e-6, 0.97, 0.9)  # of the worst image; these networks are small, their weights seeded
LINEAR = {"tiny-vit": 13, "tiny-deit": 13, "tiny-beit": 13, "tiny-dinov2": 12, "tiny-mobilevit": 54}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    raw = tiny.settings(tuple(tiny.CONFIGS), ("fp32", *ROWS))
    return tiny.project(tmp_path_factory.mktemp("study"), raw)


@pytest.fixture(scope="module")
def networks(study: tuple[Project, Params]) -> dict[str, nn.Module]:
    project, params = study
    nets = {}
    for model in params.study.models:
        nets[model] = loading.seeded(project, model, params.models[model], "sdpa", params.protocol.seed)
        ort.ENGINE.plant_outliers(nets[model], params.precisions[STATIC], images(params, model)[:1])
    return nets


@pytest.fixture(scope="module")
def graphs(study: tuple[Project, Params], networks: dict[str, nn.Module]) -> dict[tuple[str, str], onnx_graph.Graph]:
    """Each network exported once a row."""
    return {
        (model, name): onnx_graph.export(net, row_of(study[1], name), images(study[1], model)[:2])
        for model, net in networks.items()
        for name in ROWS
    }


def row_of(params: Params, name: str, **changes: Any) -> OnnxRuntimePrecision:
    row = params.precisions[name]
    assert isinstance(row, OnnxRuntimePrecision)
    return row.model_copy(update=changes)


def images(params: Params, model: str) -> torch.Tensor:
    return tiny.pictures(5, params.models[model].input_size)


def session(graph: onnx_graph.Graph, row: OnnxRuntimePrecision) -> ort.Network:
    return ort.Network(graph, ort.options_of(row))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).min())


@present
@pytest.mark.parametrize("model", tiny.CONFIGS)
def test_outputs_agree_with_torch_at_every_batch_size(
    model: str, study: tuple[Project, Params], networks: dict[str, nn.Module], graphs: dict[Any, onnx_graph.Graph]
) -> None:
    _, params = study
    for name, floor in zip(ROWS, FLOORS, strict=True):
        net = session(graphs[model, name], row_of(params, name))
        for count in (1, 2, 5):  # the graph was made with two
            pixels = images(params, model)[:count]
            with torch.inference_mode():
                expected, found = networks[model](pixels), net(pixels)
            assert found.last_hidden_state.shape == expected.last_hidden_state.shape
            assert cosine(found.last_hidden_state, expected.last_hidden_state) > floor
            if expected.get("pooler_output") is not None:
                assert cosine(found.pooler_output, expected.pooler_output) > floor


@present
@pytest.mark.parametrize("name", ROWS[1:])
@pytest.mark.parametrize("model", tiny.CONFIGS)
def test_every_linear_layer_is_quantised_by_channel_and_runs_so(
    model: str,
    name: str,
    study: tuple[Project, Params],
    networks: dict[str, nn.Module],
    graphs: dict[Any, onnx_graph.Graph],
) -> None:
    _, params = study
    net = session(graphs[model, name], row_of(params, name))
    proof = convert.prove(net, row_of(params, name), "cpu")
    linear = [one for one in networks[model].modules() if isinstance(one, nn.Linear)]
    assert proof.quantized_modules == len(linear)
    assert proof.dtypes["int8"] >= sum(one.weight.numel() for one in linear)  # and zero points
    assert proof.skipped_modules  # the patches' convolution
    assert {"onnxruntime", "per_channel", "intra_op_threads"} <= set(proof.knobs)
    with ort.ENGINE.watch(net) as kernels:
        net(images(params, model)[:1])
    assert sum(kernels().values()) == len(linear)


@present
def test_a_float_graph_holds_the_models_own_numbers(
    study: tuple[Project, Params], networks: dict[str, nn.Module], graphs: dict[Any, onnx_graph.Graph]
) -> None:
    row = row_of(study[1], "fp32_onnxruntime")
    net = session(graphs["tiny-vit", "fp32_onnxruntime"], row)
    proof = convert.prove(net, row, "cpu")
    own = sum(parameter.numel() for parameter in networks["tiny-vit"].parameters())
    assert (proof.quantized_modules, proof.quantized_share) == (0, 0.0)
    assert own * 0.97 < proof.dtypes["float32"] <= own  # biases that are equal, here all zero, are kept once
    assert "int8" not in proof.dtypes
    stored, file = ort.ENGINE.bytes_of(net)
    assert stored == pytest.approx(4 * own, rel=0.03)
    assert stored < file


@present
def test_quantised_weights_are_the_models_own(
    networks: dict[str, nn.Module], graphs: dict[Any, onnx_graph.Graph]
) -> None:
    held = graphs["tiny-vit", "int8_onnxruntime"].initialisers()
    own = [one.weight.detach().numpy() for one in networks["tiny-vit"].modules() if isinstance(one, nn.Linear)]
    for weight in own:
        restored = [
            found * held[f"{name.removesuffix('_quantized')}_scale"]
            for name, found in held.items()
            if found.dtype == np.int8 and found.shape == weight.T.shape
        ]
        assert min(float(np.abs(one.T - weight).max() / np.abs(weight).max()) for one in restored) < 0.01


@present
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"per_channel": False}, "MatMul.* is int8 with a scale an output, asked was int8 with one scale"),
        ({"reduce_range": True}, "the largest weight is of 8 bit, asked was of 7 bit"),
        ({"weights": "float32"}, "MatMul.* is quantised, asked was float32"),
    ],
    ids=lambda one: str(one),
)
def test_a_graph_that_is_not_what_the_row_says_fails_the_proof(
    changes: dict[str, Any], says: str, study: tuple[Project, Params], graphs: dict[Any, onnx_graph.Graph]
) -> None:
    _, params = study
    net = session(graphs["tiny-vit", "int8_onnxruntime"], row_of(params, "int8_onnxruntime"))
    with pytest.raises(StudyError, match=f"precision onnxruntime: .*{says}"):
        convert.prove(net, row_of(params, "int8_onnxruntime", **changes), "cpu")


@present
def test_static_int8_is_not_taken_for_dynamic_and_needs_an_image(
    study: tuple[Project, Params], networks: dict[str, nn.Module], graphs: dict[Any, onnx_graph.Graph]
) -> None:
    dynamic, static = (row_of(study[1], name) for name in ROWS[1:])
    for name, row in (("int8_onnxruntime", static), (STATIC, dynamic)):
        with pytest.raises(StudyError, match="no product is quantised"):
            convert.prove(session(graphs["tiny-vit", name], row), row, "cpu")
    net = copy.deepcopy(networks["tiny-vit"])
    del net.calibration_image
    with pytest.raises(StudyError, match="static INT8: no image to calibrate this network on; use"):
        convert.convert(net, static, "cpu")


@present
def test_what_stays_between_products_of_static_int8_is_in_floats(graphs: dict[Any, onnx_graph.Graph]) -> None:
    nodes = graphs["tiny-vit", STATIC].message().graph.node
    codes = {node.output[0] for node in nodes if node.op_type == "QuantizeLinear"}
    quantised = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in codes}
    assert quantised
    fed = {node.op_type for node in nodes if quantised & set(node.input)}
    assert fed <= {"MatMul", "Gemm", "Shape"}  # which reads no numbers


@present
def test_auto_takes_7_bit_where_the_processor_needs_it_and_a_wrong_product_is_no_cell(
    study: tuple[Project, Params], networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "isa", lambda: ("avx2",))
    row, net = row_of(study[1], STATIC), networks["tiny-vit"]
    assert convert.proved(net, row, "cpu").proof.knobs["reduce_range"] is True  # type: ignore[union-attr]
    monkeypatch.setattr(ort, "_product", lambda left, right: left @ right)  # wraps around
    with pytest.raises(NotImplementedError, match="integer products of ONNX Runtime are wrong"):
        convert.convert(net, row, "cpu")


@present
def test_a_precision_that_quantises_nothing_fails_the_proof(
    study: tuple[Project, Params], networks: dict[str, nn.Module], graphs: dict[Any, onnx_graph.Graph]
) -> None:
    row = row_of(study[1], "int8_onnxruntime")
    with pytest.raises(StudyError, match="no product is quantised, asked was int8"):
        convert.prove(session(graphs["tiny-vit", "fp32_onnxruntime"], row), row, "cpu")
    with pytest.raises(StudyError, match="no graph"):
        convert.prove(networks["tiny-vit"], row, "cpu")


@present
@pytest.mark.parametrize("changes", [{"per_channel": False}, {"reduce_range": True}], ids=lambda one: str(one))
def test_a_rows_knobs_reach_the_graph(
    changes: dict[str, Any], study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    _, params = study
    row = row_of(params, "int8_onnxruntime", **changes)
    graph = onnx_graph.export(networks["tiny-vit"], row, images(params, "tiny-vit")[:2])
    assert convert.prove(session(graph, row), row, "cpu").quantized_modules == LINEAR["tiny-vit"]


@present
def test_session_options_reach_the_runtime(study: tuple[Project, Params], graphs: dict[Any, onnx_graph.Graph]) -> None:
    """More optimisation leaves fewer nodes to run; the outputs stay."""
    graph, pixels = graphs["tiny-vit", "fp32_onnxruntime"], images(study[1], "tiny-vit")
    nets = [
        ort.Network(graph, ort.Options(1, graph_optimization="disable")),
        ort.Network(graph, ort.Options(1)),
        ort.Network(graph, ort.Options(2, 2, "parallel", spinning=False)),
    ]
    counts = [net.kernels(pixels).total() for net in nets]
    assert counts[0] > counts[1] == counts[2]
    first, *others = (net(pixels).last_hidden_state for net in nets)
    assert all(torch.allclose(first, other, atol=1e-4) for other in others)


@present
def test_nothing_is_left_behind(
    study: tuple[Project, Params], networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    row = row_of(study[1], "int8_onnxruntime")
    graph = onnx_graph.export(networks["tiny-vit"], row, images(study[1], "tiny-vit")[:2])
    assert list(tmp_path.iterdir()) == []

    class Broken(nn.Module):
        def forward(self, pixels: torch.Tensor) -> Any:
            raise MemoryError("no memory")

    with pytest.raises(Exception, match="no memory"):
        onnx_graph.export(Broken(), row, images(study[1], "tiny-vit")[:2])
    assert list(tmp_path.iterdir()) == []
    left = tmp_path / f"{onnx_graph.SCRATCH}{2**22 + 1}-abc"  # by a process that is no more
    (left / "exported").mkdir(parents=True)
    ours = tmp_path / f"{onnx_graph.SCRATCH}{os.getpid()}-abc"
    ours.mkdir()
    with onnx_graph.scratch() as folder:
        assert sorted(tmp_path.iterdir()) == sorted([ours, folder])
    assert list(tmp_path.iterdir()) == [ours]
    assert session(graph, row)(images(study[1], "tiny-vit")).last_hidden_state.isfinite().all()  # files are gone


@present
def test_a_classifier_keeps_its_logits(study: tuple[Project, Params]) -> None:
    """What the accuracy of a trained network is taken from."""
    from visionquant.accuracy import training

    params = study[1]
    net = training.build_network(params.training.networks["tiny-digits"], 0)
    pixels = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    row = row_of(params, "int8_onnxruntime")
    expected = net(pixels).logits
    converted = convert.convert(copy.deepcopy(net), row, "cpu")
    assert convert.prove(converted, row, "cpu").quantized_modules > 0
    assert training.logits_of(converted, pixels, convert.dtype_of(row, "cpu")).shape == (3, 10)
    assert cosine(converted(pixels).logits, expected.detach()) > FLOORS[1]


@present
def test_static_int8_is_served(study: tuple[Project, Params]) -> None:
    from visionquant.accuracy.model_source import open_model
    from visionquant.deploy.predictor import Predictor

    checkpoint.download(*study, "tiny-vit")
    proof = Predictor(open_model(*study, "tiny-vit"), STATIC).conversion
    assert proof.quantized_modules == sum((proof.kernels or {}).values()) == LINEAR["tiny-vit"]


def ready(root: Path, precisions: tuple[str, ...]) -> tuple[Project, Params]:
    project, params = tiny.project(root, tiny.settings(("tiny-vit",), precisions))
    machine.declare(project, machine.probe("cpu"))
    checkpoint.download(project, params, "tiny-vit")
    return project, params


@present
@pytest.mark.parametrize("precision", ROWS)
def test_a_whole_pair_is_measured_into_a_record(precision: str, tmp_path: Path) -> None:
    project, params = ready(tmp_path, ("fp32", precision))
    record = tiny.measure(project, params, "tiny-vit", precision)
    assert records.read(project.record("tiny-vit", precision)) == record
    assert [cell.batch_size for cell in record.cells] == [1, 2]
    assert {cell.status for cell in record.cells} <= tiny.MEASURED
    assert record.conversion is not None
    assert record.conversion.quantized_modules == (0 if precision == "fp32_onnxruntime" else LINEAR["tiny-vit"])
    assert record.conversion.knobs["intra_op_threads"] == params.protocol.threads
    assert record.fidelity is not None
    assert record.fidelity.cosine is not None
    assert record.fidelity.cosine > 0.99
    assert record.operations is not None
    assert 20 < record.operations < 200
    assert record.size is not None
    assert record.size.stored_weights < record.size.file_bytes


@pytest.mark.parametrize("package", ["onnxruntime", "onnx"])
def test_where_it_is_absent_cells_are_unsupported_and_the_rest_goes_on(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    project, params = ready(tmp_path, ("fp32", "int8_onnxruntime"))
    sampling.sample(project, params, Matrix.of(params, ["tiny-vit"], ["fp32", "int8_onnxruntime"], [1]))
    base, absent = (records.write(project.record("tiny-vit", name)) for name in ("fp32", "int8_onnxruntime"))
    assert base.cells[0].status in tiny.MEASURED
    assert [cell.status for cell in absent.cells] == ["unsupported"]
    assert 'pip install --editable ".[onnx]"' in absent.cells[0].reason
    assert absent.conversion is None
    with pytest.raises(StudyError, match=r"not installed: pip install"):
        convert.convert(nn.Linear(1, 1), row_of(params, "int8_onnxruntime"), "cpu")


def test_on_a_gpu_it_says_that_it_runs_on_a_cpu() -> None:
    assert "CPU" in convert.backend_of("ort").unsupported("cuda")
