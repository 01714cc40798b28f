"""Figures: drawn from any state of the evidence, the same bytes twice, readable on light and dark ground."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import made
import pytest
from matplotlib.figure import Figure as Drawing

from visionquant.analysis.study import MachineSet, Study, gather
from visionquant.records import outcomes
from visionquant.report import drawing, figure
from visionquant.report.figure import Dot, Figure, Looks
from visionquant.report.pages import (
    accuracy_page,
    claims_page,
    conditions_page,
    guide_page,
    keeping_page,
    latency_page,
    memory_page,
    statistics_page,
)
from visionquant.settings import params

DRAW: list[Callable[[Study, MachineSet], Figure]] = [
    latency_page.latency_figure,
    latency_page.speedup_figure,
    latency_page.throughput_figure,
    memory_page.memory_figure,
    statistics_page.published_against_measured,
    statistics_page.groups_figure,
    accuracy_page.agreement_figure,
    accuracy_page.depth_figure,
    conditions_page.kernels_figure,
    conditions_page.placebo_figure,
    latency_page.roofline_figure,
    claims_page.memory_model_figure,
]


@pytest.fixture(scope="module", params=["measured", "empty"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("study")
    if request.param == "measured":
        return made.study(root, {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 2.0})
    project = made.project(root)
    return gather(project, params.load(project))


@pytest.mark.parametrize("draw", DRAW, ids=lambda draw: f"{draw.__module__.rpartition('.')[2]}-{draw.__name__}")
def test_a_figure_is_drawn_from_what_there_is_and_the_same_twice(
    study: Study, draw: Callable[[Study, MachineSet], Figure]
) -> None:
    found = draw(study, study.measured)
    assert found == draw(study, study.measured)
    assert ElementTree.fromstring(found.svg).tag.endswith("svg")
    assert found.title
    assert found.alt
    assert found.caption
    assert found.source
    assert figure.INK not in found.svg
    assert "currentColor" in found.svg
    assert "prefers-color-scheme" in found.svg
    assert "<dc:date>" not in found.svg


def test_the_data_and_the_words_of_a_figure_are_what_is_drawn() -> None:
    own, measured, published = Looks(()), "FP16 measured", "FP16 published"
    keys = [figure.key(own["fp16"], measured), figure.key(own["fp16"], published, hollow=True)]
    dots = [Dot("a", "fp16", 1.5, 1.25, 2.0), Dot("b", "fp16", 0.5, hollow=True)]
    drawn = figure.dot_plot(dots, ("a", "b"), ("fp16",), own, "times", 2.0, keys, line=1.0)
    assert drawn.csv.splitlines() == [
        "panel,row,series,x,y,low,high",
        f"times,a,{measured},1.5,,1.25,2.0",
        f"times,b,{published},0.5,,,",
    ]
    assert drawn.words == f"{measured} 1.5; {published} 0.5"


def test_a_figure_has_a_form_for_a_phone_with_the_same_marks(tmp_path: Path) -> None:
    def on(panels: Any) -> None:
        for axes, x in zip(panels.flat, (1.0, 2.0, 3.0), strict=False):
            axes.plot([x], [0.0], "o", color="#4477AA")

    apart = figure.draw((9.0, 3.0), on, (1, 3), stacked=(3, 1))
    width, height = (float(value) for value in re.findall(r'(?:width|height)="([0-9.]+)pt"', apart.narrow)[:2])
    assert (width, height) == pytest.approx((72 * drawing.NARROW_IN, 72 * 9.0))
    assert apart.narrow.count("<use ") >= 3
    shown = figure.Figure("three", "Three", "", "", "", apart).save(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["three-narrow.svg", "three.csv", "three.svg"]
    assert 'srcset="../figures/three-narrow.svg"' in shown.html
    assert figure.draw((9.0, 3.0), on, (1, 3)).narrow == ""


def test_no_two_precisions_share_colour_and_marker_whatever_their_names_are(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    found = figure.looks(gather(project, params.load(project)))
    names = ("fp32", "fp16", "int8", "nf4")
    assert len({found[name].colour for name in names}) == len({found[name].marker for name in names}) == 4
    assert len(set(found.values())) == len(found) > 6
    assert {"mixed-attention-fp16", "int8-outliers"} & set(found)
    own = Looks([f"own-{i}" for i in range(50)])
    assert len(set(own.values())) == len(own) == 56
    assert own["never-seen"] not in (look for name, look in own.items() if name != "never-seen")


def test_a_load_without_a_figure_has_no_mark_and_is_no_zero(tmp_path: Path) -> None:
    study = made.study(tmp_path, dict.fromkeys(("fp32", "fp16", "int8", "nf4"), 1.0))
    row = {"case": "load", "model": "m", "precision": "fp32", "batching": "on"}
    rows = [row | {"clients": n, "images_per_s": x, "p99_ms": y} for n, x, y in ((1, 100.0, 20.0), (8, None, 30.0))]
    run = {"name": "serving", "command": "c", "weights": "none", "environment": made.CPU, "elapsed_s": 1.0}
    outcomes.write_recipe(study.project, outcomes.Recipe(rows=rows, **run), study.params)
    svg = guide_page.serving_figure(gather(study.project, study.params)).svg
    assert ">1</text>" in svg
    assert ">8</text>" not in svg
    assert ">0</text>" not in svg


def test_a_draw_without_a_figure_is_left_out_of_the_calibration(tmp_path: Path) -> None:
    row = {"network": "net", "statistic": "mse", "added": "", "draw": 0, "why": "", "right": None, "n": 100}
    rows = [row | {"images": n, "sqnr_db": sqnr} for n, sqnr in ((1, None), (4, 20.0), (16, 30.0))]
    assert keeping_page._drawn(rows, "net", "mse", 4, "top1") == []
    assert keeping_page._drawn(rows, "net", "mse", 1, "sqnr_db") == []
    study = made.study(tmp_path, dict.fromkeys(("fp32", "fp16", "int8", "nf4"), 1.0))
    run = {"name": "calibration", "command": "c", "weights": "none", "environment": made.CPU, "elapsed_s": 1.0}
    outcomes.write_recipe(study.project, outcomes.Recipe(rows=rows, **run), study.params)
    assert "net" in keeping_page.calibration_figure(gather(study.project, study.params)).svg


@pytest.mark.parametrize("values", [(0.5, 2.1), (3.0, 4000.0), (0.03, 0.4)])
def test_a_logarithmic_axis_has_numbers_to_read_it_by(values: tuple[float, float]) -> None:
    drawing = Drawing(figsize=(4.0, 3.0))
    axes = drawing.subplots()
    axes.plot(values, [0, 1])
    figure.log_scale(axes)
    axes.set_xlim(values)
    drawing.canvas.draw()
    shown = [float(tick.get_text()) for tick in axes.get_xticklabels()]
    assert sum(values[0] <= one <= values[1] for one in shown) >= 2
