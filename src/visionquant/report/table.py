"""One frozen Table for every page, made of columns that say what they show of a row; one template makes the HTML.

HTML classes: ``figure.table`` around ``div.scroll > table.data``; boxes are ``text``, ``number``, ``published``,
``measured``, ``missing``, ``good``, ``bad``; ``data-sort`` holds the unrounded number.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from visionquant.analysis import provenance
from visionquant.analysis.study import Study
from visionquant.report.items import CODES, DASH, MARKS, NUMBER, TEXT, Item, number, text

SHELL = Path(__file__).parent / "shell"


@dataclass(frozen=True)
class Column:
    """A heading with what it shows of a row; neighbours with one ``group`` share that heading above theirs.

    ``of`` is a function of the row, its place in a tuple, its key, or its name in an object, as a dotted path. What it
    gives is an Item, words, or a number, shown times ``factor`` with ``decimals``; None is missing, and ``why``, which
    may be a function of the row as well, says why.
    """

    heading: str
    of: Any = field(default="", compare=False)
    css: str = NUMBER
    group: str = ""
    decimals: int = 0
    why: Any = field(default="not available", compare=False)
    factor: float = 1.0

    def item(self, row: Any) -> Item:
        """The box of a row.

        Raises:
            AttributeError, LookupError: the row has nothing of that name.
        """
        if callable(self.of):
            shown = self.of(row)
        else:
            by_key = isinstance(self.of, int) or isinstance(row, Mapping)
            shown = row[self.of] if by_key else attrgetter(self.of)(row)
        if isinstance(shown, Item):
            return shown
        if isinstance(shown, str) or (self.css == TEXT and shown is not None):
            return text(str(shown))
        why = self.why(row) if callable(self.why) else self.why
        return number(None if shown is None else self.factor * shown, self.decimals, why)


def texts(*headings: str, **of: str) -> list[Column]:
    """Columns of words: those of a tuple in order, or by key or path (a double underscore for a dot) with heading."""
    placed = [Column(heading, i, TEXT) for i, heading in enumerate(headings)]
    return placed + [Column(heading, name.replace("__", "."), TEXT) for name, heading in of.items()]


def numbers(
    decimals: int = 0, css: str = NUMBER, group: str = "", why: Any = "not available", factor: float = 1.0, **of: str
) -> list[Column]:
    """Columns of numbers by key or path (a double underscore for a dot) with heading."""
    return [Column(heading, name.replace("__", "."), css, group, decimals, why, factor) for name, heading in of.items()]


@dataclass(frozen=True)
class Table:
    """``label`` is the short title where several tables of a kind stand together; ``source`` is its provenance.

    ``filters`` are the headings of the columns by which a reader may narrow it down. Jupyter displays it as HTML.
    """

    id: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Item, ...], ...]
    source: str = ""
    label: str = ""
    filters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.id}: a row of {len(row)} under {len(self.columns)} columns")

    def __repr__(self) -> str:
        return f"Table({self.id})"

    def _repr_html_(self) -> str:
        return self.html

    @property
    def html(self) -> str:
        """The table with its title, caption, legend and provenance."""
        return render("table", self)

    @property
    def heading(self) -> str:
        """The title as a sentence."""
        return self.title if self.title.endswith("?") else f"{self.title}."

    @property
    def groups(self) -> tuple[tuple[str, int], ...]:
        """The headings above the columns' own, each with how many columns it spans."""
        return tuple((name, len(list(members))) for name, members in groupby(column.group for column in self.columns))

    @property
    def legend(self) -> tuple[str, ...]:
        """One line for each code in the table: its meaning, how often, and the reasons where they are few."""
        lines = []
        for status, (code, meaning) in CODES.items():
            missing = [item for row in self.rows for item in row if item.status == status]
            if missing:
                reasons = sorted({item.note for item in missing} - {"", meaning})
                detail = f" ({'; '.join(reasons)})" if 0 < len(reasons) <= 2 else ""
                lines.append(f"{DASH} {code}: {meaning}, {len(missing)} times{detail}".replace(" 1 times", " once"))
        return tuple(lines)

    @property
    def marks(self) -> tuple[str, ...]:
        """The verdicts that stand in it as marks, each with its mark."""
        words = {item.word: item.mark for row in self.rows for item in row if item.mark}
        return tuple(f"{mark} {word.lower()}" for word, mark in MARKS.items() if word in words)

    @property
    def _grid(self) -> list[list[str]]:
        headings = [f"{column.group} {column.heading}".strip() for column in self.columns]
        return [headings, *([item.flat for item in row] for row in self.rows)]

    @property
    def markdown(self) -> str:
        """A pipe table with title, caption and legend, as the README shows it."""
        boxes = [[box.replace("\n", " ").replace("|", "\\|") for box in row] for row in self._grid]
        boxes.insert(1, ["---:" if "number" in column.css else "---" for column in self.columns])
        lines = ["| " + " | ".join(row) + " |" for row in boxes]
        lines[1] = lines[1].replace(" ", "")
        legend = [""] * bool(self.legend) + [f"- {line}" for line in self.legend]
        return "\n".join([f"**{self.heading}** {self.caption}".rstrip(), "", *lines, *legend]) + "\n"

    @property
    def plain(self) -> str:
        """Aligned columns for a terminal."""
        columns = []
        for column, boxes in zip(self.columns, zip(*self._grid, strict=True), strict=True):
            width = max(map(len, boxes))
            columns.append([box.rjust(width) if "number" in column.css else box.ljust(width) for box in boxes])
        lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
        return "\n".join([self.title, *lines, *self.legend]) + "\n"


@dataclass(frozen=True)
class Displayed:
    """A piece of HTML that Jupyter displays."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


def build(
    name: str,
    title: str,
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Any],
    source: str = "",
    label: str = "",
    filters: tuple[str, ...] = (),
) -> Table:
    """The table that shows of each row what its columns say."""
    boxes = tuple(tuple(column.item(row) for column in columns) for row in rows)
    return Table(name, title, caption, tuple(columns), boxes, source, label, filters)


def folded(tables: Iterable[Table]) -> Displayed:
    """Several tables of a kind, folded, the first one open."""
    return Displayed(render("folded", tuple(tables)))


def banner(study: Study) -> Displayed:
    """What must be known before any figure: loud where weights are seeded, machines differ or nothing is measured."""
    return Displayed(render("banner", provenance.warnings(study), provenance.line(study)))


def render(piece: str, *values: object) -> str:
    """A macro of ``shell/pieces.html`` over its values."""
    return str(getattr(_macros("pieces.html"), piece)(*values))


def say(sentence: str, values: dict[str, Any]) -> str:
    """A macro of ``shell/sentences.txt`` over named values, in one line."""
    return " ".join(str(getattr(_macros("sentences.txt"), sentence)(values)).split())


@cache
def _macros(name: str) -> Any:
    loader = FileSystemLoader(SHELL)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"text": lambda words: escape(str(words)), "marked": marked}
    return environment.get_template(name).module


def marked(words: str) -> str:
    """A sentence as HTML, its `code` marked as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words))
