"""A pass taken apart: parts that add up, work that is counted, and a name for what each operation is for."""

import pytest
import tiny
import torch
from torch import nn

from visionquant.analysis import study as evidence
from visionquant.bench import op_count
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.recipes import profile
from visionquant.records import outcomes
from visionquant.records.outcomes import Recipe
from visionquant.report.columns import recipe_tables
from visionquant.report.pages import int8_page
from visionquant.settings import params as parameters
from visionquant.settings.params import Params
from visionquant.weights.checkpoint import download

pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    project, params = tiny.project(tmp_path_factory.mktemp("study"))
    download(project, params, "tiny-vit")
    return project, params


@pytest.fixture(scope="module")
def found(study: tuple[Project, Params]) -> Recipe:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "SIDE", 64)
        patch.setattr(profile, "COPIED", 2**16)
        return profile.run(*study, machine.probe("cpu"))


def test_the_parts_of_a_pass_add_up_to_it(found: Recipe) -> None:
    passes = [row for row in found.rows if row["kind"] == "pass"]
    assert [(row["batch_size"], row["precision"]) for row in passes] == [
        (size, name) for size in profile.BATCHES for name in profile.PRECISIONS
    ]
    for row in passes:
        same = ("batch_size", "precision")
        parts = [one for one in found.rows if one["kind"] == "part" and all(one[key] == row[key] for key in same)]
        assert sum(float(str(one["share"])) for one in parts) == pytest.approx(1, abs=1e-4)
        assert sum(float(str(one["ms"])) for one in parts) == pytest.approx(row["ms"], rel=1e-4)
        names = {one["part"] for one in parts}
        assert (profile.INTEGER in names) == (profile.SCALE in names) == str(row["precision"]).startswith("int8")
        assert (profile.APART in names) == (row["precision"] == "int8")
        assert {profile.FLOATS, profile.ATTENTION, profile.REST} <= names
    assert {row["weights"] for row in passes} == {"seeded"}
    assert [row["speedup"] for row in passes if row["precision"] == "fp32"] == [1.0, 1.0]
    assert all(0.99 < float(str(row["cosine"])) <= 1 for row in passes)


def test_rates_are_of_the_work_that_each_kind_of_product_does(found: Recipe) -> None:
    rows = [row for row in found.rows if row["kind"] == "part" and row["batch_size"] == 1]
    work = {
        (row["precision"], row["part"]): float(str(row["rate"])) * float(str(row["ms"])) * 1e6
        for row in rows
        if row["rate"] is not None
    }
    embedding = 16 * 64 * 3 * 8 * 8  # patches, features, and what a patch holds
    quantised = 2 * 17 * (4 * 64 * 64 + 2 * 64 * 128)  # of two layers, over seventeen tokens
    pooler = 64 * 64
    assert work["fp32", profile.FLOATS] == pytest.approx(embedding + quantised + pooler, rel=1e-4)
    assert work["int8", profile.FLOATS] == pytest.approx(embedding + pooler, rel=1e-4)
    assert work["int8", profile.INTEGER] == pytest.approx(quantised, rel=1e-4)


def test_the_work_of_layers_is_all_but_attention(study: tuple[Project, Params]) -> None:
    net = profile.open_model(*study, "tiny-vit").build("eager")
    attention = 2 * 2 * 17 * 17 * 64
    counted = sum(profile._macs(net, torch.zeros(1, 3, 32, 32)).values())
    assert counted == op_count.macs(net, (3, 32, 32)) - attention


def test_peaks_are_rates_of_this_machine(found: Recipe) -> None:
    peaks = [row for row in found.rows if row["kind"] == "peak"]
    assert [(row["precision"], row["part"]) for row in peaks] == [
        *((name, "matrix product") for name in profile.NUMBERS),
        (None, "memory copy"),
    ]
    for row in peaks[:-1]:
        assert row["rate"] == pytest.approx(64**3 / float(str(row["ms"])) / 1e6, rel=1e-4)
    assert peaks[-1]["rate"] == pytest.approx(2 * 2**16 / float(str(peaks[-1]["ms"])) / 1e6, rel=1e-4)


def test_a_product_that_torch_lacks_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> None:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(torch, "_int_mm", lacking)
    monkeypatch.setattr(profile, "SIDE", 64)
    monkeypatch.setattr(profile, "COPIED", 2**16)
    rows = list(profile._peaks("cpu"))
    assert [row.get("rate") is None for row in rows if row["precision"] == "int8"] == [True]
    assert [row["why_missing"] for row in rows if row["precision"] == "int8"] == ["no such kernel"]


def test_the_largest_deviation_from_the_mean_is_that_of_the_layer_which_meets_it() -> None:
    norms = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    norms[0].weight.data.fill_(100.0)
    states = torch.tensor([[[0.0, 0.0, 0.0, 8.0], [500.0, 500.0, 500.0, 500.0]]])  # the second token is its own mean
    found = profile._largest_deviation(norms, states)
    assert found["part"] == "1"
    assert found["deviation"] == pytest.approx(100 * 3**0.5, rel=1e-4)  # (8 - 2) over the root mean square


def test_a_model_without_layernorm_or_with_infinite_states_says_so() -> None:
    images = torch.ones(1, 4)
    assert (
        profile._largest_deviation(nn.Sequential(nn.Linear(4, 4)), images)["why_missing"]
        == "the model has no LayerNorm"
    )
    found = profile._largest_deviation(nn.Sequential(nn.LayerNorm(4)), images / 0)
    assert (found["part"], found["deviation"]) == ("0", None)
    assert "not finite" in str(found["why_missing"])


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_outliers_are_a_part_where_the_layer_looks_for_them(threshold: float) -> None:
    import bitsandbytes as bnb  # late: it opens a GPU

    layer = bnb.nn.Linear8bitLt(64, 64, has_fp16_weights=False, threshold=threshold, device="meta")
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    layer.bias = nn.Parameter(torch.zeros(64), requires_grad=False)
    net, images = layer.to("cpu").eval(), torch.ones(8, 64, dtype=torch.bfloat16)
    images[:, 3] = 9.0
    shares = profile._shares(profile._call(net, images), "cpu")
    assert (profile.APART in shares) == (threshold > 0)
    assert {profile.INTEGER, profile.QUANTISE, profile.SCALE, profile.CASTS} <= set(shares)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["aten::_int_mm", "bitsandbytes::int8_linear_matmul", "MatMul8bitLt"], profile.INTEGER),
        (["aten::mm", "aten::matmul", "bitsandbytes::int8_linear_matmul", "MatMul8bitLt"], profile.EMULATED),
        (["aten::copy_", "aten::_to_copy", "aten::to", "bitsandbytes::int8_linear_matmul"], profile.EMULATED),
        (["aten::mul", "bitsandbytes::int8_mm_dequant", "bitsandbytes::int8_scaled_mm", "MatMul8bitLt"], profile.SCALE),
        (["aten::round", "bitsandbytes::int8_vectorwise_quant", "MatMul8bitLt"], profile.QUANTISE),
        (["aten::any", "bitsandbytes::int8_vectorwise_quant", "MatMul8bitLt"], profile.APART),
        (["aten::addmm", "bitsandbytes::int8_mixed_scaled_mm", "MatMul8bitLt"], profile.APART),
        (["bitsandbytes::int8_mixed_scaled_mm", "MatMul8bitLt"], profile.CASTS),
        (["aten::copy_", "aten::to", "MatMul8bitLt"], profile.CASTS),
        (["aten::mkldnn_convolution", "aten::convolution", "aten::conv2d"], profile.FLOATS),
        (["aten::addmm", "aten::linear"], profile.FLOATS),
        (["aten::softmax", "aten::scaled_dot_product_attention"], profile.ATTENTION),
        (["aten::gelu"], profile.REST),
    ],
)
def test_an_operation_belongs_to_what_encloses_it(names: list[str], part: str) -> None:
    assert profile.part_of(names) == part


def test_a_run_is_kept_and_shown(study: tuple[Project, Params], found: Recipe) -> None:
    project, params = study
    outcomes.write_recipe(project, found, params)
    shown = evidence.gather(project, params)
    (products,) = recipe_tables(shown, int8_page.PRODUCTS)
    assert len(products.rows) == len(profile.BATCHES) * len(profile.PRECISIONS)
    (peaks,) = recipe_tables(shown, int8_page.PEAKS)
    assert len(peaks.rows) == len(profile.NUMBERS) + 1
    (norms,) = recipe_tables(shown, int8_page.NORMS)
    ((*_, squared, held),) = ([item.text for item in row] for row in norms.rows)
    (deviation,) = (float(str(row["deviation"])) for row in found.rows if row["kind"] == "norm")
    assert (squared, held) == (f"{deviation**2:,.0f}", "yes")
    assert "integer products" in int8_page.time_figure(shown).svg


def test_a_model_that_is_no_row_is_one_line(study: tuple[Project, Params]) -> None:
    with pytest.raises(StudyError, match=r"report\.profiled: no row named tiny-vitt"):
        parameters.load(study[0], ["report.profiled=[tiny-vitt]"])
