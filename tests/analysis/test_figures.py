"""Figures: drawn from any state of the evidence, the same bytes twice, readable on light and dark ground."""

from collections.abc import Callable
from xml.etree import ElementTree

import made
import pytest

from visionquant.analysis import study as evidence
from visionquant.analysis.figures import canvas, cells, models
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.settings import params

DRAW: list[Callable[[Evidence, RecordSet], Figure]] = [
    cells.latency,
    cells.speedup,
    cells.distribution,
    cells.throughput,
    models.memory,
    models.published_against_measured,
    models.groups,
    models.fidelity,
]


@pytest.fixture(scope="module", params=["measured", "empty"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    root = tmp_path_factory.mktemp("study")
    if request.param == "measured":
        return made.study(root, {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 2.0})
    project = made.project(root)
    return evidence.gather(project, params.load(project))


@pytest.mark.parametrize("draw", DRAW, ids=lambda draw: draw.__name__)
def test_a_figure_is_drawn_from_what_there_is_and_the_same_twice(
    study: Evidence, draw: Callable[[Evidence, RecordSet], Figure]
) -> None:
    found = draw(study, study.measured)
    assert found == draw(study, study.measured)
    assert ElementTree.fromstring(found.svg).tag.endswith("svg")
    assert found.title
    assert found.alt
    assert found.caption
    assert found.source
    assert canvas.INK not in found.svg
    assert "currentColor" in found.svg
    assert "prefers-color-scheme" in found.svg
    assert "<dc:date>" not in found.svg


def test_precisions_are_told_apart_by_colour_and_by_marker() -> None:
    names = ["fp32", "fp16", "int8", "nf4"]
    assert len({canvas.colour(name) for name in names}) == len({canvas.marker(name) for name in names}) == 4
    assert canvas.colour("my-own") in canvas.OTHER_COLOURS
    assert canvas.marker("my-own") in canvas.OTHER_MARKERS


@pytest.mark.parametrize("values", [(0.5, 2.1), (3.0, 4000.0), (0.03, 0.4)])
def test_a_logarithmic_axis_has_numbers_to_read_it_by(values: tuple[float, float]) -> None:
    with canvas.drawing(4.0, 3.0) as (figure, axes):
        axes.plot(values, [0, 1])
        canvas.log_scale(axes, "x")
        axes.set_xlim(values)
        figure.canvas.draw()
        shown = [float(tick.get_text()) for tick in axes.get_xticklabels()]
        assert sum(values[0] <= one <= values[1] for one in shown) >= 2
