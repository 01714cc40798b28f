"""The page on slow INT8: parts, rates against peaks, engines against the fastest FP32, and answers made of records."""

from pathlib import Path

import made
import pytest

from visionquant.analysis.study import Study, gather
from visionquant.records import outcomes
from visionquant.records.outcomes import Recipe
from visionquant.report import int8_answers, int8_facts
from visionquant.report.columns import recipe_tables
from visionquant.report.pages import int8_page
from visionquant.settings import params as parameters

MODEL = "vit-base-224-production"
FACTORS = {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 4.0}
SHARES = {
    "fp32": {"float products": 0.75, "attention": 0.25},
    "int8": {"integer products": 0.25, "quantise the inputs": 0.5, "casts and calls of the layers": 0.25},
}


def run_of() -> Recipe:
    """FP32's products at half of their peak in 100 ms, INT8's at a tenth in 200 ms."""
    rows = []
    for name, ms in (("fp32", 100.0), ("int8", 200.0)):
        own = {"model": MODEL, "weights": "seeded", "batch_size": 1, "precision": name}
        speedup = 100.0 / ms
        rows.append({"kind": "pass", **own, "ms": ms, "speedup": speedup, "cosine": 0.99, "rate": 20.0})
        for part, share in SHARES[name].items():
            rate = {"float products": 50.0, "integer products": 40.0}.get(part)
            rows.append({"kind": "part", **own, "part": part, "ms": share * ms, "share": share, "rate": rate})
    for name, peak in (("fp32", 100.0), ("int8", 400.0)):
        rows.append({"kind": "peak", "precision": name, "part": "matrix product", "ms": 1.0, "rate": peak})
    keys = dict.fromkeys(key for row in rows for key in row)
    whole = tuple({key: row.get(key) for key in keys} for row in rows)
    return Recipe(
        name="profile", command="visionquant recipe profile", weights="pretrained and seeded",
        environment=made.CPU, elapsed_s=1.0, rows=whole,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = made.study(tmp_path_factory.mktemp("study"), FACTORS)
    outcomes.write_recipe(found.project, run_of(), found.params)
    return gather(found.project, found.params)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Study:
    project = made.project(tmp_path_factory.mktemp("empty"))
    return gather(project, parameters.load(project))


def test_products_stand_against_the_peak_of_their_number_format(study: Study) -> None:
    (table,) = recipe_tables(study, int8_page.PRODUCTS)
    headings = [f"{column.group} {column.heading}".strip() for column in table.columns]
    rows = [dict(zip(headings, (item.text for item in row), strict=True)) for row in table.rows]
    assert [(row["Precision"], row["products"], row["products of the pass, %"]) for row in rows] == [
        ("FP32", "float products", "75"),
        ("INT8", "integer products", "25"),
    ]
    assert [row["of the peak, % products"] for row in rows] == ["50", "10"]
    assert [row["of the peak, % whole pass"] for row in rows] == ["20", "5"]


def test_the_figure_has_a_bar_of_parts_for_each_precision(study: Study) -> None:
    found = int8_page.time_figure(study)
    assert f"{MODEL}, batch 1" in found.svg
    assert "seeded weights" in found.source
    assert all(part in found.svg for part in int8_page.COLOURS)


def test_engines_stand_fastest_first_with_both_ratios(study: Study) -> None:
    table = int8_page.engines(study, study.measured, 1)
    rows = [[item.text for item in row] for row in table.rows if row[0].text == MODEL]
    assert [(row[1], row[3], row[4]) for row in rows] == [
        ("FP16", "2.00", "2.00"),
        ("FP32", "1.00", "1.00"),
        ("INT8", "0.50", "0.50"),
        ("NF4", "0.25", "0.25"),
    ]
    macs = study.measured.records[MODEL, "int8"].size
    assert macs is not None
    ms = study.value(study.measured.source, MODEL, "int8", 1, "latency_median")
    assert ms is not None
    assert rows[2][5] == f"{100 * macs.macs / ms / 1e6 / 400:.0f}"
    assert rows[3][5] == "—"  # no peak of BF16


@pytest.mark.parametrize(
    ("precision", "kind"),
    [
        ("fp32", "fp32"),
        ("fp16", "fp16"),
        ("bf16", "bf16"),
        ("int8", "int8"),
        ("nf4", "bf16"),
        ("fp32_onnxruntime", "fp32"),
        ("int8_onnxruntime_static", "int8"),
        ("fp32_openvino", "fp32"),
        ("bf16_openvino", "bf16"),
        ("int8_openvino_bf16", "int8"),
    ],
)
def test_each_row_asks_for_one_arithmetic(study: Study, precision: str, kind: str) -> None:
    assert int8_facts.number_format(study.params.precisions[precision], "cpu") == kind


def test_answers_are_made_of_records(study: Study) -> None:
    found = int8_answers.answers(study)
    assert found["Where does bitsandbytes' INT8 spend its time?"] == (
        "On Made-up CPU CPU, 2 cores, torch 2.13.0, one image at a time, of a pass in bitsandbytes' INT8 of "
        f"{MODEL} (seeded weights, 0.50 times FP32's speed) 25 % is integer products, 50 % quantising inputs, "
        "25 % casts and calls."
    )
    assert found["What is fast instead?"].startswith(
        "The fastest of what was measured on Made-up CPU CPU, 2 cores, torch 2.13.0, one image at a time: "
        f"FP16 for {MODEL} (seeded weights), 2.00 times torch's FP32"
    )
    assert found["What is fast instead?"].endswith("cosine 0.9900, bitsandbytes' INT8 0.50.")


def test_without_evidence_nothing_is_answered_and_the_command_is_named(bare: Study, tmp_path: Path) -> None:
    assert int8_answers.answers(bare) == {}
    assert int8_answers.questions(bare).rows == ()
    found = int8_page.time_figure(bare)
    assert "visionquant recipe profile" in found.source
    assert "nothing to show" in found.svg
    assert int8_page.engines(bare, bare.measured, 1).rows == ()
