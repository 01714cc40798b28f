"""What stands in a box of a table; a number becomes text here and nowhere else.

A box keeps its number as sort key beside its text. What is missing is an em dash with a short code and its reason:
never a zero, never an empty box.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from visionquant.analysis.published import Printed

DASH, NOT_AVAILABLE = "—", "not available"
TEXT, NUMBER, PUBLISHED, MEASURED = "text", "number", "number published", "number measured"
FOLDED = "text folded"  # a column of details: on a page they unfold in the first box of their row
CODES = {
    "not_measured": ("n/m", "not measured"),
    "not_available": ("n/a", "not available"),
    "not_published": ("n/p", "not published"),
    "over_budget": ("time", "over the time budget"),
    "out_of_memory": ("mem", "out of memory"),
    "non_finite": ("NaN", "the outputs hold NaN or infinity"),
    "unsupported": ("uns", "not supported on this machine"),
    "busy": ("busy", "other programs were at work"),
    "unsteady": ("var", "too unsteady to report"),
    "audit_failed": ("aud", "the timed outputs are not those of the fidelity pass, or FP32's do not repeat"),
    "failed": ("fail", "failed unexpectedly; the next run tries it again"),
    "stale": ("old", "measured with other settings than params.yaml has now"),
    "refused": ("few", "too few samples for this percentile"),
}

MARKS = {"FASTER": "▲", "HIGHER": "▲", "SLOWER": "▼", "LOWER": "▼", "SAME": "=", "UNDECIDED": "○"}
MARKS |= {"follows": "✓", "supported": "✓", "contradicted": "✗", "refuted": "✗", "underdetermined": "?"}  # of claims


@dataclass(frozen=True)
class Item:
    """One box of a table: ``text``, a sort key, its bounds, a tooltip; ``status`` where it is missing.

    ``css`` is its column's by default. ``word`` is a verdict on the number, e.g. FASTER, or several counted. ``href``
    is where the text leads, ``more`` what unfolds below it (line by line), ``anchor`` the id by which a link finds it.
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

    @property
    def code(self) -> str:
        """The short code of what is missing, "" where nothing is."""
        return CODES[self.status][0] if self.status else ""

    @property
    def mark(self) -> str:
        """The mark that stands for a verdict on a page, "" where it is another word."""
        return MARKS.get(self.word, "")

    @property
    def flat(self) -> str:
        """All that the box shows in one line."""
        parts = (self.text, self.code, f"({self.bounds})" if self.bounds else "", self.word)
        return " ".join(part for part in parts if part)


def text(words: str, css: str = "", note: str = "") -> Item:
    """Words."""
    return Item(words, words, css=css, note=note)


def number(
    value: float | None,
    decimals: int,
    why: str = "not available",
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    note: str = "",
    word: str = "",
    status: str = "not_available",
) -> Item:
    """A number with fixed decimals and, where it has them, its bounds; None is missing for the reason ``why``."""
    if value is None:
        return missing(status, why)
    bounds = "" if low is None or high is None else f"{fixed(low, decimals)}–{fixed(high, decimals)}"  # noqa: RUF001
    return Item(fixed(value, decimals) + f" {unit}".rstrip(), key_of(value), bounds, note=note, word=word)


def grouped(value: float, unit: str = "") -> Item:
    """A whole number with its thousands apart."""
    return Item(f"{value:,.0f} {unit}".rstrip(), value)


def printed(figure: Printed | None, unit: str = "") -> Item:
    """A published figure with the decimals it was printed with."""
    if figure is None:
        return missing("not_published", "the supplement prints no such figure")
    return Item(f"{figure.text} {unit}".rstrip(), figure.value)


def yes(fits: bool) -> Item:
    """Yes or no, in the colours of good and bad."""
    return Item("yes" if fits else "no", int(fits), css="good" if fits else "bad")


def missing(status: str, reason: str, css: str = "missing") -> Item:
    """What is not there, and why."""
    return Item(DASH, None, css=css, note=reason, status=status if status in CODES else "not_available")


def key_of(value: float) -> float:
    """A sort key: nine digits, for the last ones of a figure differ between processors."""
    return float(f"{value:.9g}")


def supported(decimals: int, low: float | None, high: float | None) -> int:
    """As many of the decimals as an interval supports: of half its width one digit, or two up to 35.

    That is the rounding of the Particle Data Group (Review of Particle Physics, introduction, 5.3).
    """
    half = 0.0 if low is None or high is None else (high - low) / 2
    return max(0, min(decimals, -math.floor(math.log10(half / 3.55)))) if 0 < half < math.inf else decimals


def fixed(value: float, decimals: int) -> str:
    """``value`` with so many decimals; a number that rounds to zero has no sign."""
    shown = f"{value:.{decimals}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown


def joined(values: Iterable[str], empty: str = "none") -> str:
    """Names in a row, or a word for nothing."""
    return ", ".join(values) or empty


def precision_label(name: str) -> str:
    """FP32 for fp32: the name of a number format is in capitals; a row that the user named stays as it is."""
    return name.upper() if re.fullmatch(r"(fp|bf|int|nf|tf)\d+", name) else name
