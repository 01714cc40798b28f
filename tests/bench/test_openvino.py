"""OpenVINO as a precision, on live networks of every family: as FP32 says, quantised, measured, and absent."""

import copy
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from visionquant.bench import loading, sampling
from visionquant.bench.backends import convert, integer_product, openvino
from visionquant.bench.command import Matrix
from visionquant.core import machine, processors
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.settings.params import Params
from visionquant.weights import checkpoint

WHY = convert.backend_of("openvino").unsupported("cpu")
present = pytest.mark.skipif(bool(WHY), reason=WHY)
bf16 = pytest.mark.skipif(not set(openvino.BF16) & set(processors.isa()), reason="needs a CPU with BF16 instructions")
FLOORS = {"fp32_openvino": 1 - 1e-6, "int8_openvino": 0.9, "bf16_openvino": 0.99, "int8_openvino_bf16": 0.9}
PAIRS = [("tiny-vit", name) if "bf16" not in name else pytest.param("tiny-vit", name, marks=bf16) for name in FLOORS]
PAIRS += [(model, "int8_openvino") for model in ("tiny-mobilevit", "tiny-beit")]
KERNELS = "FullyConnected"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    return tiny.project(tmp_path_factory.mktemp("study"), tiny.settings(tuple(tiny.CONFIGS), ("fp32", *FLOORS)))


@pytest.fixture(scope="module")
def networks(study: tuple[Project, Params]) -> dict[str, nn.Module]:
    project, params = study
    return {
        model: loading.seeded(project, model, params.models[model], "sdpa", params.protocol.seed)
        for model in params.study.models
    }


def images(params: Params, model: str) -> torch.Tensor:
    return tiny.pictures(5, params.models[model].input_size)


KEPT: dict[tuple[str, str], nn.Module] = {}


def kept(params: Params, networks: dict[str, nn.Module], model: str, name: str) -> nn.Module:
    """As :func:`converted`, once for all tests."""
    if (model, name) not in KEPT:
        KEPT[model, name] = converted(params, networks, model, name)
    return KEPT[model, name]


def converted(params: Params, networks: dict[str, nn.Module], model: str, name: str) -> nn.Module:
    row, net = params.precisions[name], copy.deepcopy(networks[model])
    openvino.ENGINE.plant_outliers(net, row, images(params, model)[:1])
    return convert.convert(net, row, "cpu")


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).min())


def ready(root: Path, precisions: tuple[str, ...]) -> tuple[Project, Params]:
    project, params = tiny.project(root, tiny.settings(("tiny-vit",), precisions))
    machine.declare(project, machine.probe("cpu"))
    checkpoint.download(project, params, "tiny-vit")
    return project, params


@present
@pytest.mark.parametrize("precision", ["fp32_openvino", "int8_openvino"])
def test_a_whole_pair_is_measured_into_a_record(precision: str, tmp_path: Path) -> None:
    project, params = ready(tmp_path, ("fp32", precision))
    record = tiny.measure(project, params, "tiny-vit", precision)
    assert {cell.status for cell in record.cells} <= tiny.MEASURED
    assert record.conversion is not None
    assert bool(record.conversion.quantized_modules) is bool(record.conversion.kernels) is ("int8" in precision)
    assert record.conversion.knobs["threads"] == params.protocol.threads
    seconds: Any = [record.conversion.knobs[name] for name in ("export_s", "compile_s")]
    assert all(one > 0 for one in seconds)
    assert record.fidelity is not None
    assert record.fidelity.cosine is not None
    assert record.fidelity.cosine > FLOORS[precision]
    assert record.operations is not None
    assert record.operations > 10


@present
@pytest.mark.parametrize(("model", "name"), PAIRS)
def test_outputs_agree_with_torch_at_every_batch_size(
    model: str, name: str, study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    params = study[1]
    net = kept(params, networks, model, name)
    proof = convert.prove(net, params.precisions[name], "cpu")
    linear = [one for one in networks[model].modules() if isinstance(one, nn.Linear)]
    quantised = "int8" in name
    assert (proof.quantized_modules >= len(linear)) is quantised
    assert ("int8" in proof.dtypes) is quantised
    assert "float16" not in proof.dtypes  # which a saved model loses its weights to by default
    with openvino.ENGINE.watch(net) as kernels:
        for count in (1, 2, 5):  # the graph was made with two
            pixels = images(params, model)[:count]
            with torch.inference_mode():
                expected, found = networks[model](pixels), net(pixels)
            assert found.last_hidden_state.shape == expected.last_hidden_state.shape
            floor = 0.7 if model == "tiny-mobilevit" else FLOORS[name]  # NNCF takes its many convolutions too
            assert cosine(found.last_hidden_state, expected.last_hidden_state) > floor
    integer = {kernel: count for kernel, count in kernels().items() if kernel.startswith(KERNELS)}
    assert bool(integer) is quantised


@present
def test_a_graph_keeps_what_it_gave_and_is_made_anew_where_it_is_unpickled(
    study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    params = study[1]
    net, pixels = kept(params, networks, "tiny-vit", "fp32_openvino"), images(params, "tiny-vit")
    first = net(pixels[:1]).last_hidden_state
    before = first.clone()
    net(pixels[1:2])
    assert torch.equal(first, before)  # no later pass writes over it
    assert torch.equal(pickle.loads(pickle.dumps(net))(pixels[:1]).last_hidden_state, before)
    with pytest.raises(StudyError, match="feed the size exported"):
        net(torch.zeros(1, 3, 16, 16))


@present
@pytest.mark.parametrize(
    ("made", "asked", "says"),
    [
        ("fp32_openvino", "int8_openvino", "the graph is floats run by other kernels, asked was INT8 run by integer"),
        ("int8_openvino", "fp32_openvino", "is int8, asked was float32"),
        ("fp32_openvino", "bf16_openvino", "the rest is f32, asked was bf16"),
    ],
)
def test_a_graph_that_is_not_what_the_row_says_fails_the_proof(
    made: str, asked: str, says: str, study: tuple[Project, Params], networks: dict[str, nn.Module]
) -> None:
    net = kept(study[1], networks, "tiny-vit", made)
    with pytest.raises(StudyError, match=f"precision openvino: .*{says}"):
        convert.prove(net, study[1].precisions[asked], "cpu")
    with pytest.raises(StudyError, match="no graph of OpenVINO"):
        convert.prove(networks["tiny-vit"], study[1].precisions[asked], "cpu")


@present
def test_weights_have_7_bit_where_the_processor_needs_it(
    study: tuple[Project, Params], networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kept(study[1], networks, "tiny-vit", "int8_openvino")
    monkeypatch.setattr(processors, "isa", lambda: ("avx2",))
    row = study[1].precisions["int8_openvino"]
    reduced = converted(study[1], networks, "tiny-vit", "int8_openvino")
    assert convert.prove(reduced, row, "cpu").knobs["reduce_range"] is True
    with pytest.raises(StudyError, match="the largest weight is of 8 bit, asked was of 7 bit"):
        convert.prove(whole, row, "cpu")
    with pytest.raises(NotImplementedError, match="no BF16 instructions"):
        converted(study[1], networks, "tiny-vit", "bf16_openvino")


@present
def test_static_int8_needs_an_image(study: tuple[Project, Params], networks: dict[str, nn.Module]) -> None:
    with pytest.raises(StudyError, match="static INT8: no image to calibrate"):
        convert.convert(copy.deepcopy(networks["tiny-vit"]), study[1].precisions["int8_openvino"], "cpu")


@present
def test_an_integer_product_that_is_wrong_is_no_cell(
    study: tuple[Project, Params], networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    integer_product.require_exact("OpenVINO", openvino._product, integer_product.keeps_7_bit())
    monkeypatch.setattr(openvino, "_product", lambda left, right: left @ right)  # wraps around
    with pytest.raises(NotImplementedError, match="integer products of OpenVINO are wrong"):
        converted(study[1], networks, "tiny-vit", "int8_openvino")


@pytest.mark.parametrize("package", ["openvino", "nncf"])
def test_where_it_is_absent_cells_are_unsupported_and_the_rest_goes_on(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    project, params = ready(tmp_path, ("fp32", "int8_openvino"))
    sampling.sample(project, params, Matrix.of(params, ["tiny-vit"], ["fp32", "int8_openvino"], [1]))
    base, absent = (records.write(project.record("tiny-vit", name)) for name in ("fp32", "int8_openvino"))
    assert base.cells[0].status in tiny.MEASURED
    assert [cell.status for cell in absent.cells] == ["unsupported"]
    assert 'pip install --editable ".[openvino]"' in absent.cells[0].reason
