"""A drawing on axes becomes the bytes of an SVG: the same every time, readable on light and on dark ground.

Text and lines take the colour of their surroundings: they are drawn in one marker colour that becomes
``currentColor``.
"""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from visionquant.report.plotted import Drawn, drawn

INK = "#010203"
HUNDREDTHS = re.compile(r"(\d\.\d\d)\d+")  # of a point are enough
NARROW_IN, NARROW_KEYS = 4.6, 2  # width of the form for a phone, and columns of its legend
NARROW_LETTERS = 46  # in a line across it
STYLE = "<style>:root{color:#1f2328}@media(prefers-color-scheme:dark){:root{color:#e6edf3}}</style>"
INKED = ("grid.color", "text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
RC: Any = dict.fromkeys(INKED, INK) | {
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "svg.fonttype"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("font.size", "axes.titlesize"), 9.0),
    "svg.hashsalt": "visionquant",
    "grid.alpha": 0.18,
}


def draw(
    size: tuple[float, float],
    on: Callable[[Any], object],
    panels: tuple[int, int] = (1, 1),
    keys: Sequence[Line2D] = (),
    key_columns: int = 0,
    labels: tuple[str, str] = ("", ""),
    stacked: tuple[int, int] | None = None,
    **shared: Any,
) -> Drawn:
    """A drawing of ``size`` inches in the house style; ``on`` draws on the axes, or on an array of ``panels`` of them.

    ``keys`` is the legend, ``labels`` stand below and beside all panels; ``shared`` goes to ``Figure.subplots``. With
    ``stacked`` it has a second form for a phone's screen, its panels in so many rows and columns.
    """
    svg, axes = _svg(size, on, panels, keys, key_columns or len(keys), labels, shared)
    own = drawn(svg, axes, keys)
    if stacked is None:
        return own

    def wrapped(panels: Any) -> None:
        on(panels)
        for axes in np.ravel(panels):
            axes.set_xlabel(textwrap.fill(axes.get_xlabel(), NARROW_LETTERS // stacked[1]))
            axes.set_title(textwrap.fill(axes.get_title(), NARROW_LETTERS // stacked[1]))

    legend_in = 0.22 * (-(-len(keys) // NARROW_KEYS) - 1 if keys else 0)
    inches = (NARROW_IN, size[1] * stacked[0] / panels[0] + legend_in)
    return own._replace(narrow=_svg(inches, wrapped, stacked, keys, NARROW_KEYS, labels, shared)[0])


def _svg(
    size: tuple[float, float],
    on: Callable[[Any], object],
    panels: tuple[int, int],
    keys: Sequence[Line2D],
    key_columns: int,
    labels: tuple[str, str],
    shared: dict[str, Any],
) -> tuple[str, list[Axes]]:
    buffer = io.StringIO()
    with mpl.rc_context(RC):
        drawing = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(drawing)
        on(drawing.subplots(*panels, **shared))
        if labels[0]:
            drawing.supxlabel(labels[0], fontsize=9)
        if labels[1]:
            drawing.supylabel(labels[1], fontsize=9)
        if keys:
            drawing.legend(handles=list(keys), loc="outside upper center", ncols=key_columns, fontsize=8)
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = re.sub(r"<!--.*?-->\s*", "", buffer.getvalue().replace(INK, "currentColor"), flags=re.S)
    svg = re.sub(r'="[^"<>]*"', lambda value: HUNDREDTHS.sub(r"\1", value[0]), re.sub(r"\n +", "\n", svg))
    return re.sub(r"(<svg [^>]*>)", rf"\1{STYLE}", svg, count=1), drawing.axes
