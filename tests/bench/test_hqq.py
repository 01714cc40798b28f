"""HQQ's layers against the weights that they were made of; without the library one line says what to install."""

import copy
from importlib.util import find_spec

import pytest
import tiny
import torch
from torch import nn

from visionquant.bench.backends import convert, hqq
from visionquant.core.errors import StudyError
from visionquant.settings.params import parse
from visionquant.settings.precision import HqqPrecision, Precision

PARAMS = parse(tiny.settings())
ROWS = {bits: PARAMS.precisions[f"hqq{bits}"] for bits in (4, 3, 2)}
installed = pytest.mark.skipif(
    not find_spec("hqq"), reason="HQQ is not installed: pip install --requirement requirements-hqq.lock"
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Identity(), nn.Linear(128, 10)).eval()


def converted(row: Precision) -> nn.Module:
    return convert.convert(network(), row, "cpu")


def test_without_the_library_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hqq, "find_spec", lambda _: None)
    with pytest.raises(StudyError, match=r"^precision hqq: HQQ is not installed: pip install .*\[hqq\]"):
        converted(ROWS[3])


@installed
def test_fewer_bits_are_fewer_bytes_and_farther_from_the_weights() -> None:
    errors, sizes = [], []
    for row in ROWS.values():
        net, exact = converted(row), network()
        layer, weight = net[0], exact[0].weight.detach()
        assert isinstance(layer, hqq.HqqLinear)
        errors.append(float((layer.weight().float() - weight).pow(2).mean() / weight.pow(2).mean()))
        sizes.append(layer.codes.untyped_storage().nbytes())
        inputs = torch.randn(5, 64, dtype=torch.bfloat16)
        with torch.inference_mode():
            expected = inputs @ layer.weight().T + layer.bias
            assert torch.allclose(layer(inputs), expected, atol=0.02)
    assert errors == sorted(errors)
    assert errors[0] < 0.01 < errors[2] < 0.3
    assert sizes[0] == 64 * 128 // 2
    assert sizes[2] == 64 * 128 // 4
    assert sizes[0] > sizes[1] > sizes[2]  # ten codes of three bits in 32


@installed
def test_the_proof_reads_the_codes() -> None:
    net = converted(ROWS[3])
    proof = convert.prove(net, ROWS[3], "cpu")
    assert (proof.quantized_modules, proof.skipped_modules) == (2, ())
    assert proof.knobs["bits"] == 3
    assert 0.95 < proof.quantized_share < 1
    asked = ROWS[3].model_copy(update={"group_size": 32})
    with pytest.raises(StudyError, match="0 is 3 bit in groups of 64, asked was 3 bit in groups of 32"):
        convert.prove(net, asked, "cpu")
    with pytest.raises(StudyError, match="3 bit in groups of 64, asked was 2 bit"):
        convert.prove(net, ROWS[2], "cpu")
    with pytest.raises(StudyError, match="no layer is quantised, asked was 3 bit"):
        convert.prove(network().bfloat16(), ROWS[3], "cpu")


@installed
def test_what_can_not_be_grouped_and_what_is_skipped_altogether_are_refused() -> None:
    row = HqqPrecision.model_validate(ROWS[4].model_dump() | {"group_size": 4096})
    with pytest.raises(StudyError, match=r"3 has 1280 weights, no multiple of 4096; set another group_size"):
        converted(row)
    with pytest.raises(StudyError, match="no Linear layer was quantised, of 2 in the model; shorten `skip`"):
        converted(row.model_copy(update={"skip": ("0", "3")}))


@installed
def test_a_converted_network_is_copied_and_moved_as_a_whole() -> None:
    net, inputs = converted(ROWS[2]), torch.randn(3, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = net(inputs)
        assert torch.equal(copy.deepcopy(net).to("cpu")(inputs), expected)
    stored, file = convert.backend_of("hqq").bytes_of(net)
    assert stored <= file < stored + 2000
