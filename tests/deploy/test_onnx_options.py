"""The recipe on a tiny network: every contestant runs, agrees, and stands in the table with both of its ratios."""

import sys
from dataclasses import asdict
from pathlib import Path

import made
import pytest
import tiny
import torch

from visionquant.analysis.study import Study, gather
from visionquant.bench import loading
from visionquant.bench.backends import convert
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.recipes import onnxruntime
from visionquant.records import outcomes
from visionquant.records.outcomes import Recipe
from visionquant.report import columns
from visionquant.report.pages import guide_page

present = pytest.mark.skipif(
    bool(convert.backend_of("ort").unsupported("cpu")), reason="needs ONNX Runtime: pip install --editable '.[onnx]'"
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, outcomes.Value]]:
    project, params = tiny.project(tmp_path_factory.mktemp("study"), tiny.settings())
    spec, threads = params.models["tiny-vit"], torch.get_num_threads()
    net = loading.seeded(project, "tiny-vit", spec, "sdpa", 0)
    images = tiny.pictures(4, spec.input_size)
    with torch.inference_mode():
        found = list(onnxruntime.time_variants(onnxruntime.engine_variants(params, net, images), images, {1: 3, 2: 2}))
    torch.set_num_threads(threads)
    return found


def evidence(root: Path, rows: list[dict[str, outcomes.Value]]) -> Study:
    study = made.study(root, {"fp32": 1.0, "fp16": 1.0, "int8": 1.0, "nf4": 1.0})
    project = Project(root)
    recipe = Recipe(
        name="onnxruntime",
        command="made up",
        weights="seeded",
        environment=made.CPU,
        elapsed_s=1.0,
        rows=tuple(rows),
    )
    outcomes.write_recipe(project, recipe, study.params)
    return gather(project, study.params)


@present
def test_every_variant_is_timed_in_turns_and_agrees_with_fp32(rows: list[dict[str, outcomes.Value]]) -> None:
    assert len({(row["batch_size"], guide_page._variant(row)) for row in rows}) == len(rows)
    assert {row["precision"] for row in rows} == {"fp32", "fp32_onnxruntime", "int8", "int8_onnxruntime"}
    for batch_size in (1, 2):
        field = [row for row in rows if row["batch_size"] == batch_size]
        assert [row["is_fastest_fp32"] for row in field].count(1) == 1
        assert field[0]["precision"] == "fp32"
        assert field[0]["speedup_over_torch_fp32"] == 1.0
        (fastest,) = [row for row in field if row["is_fastest_fp32"]]
        assert fastest["precision"] in ("fp32", "fp32_onnxruntime")
        assert fastest["speedup_over_fastest_fp32"] == 1.0
        for row in field:
            low, median, high = (row[f"latency{part}_ms"] for part in ("_lowest", "", "_highest"))
            assert isinstance(low, float)
            assert isinstance(median, float)
            assert isinstance(high, float)
            assert 0 < low <= median <= high
    for row in rows:
        assert isinstance(row["cosine"], float)
        assert row["cosine"] > (1 - 1e-5 if str(row["precision"]).startswith("fp32") else 0.97)


def test_one_option_is_changed_at_a_time() -> None:
    first, *others = map(asdict, onnxruntime.session_options(2))
    assert [sum(one[key] != first[key] for key in first) for one in others] == [1, 1, 2, 1]  # branches want a mode
    assert len(onnxruntime.session_options(1)) == 2


@present
def test_table_and_figure_show_what_was_kept(rows: list[dict[str, outcomes.Value]], tmp_path: Path) -> None:
    found = evidence(tmp_path / "study", rows)
    (table,) = columns.recipe_tables(found, guide_page.ONNXRUNTIME)
    assert len(table.rows) == len(rows)
    assert {(row[1].text, row[2].text) for row in table.rows} >= {("INT8", "torch"), ("INT8", "ONNX Runtime")}
    drawn = guide_page.onnxruntime_figure(found)
    assert "INT8, ONNX Runtime, " in drawn.svg
    assert "Made-up CPU" in drawn.source


def test_without_a_run_table_and_figure_say_so(tmp_path: Path) -> None:
    found = made.study(tmp_path / "study", {"fp32": 1.0, "fp16": 1.0, "int8": 1.0, "nf4": 1.0})
    (table,) = columns.recipe_tables(found, guide_page.ONNXRUNTIME)
    assert table.rows == ()
    assert "visionquant recipe onnxruntime" in table.source
    assert "nothing to show" in guide_page.onnxruntime_figure(found).svg


def test_without_onnx_runtime_the_recipe_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    project, params = tiny.project(tmp_path, tiny.settings())
    with pytest.raises(StudyError, match=r"recipe onnxruntime: ONNX Runtime is not installed; pip install"):
        onnxruntime.run(project, params, made.CPU)
