"""One frozen Table for every page, made of columns that say what they show of a row; one template makes the HTML.

HTML classes: ``figure.table`` around ``div.scroll > table.data``; boxes are ``text``, ``number``, ``published``,
``measured``, ``missing``, ``good``, ``bad``; ``data-sort`` holds the unrounded number.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from html import escape
from itertools import groupby, takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from visionquant.analysis import provenance
from visionquant.analysis.study import Study
from visionquant.report.items import CODES, DASH, FOLDED, MARKS, NUMBER, TEXT, Item, number, text

SHELL = Path(__file__).parent / "shell"
REASONS = 2  # so many for which a row has no figure are told in a line


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

    ``filters`` are the headings of the columns by which a reader may narrow it down, ``picks`` what sets it apart from
    others of its kind, e.g. ("Batch size", "8"). Jupyter displays it as HTML.
    """

    id: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Item, ...], ...]
    source: str = ""
    label: str = ""
    filters: tuple[str, ...] = ()
    picks: tuple[tuple[str, str], ...] = ()

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
    def page(self) -> "Table":
        """As a page shows it: details unfold in the first box of a row; what has no figure is in :attr:`absent`."""
        folds = [i for i, column in enumerate(self.columns) if column.css == FOLDED]
        shown = [i for i in range(len(self.columns)) if i not in folds]
        rows = []
        for row in (row for row in self.rows if not self._bare(row)):
            more = (f"{self.columns[i].heading}: {row[i].flat}" for i in folds if row[i].text)
            first = replace(row[0], more=(*row[0].more, *more))
            rows.append((first, *(row[i] for i in shown[1:])))
        return replace(self, columns=tuple(self.columns[i] for i in shown), rows=tuple(rows))

    @property
    def absent(self) -> tuple[str, ...]:
        """A line for each reason for which rows have no figure at all, with their names."""
        alike: dict[str, dict[str, str]] = {}  # by reason, whatever the numbers in it: name to reason
        for name, why in filter(None, map(self._bare, self.rows)):
            alike.setdefault(re.sub(r"\d+", "", why), {})[name] = why
        lines = []
        for reasons in alike.values():
            first, *others = dict.fromkeys(reasons.values())
            names = f"all {len(reasons)} rows" if 1 < len(reasons) == len(self.rows) else ", ".join(reasons)
            lines.append(f"{first.replace(': ', ': e.g. ', 1) if others else first}: {names}")
        return tuple(lines)

    def _bare(self, row: tuple[Item, ...]) -> tuple[str, str] | None:
        """Name and reason of a row without a figure; None where it has one, or says more than why it has none."""
        boxes = zip(self.columns, row, strict=True)
        names = [box for _, box in takewhile(lambda pair: TEXT in pair[0].css and not pair[1].status, boxes)]
        rest = row[len(names) :]
        reasons = {f"{DASH} {box.code}: {box.note or CODES[box.status][1]}": box.note for box in rest if box.status}
        said = {box.text for box in rest if not box.status} - {"", *reasons.values()}
        if said or not names or not 0 < len(reasons) <= REASONS or any(box.anchor or box.more for box in row):
            return None
        own = rf"(?<!\w){re.escape(names[0].text)}(?!\w)"  # a reason that names its row is that of others as well
        return " ".join(box.text for box in names), re.sub(own, self.columns[0].heading.upper(), "; ".join(reasons))

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
    picks: tuple[tuple[str, str], ...] = (),
) -> Table:
    """The table that shows of each row what its columns say."""
    boxes = tuple(tuple(column.item(row) for column in columns) for row in rows)
    return Table(name, title, caption, tuple(columns), boxes, source, label, filters, picks)


def folded(tables: Iterable[Table]) -> Displayed:
    """Several tables of a kind, folded, the first one open; a browser offers their ``picks`` in place of the folds."""
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
    environment.globals["MARKS"] = MARKS
    environment.filters |= {"text": lambda words: escape(str(words)), "marked": marked, "sha256": _sha256}
    return environment.get_template(name).module


def _sha256(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()


def marked(words: str) -> str:
    """A sentence as HTML, its `code` marked as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words))
