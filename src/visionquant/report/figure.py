"""Figures in the house style: dot plots, panels, marks with their intervals, and what is saved of them.

Precisions have the colours of Paul Tol's schemes, which colour-blind readers can tell apart
(https://sronpersonalpages.nl/~pault/), and a marker each, so that nothing rests on colour alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from visionquant.analysis.study import MachineSet, Study
from visionquant.core import files
from visionquant.report.drawing import INK as INK
from visionquant.report.drawing import draw as draw
from visionquant.report.items import precision_label
from visionquant.report.plotted import Drawn
from visionquant.report.table import Displayed, render

Ends = tuple[float | None, float | None]
LETTERS = {"FASTER": "F", "SLOWER": "S", "SAME": "=", "UNDECIDED": "?"}
LETTERED = "Letters are verdicts on the measured marks: F faster, S slower, = the same, ? undecided."


@dataclass(frozen=True)
class Look:
    """Colour and marker of a precision, the same in every figure."""

    colour: str
    marker: str


LOOKS = {
    "fp32": Look("#888888", "o"),
    "fp16": Look("#4477AA", "s"),
    "int8": Look("#EE6677", "^"),
    "nf4": Look("#228833", "D"),
    "fp32_onnxruntime": Look("#66CCEE", "P"),
    "int8_onnxruntime": Look("#CCBB44", "X"),
}
# For rows that users add: seven colours and eight markers, so that 56 looks come before one recurs.
SPARE_COLOURS = ("#AA3377", "#EE7733", "#44AA99", "#332288", "#999933", "#882255", "#0077BB")
SPARE_MARKERS = ("v", "<", ">", "p", "h", "*", "d", "8")


class Looks(dict[str, Look]):
    """A look for every precision; no two share one, whatever their names are."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(LOOKS)
        self.spare = zip(cycle(SPARE_COLOURS), cycle(SPARE_MARKERS), strict=False)
        for name in names:
            self[name]  # takes the next spare one

    def __missing__(self, name: str) -> Look:
        self[name] = Look(*next(self.spare))
        return self[name]


def looks(study: Study) -> Looks:
    """The looks of params.yaml's precisions in their order, then of those that a set has beside them."""
    return Looks([*study.params.precisions, *study.precisions])


@dataclass(frozen=True)
class Figure:
    """``alt`` says in words how it is laid out; ``source`` is the provenance of the measured marks."""

    id: str
    title: str
    caption: str
    alt: str
    source: str
    drawn: Drawn

    @property
    def svg(self) -> str:
        return self.drawn.svg

    @property
    def seen(self) -> str:
        """How it is laid out, and what is seen."""
        return f"{self.alt} {self.drawn.words or 'Nothing to show'}."

    def save(self, folder: str) -> Displayed:
        """Write ``ID.svg``, ``ID-narrow.svg`` and ``ID.csv`` into ``folder``; show and link them in ``../figures``."""
        contents = {".svg": self.svg, "-narrow.svg": self.drawn.narrow, ".csv": self.drawn.csv}
        for ending, content in contents.items():
            if content:
                files.save(Path(folder) / f"{self.id}{ending}", content)
        return Displayed(render("figure", self))


def mark(
    axes: Axes, x: float, y: float, look: Look, size: float = 4.5, hollow: bool = False, ends: Ends = (None, None)
) -> None:
    """A mark with the interval between its ``ends`` behind it; hollow: published, or outside of something."""
    if ends[0] is not None and ends[1] is not None:
        axes.plot([ends[0], ends[1]], [y, y], color=look.colour, linewidth=1.2)
    face: Any = {"markerfacecolor": "none"} if hollow else {}
    axes.plot([x], [y], look.marker, color=look.colour, markersize=size, **face)


@dataclass(frozen=True)
class Dot:
    """A mark in a row of a dot plot with its interval, beside those of other ``by`` (a precision, mostly)."""

    row: str
    by: str
    x: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False
    size: float = 4.5
    word: str = ""
    marker: str = ""


def dot_plot(
    dots: Sequence[Dot],
    rows: Sequence[str],
    by: Sequence[str],
    look: Looks,
    label: str,
    height: float,
    keys: Sequence[Line2D] | None = None,
    key_columns: int = 0,
    step: float = 0.16,
    line: float | None = None,
    band: tuple[float, float] | None = None,
    scale: Callable[[Axes], object] = lambda axes: None if axes.has_data() else empty(axes),
    stacked: tuple[int, int] | None = None,
) -> Drawn:
    """A row a name, from top to bottom; in each a mark and an interval of every ``by``, ``step`` rows apart.

    ``line`` marks no difference, ``band`` what counts as none; ``scale`` is put on the axes after the dots.
    """

    def on(axes: Axes) -> None:
        for dot in dots:
            y, tint = rows.index(dot.row) + step * (by.index(dot.by) - (len(by) - 1) / 2), look[dot.by]
            own = Look(tint.colour, dot.marker or tint.marker)
            mark(axes, dot.x, y, own, dot.size, dot.hollow, (dot.low, dot.high))
            letter(axes, dot.high or dot.x, y, dot.word)
        if band and dots:
            axes.axvspan(*band, color=INK, alpha=0.08, linewidth=0)
        scale(axes)
        if line is not None:
            line_at(axes, line)
        axes.set_xlabel(label)
        rows_of(axes, rows)

    shown = keys_of(look, by) if keys is None else keys
    return draw((9.0, height), on, keys=shown, key_columns=key_columns, stacked=stacked)


def grid(
    names: Sequence[str],
    panel: Callable[[Axes, str], object],
    size: tuple[float, float],
    keys: Sequence[Line2D],
    labels: tuple[str, str],
    above: float = 0.0,
    columns: int = 4,
    key_columns: int = 0,
    **shared: Any,
) -> Drawn:
    """A panel a name; ``size`` is the width of all and the height of a row, ``above`` what the legend takes."""
    rows = max(1, -(-len(names) // columns))

    def on(panels: Any) -> None:
        for axes, name in zip(panels.flat, names, strict=False):
            panel(axes, name)
        for axes in list(panels.flat)[len(names) :]:
            axes.set_axis_off()
        if not names:
            empty(panels.flat[0])

    inches = (size[0], above + size[1] * rows)
    return draw(inches, on, (rows, columns), keys, key_columns, labels, squeeze=False, **shared)


def rows_of(axes: Axes, names: Sequence[str]) -> None:
    """Label the y axis with names from top to bottom, a faint line a row."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def empty(axes: Axes) -> None:
    """Say that a panel has nothing to show."""
    axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", va="center")


def line_at(axes: Axes, x: float, width: float = 0.8, **look: Any) -> None:
    """An upright line at the value of no difference."""
    axes.axvline(x, color=INK, linewidth=width, **look)


def log_scale(axes: Axes, *names: str) -> None:
    """Put the axes named ("x" by default, "y") on a log scale with plain numbers; an empty panel says so."""
    if not axes.has_data():
        empty(axes)
        return
    for name in names or ("x",):
        axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
        axes.set(**{f"{name}scale": "log"})
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
        low, high = axis.get_view_interval()
        if high < 30 * low:  # whole decades alone would leave one number or none
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def symlog_scale(axes: Axes, name: str = "x") -> None:
    """Put the axis named on a scale that is linear from -1 to 1 and logarithmic beyond, with plain numbers."""
    getattr(axes, f"set_{name}scale")("symlog", linthresh=1)
    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def letter(axes: Axes, x: float, y: float, word: str) -> None:
    """Write a verdict beside its mark, if there is one: F faster, S slower, = the same, ? undecided."""
    if word:
        look: Any = {"textcoords": "offset points", "fontsize": 5.5, "va": "center", "annotation_clip": True}
        axes.annotate(LETTERS[word], (x, y), (3, 0), **look)


def key(look: Look, label: str, hollow: bool = False) -> Line2D:
    """A legend entry: filled for what was measured, hollow for what was published."""
    face = "none" if hollow else look.colour
    return Line2D([], [], linestyle="none", marker=look.marker, color=look.colour, label=label, markerfacecolor=face)


def keys_of(look: Looks, names: Iterable[str]) -> list[Line2D]:
    """A legend entry a precision."""
    return [key(look[name], precision_label(name)) for name in names]


def keys_beside(
    study: Study, run: MachineSet, precisions: Iterable[str], quantity: str, published: bool = True
) -> list[Line2D]:
    """Two legend entries a precision, measured and published, as far as there is something of it."""
    own, keys = looks(study), []
    for name in precisions:
        if any(pair[1] == name for pair in run.records):
            keys.append(key(own[name], f"{precision_label(name)} measured"))
        if published and study.published.column(quantity, name):
            keys.append(key(own[name], f"{precision_label(name)} published", hollow=True))
    return keys
