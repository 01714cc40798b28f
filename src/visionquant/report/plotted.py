"""What a drawing shows, as rows and in words: read off its axes, so that neither can differ from the picture."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from visionquant.report.items import key_of

PANELS, SERIES = 4, 12  # more panels are told of together, more series not at all


class Drawn(NamedTuple):
    """An SVG, its marks as CSV, in words from where to where they reach, and an SVG for narrow screens, if any."""

    svg: str
    csv: str = ""
    words: str = ""
    narrow: str = ""


class Mark(NamedTuple):
    """A mark with its interval, or the end of a bar; ``row`` is a name on the y axis, in place of ``y``."""

    panel: str
    row: str
    series: str
    x: float
    y: float | None
    low: float | None = None
    high: float | None = None


def drawn(svg: str, panels: Iterable[Axes], keys: Sequence[Line2D]) -> Drawn:
    """A drawing with what its axes show; ``keys`` is its legend."""
    found = marks(panels, keys)
    return Drawn(svg, _as_csv(found), _in_words(found))


def marks(panels: Iterable[Axes], keys: Sequence[Line2D]) -> list[Mark]:
    """All marks in the order of drawing, in series named by the entries of the legend that look like them."""
    found = []
    for axes in panels:
        panel, rows = axes.get_title() or axes.get_xlabel(), _rows(axes)

        def place(y: float, rows: dict[int, str] = rows) -> tuple[str, float | None]:
            return (rows[round(y)], None) if round(y) in rows else ("", y)

        ends: list[list[float]] = []  # of an interval, which is drawn before its mark
        for line in axes.lines:
            points = np.asarray(line.get_xydata()).tolist()
            if str(line.get_marker()) in ("None", "none", ""):
                ends = points if len(points) == 2 else []
                continue
            for x, y in points:
                row, up = place(y)
                along = [a for a, b in ends if b == y] or [b for a, b in ends if a == x]
                low_high = sorted(along) if len(along) == 2 and len(points) == 1 else ()
                found.append(Mark(panel, row, _series(line, keys), x, up, *low_high))
            ends = []
        for bar in (bar for bars in axes.containers for bar in bars):
            row, up = place(bar.get_y() + bar.get_height() / 2)
            found.append(Mark(panel, row, "", bar.get_x() + bar.get_width(), up))
    return found


def _as_csv(found: Iterable[Mark]) -> str:
    """A line a mark under a line of headings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Mark._fields)
    writer.writerows([key_of(value) if isinstance(value, float) else value for value in one] for one in found)
    return text.getvalue()


def _in_words(found: Sequence[Mark]) -> str:
    """From where to where each series lies."""
    panels = {one.panel for one in found}
    values: dict[str, list[float]] = {}
    for one in found:
        names = (one.panel if 1 < len(panels) <= PANELS else "", one.series or "marks")
        values.setdefault(": ".join(filter(None, names)), []).append(one.x if one.y is None else one.y)
    return "; ".join(f"{name} {_span(those)}" for name, those in list(values.items())[:SERIES])


def _span(values: list[float]) -> str:
    low, high = (f"{end:.0f}" if abs(end) >= 100 else f"{end:.3g}" for end in (min(values), max(values)))
    return f"{low} to {high}" if len(values) > 1 else low


def _rows(axes: Axes) -> dict[int, str]:
    """The names of rows by their place, where the y axis has such."""
    ticks = list(axes.get_yticks())
    if not isinstance(axes.yaxis.get_major_locator(), FixedLocator) or ticks != list(range(len(ticks))):
        return {}
    return dict(enumerate(axes.yaxis.get_major_formatter().format_ticks(ticks)))


def _series(line: Line2D, keys: Sequence[Line2D]) -> str:
    """The label of the same look; else of the same marker; else of the same colour, and what is other about it."""
    look = _look(line)
    for key in keys:
        if _look(key) == look:
            return str(key.get_label())
    for key in keys:
        if _look(key)[1:] == look[1:]:
            return str(key.get_label())
    alike = (str(key.get_label()).split()[0] for key in keys if key.get_color() == line.get_color())
    other = "stroke" if line.get_marker() == "|" else "hollow" if look[2] else ""
    return f"{next(alike, '')} {other}".strip()


def _look(line: Line2D) -> tuple[Any, ...]:
    hollow = "none" in (line.get_fillstyle(), line.get_markerfacecolor())
    return line.get_color(), line.get_marker(), hollow
