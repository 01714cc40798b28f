"""One frozen Table for every page; a number becomes text here and nowhere else.

An item keeps its number as sort key beside its text. What is missing is an em dash with a short code, its reason in
the tooltip, and a legend below the table: never a zero, never an empty box.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from visionquant.analysis.estimates import Estimate, describe
from visionquant.analysis.published import Printed
from visionquant.analysis.verdicts import Verdict

DASH = "—"
CODES = {
    "not_measured": ("n/m", "not measured"),
    "not_available": ("n/a", "not available"),
    "not_published": ("n/p", "not published"),
    "over_budget": ("time", "over the time budget"),
    "out_of_memory": ("mem", "out of memory"),
    "non_finite": ("NaN", "the outputs hold NaN or infinity"),
    "unsupported": ("uns", "not supported on this machine"),
    "unsteady": ("var", "too unsteady to report"),
    "audit_failed": ("aud", "the timed outputs are not those of the fidelity pass, or FP32's do not repeat"),
    "failed": ("fail", "failed unexpectedly; the next run tries it again"),
    "stale": ("old", "measured with other settings than params.yaml has now"),
    "refused": ("few", "too few samples for this percentile"),
}


@dataclass(frozen=True)
class Item:
    """One box of a table: ``text``, its bounds, a sort key, a CSS class, a tooltip; ``status`` where it is missing.

    ``word`` is a verdict on the number, e.g. FASTER, or several counted. ``href`` is where the text leads, ``more``
    what unfolds below it (line by line), ``anchor`` the id by which a link finds the box.
    """

    text: str
    key: float | str | None = None
    bounds: str = ""
    css: str = ""
    note: str = ""
    status: str = ""
    word: str = ""
    href: str = ""
    more: tuple[str, ...] = ()
    anchor: str = ""


@dataclass(frozen=True)
class Column:
    """A heading, what it stands under (columns next to each other with one ``group`` share it), and a CSS class."""

    heading: str
    group: str = ""
    css: str = "number"


@dataclass(frozen=True)
class Table:
    """``label`` is the short title where several tables of a kind stand together; ``source`` is its provenance.

    ``filters`` are the headings of the columns by which a reader may narrow it down.
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


def text(value: str, css: str = "text", note: str = "") -> Item:
    """Words."""
    return Item(value, value, css=css, note=note)


def number(value: float | None, decimals: int, css: str = "number", unit: str = "", why: str = "not available") -> Item:
    """A number with fixed decimals; None is missing."""
    if value is None:
        return missing("not_available", why)
    return Item(fixed(value, decimals) + (f" {unit}" if unit else ""), key_of(value), css=css)


def printed(figure: Printed | None, css: str = "number published") -> Item:
    """A published figure with the decimals it was printed with."""
    if figure is None:
        return missing("not_published", "the supplement prints no such figure")
    return Item(figure.text, figure.value, css=css)


def estimate(found: Estimate, decimals: int | None = None, css: str = "number measured") -> Item:
    """An estimate with its bounds, rounded as its quantity is."""
    if found.value is None:
        return missing(found.status, found.reason)
    places = describe(found.quantity).decimals if decimals is None else decimals
    has_bounds = found.low is not None and found.high is not None
    bounds = f"{fixed(found.low or 0.0, places)}–{fixed(found.high or 0.0, places)}" if has_bounds else ""  # noqa: RUF001
    return Item(fixed(found.value, places), key_of(found.value), bounds, css, f"n = {found.n}" if found.n else "")


def judged(found: Estimate, verdict: Verdict | None) -> Item:
    """A speedup with the verdict on it, whose grounds are in the tooltip."""
    item = estimate(found)
    if verdict is None or item.status:
        return item
    return replace(item, word=verdict.word, note=f"{item.note}; {verdict.why}")


def missing(status: str, reason: str) -> Item:
    """What is not there, and why."""
    return Item(DASH, None, css="missing", note=reason, status=status if status in CODES else "not_available")


def key_of(value: float) -> float:
    """A sort key: nine digits, for the last ones of a figure differ between processors."""
    return float(f"{value:.9g}")


def fixed(value: float, decimals: int) -> str:
    """``value`` with so many decimals; a number that rounds to zero has no sign."""
    shown = f"{value:.{decimals}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown


def joined(values: Iterable[str], empty: str = "none") -> str:
    """Names in a row, or a word for nothing."""
    return ", ".join(values) or empty
