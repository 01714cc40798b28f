"""From a drawing on axes to the bytes of an SVG, the same every time, readable on light and on dark ground.

Text and lines take the colour of their surroundings: they are drawn in one marker colour that becomes
``currentColor``. Precisions have the colours of Paul Tol's "bright" scheme, which colour-blind readers can tell apart
(https://sronpersonalpages.nl/~pault/), and a marker each, so that nothing rests on colour alone.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

INK = "#010203"
STYLE = "<style>:root{color:#1f2328}@media(prefers-color-scheme:dark){:root{color:#e6edf3}}</style>"
COLOURS = {"fp32": "#888888", "fp16": "#4477AA", "int8": "#EE6677", "nf4": "#228833"}
COLOURS |= {"fp32_onnxruntime": "#66CCEE", "int8_onnxruntime": "#CCBB44"}
MARKERS = {"fp32": "o", "fp16": "s", "int8": "^", "nf4": "D", "fp32_onnxruntime": "P", "int8_onnxruntime": "X"}
LETTERS = {"FASTER": "F", "SLOWER": "S", "SAME": "=", "UNDECIDED": "?"}
LETTERED = "Letters are verdicts on the measured marks: F faster, S slower, = the same, ? undecided."
OTHER_COLOURS, OTHER_MARKERS = ("#AA3377", "#66CCEE", "#CCBB44"), ("v", "P", "X")
RC: Any = {
    "svg.hashsalt": "visionquant",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Figure:
    """``alt`` says in words what is seen; ``source`` is the provenance of the measured marks."""

    id: str
    title: str
    caption: str
    alt: str
    source: str
    svg: str


@contextmanager
def drawing(
    width: float, height: float, rows: int = 1, columns: int = 1, **shared: Any
) -> Iterator[tuple[Drawing, Any]]:
    """A figure of ``width`` x ``height`` inches and its axes, in the house style."""
    with mpl.rc_context(RC):
        figure = Drawing(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.subplots(rows, columns, **shared)


def svg(figure: Drawing) -> str:
    """The figure as text; the same drawing gives the same bytes."""
    buffer = io.StringIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue().replace(INK, "currentColor")
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    return re.sub(r"(<svg [^>]*>)", rf"\1{STYLE}", text, count=1)


def colour(precision: str) -> str:
    """The colour of a precision, the same in every figure."""
    return COLOURS.get(precision) or OTHER_COLOURS[sum(precision.encode()) % len(OTHER_COLOURS)]


def marker(precision: str) -> str:
    """The marker of a precision."""
    return MARKERS.get(precision) or OTHER_MARKERS[sum(precision.encode()) % len(OTHER_MARKERS)]


def key(precision: str, label: str, hollow: bool = False) -> Line2D:
    """A legend entry: filled for what was measured, hollow for what was published."""
    tint = colour(precision)
    return Line2D([], [], linestyle="none", marker=marker(precision), color=tint, label=label,
                  markerfacecolor="none" if hollow else tint)  # fmt: skip


def log_scale(axes: Axes, *names: str) -> None:
    """Put the axes named ("x", "y") on a log scale with plain numbers; an empty panel says that it is empty."""
    if not axes.has_data():
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", va="center")
        return
    for name in names:
        axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
        axes.set(**{f"{name}scale": "log"})
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
        low, high = axis.get_view_interval()
        if high < 30 * low:  # whole decades alone would leave one number or none
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def letter(axes: Axes, x: float, y: float, word: str) -> None:
    """Write a verdict beside its mark: F faster, S slower, = the same, ? undecided."""
    axes.annotate(
        LETTERS[word],
        (x, y),
        xytext=(3, 0),
        textcoords="offset points",
        fontsize=5.5,
        va="center",
        annotation_clip=True,
    )


def rows_of(axes: Axes, names: tuple[str, ...]) -> None:
    """Label the y axis with names from top to bottom, a faint line a row."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
