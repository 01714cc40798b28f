"""One published claim as a frozen value, and ``data/supplement/claims.yaml`` as a list of them.

An entry of the file with ``table`` and ``column`` stands for the cells of that column: one claim each, its number taken
from the CSV file and never copied. An entry without is a sentence, or a figure that stands in one (``printed``).
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat

from visionquant.analysis.claims.formula import Names
from visionquant.analysis.claims.interval import Bounded, rounded
from visionquant.analysis.published import Printed
from visionquant.core import yaml12
from visionquant.core.errors import StudyError, checked
from visionquant.core.frozen import Count, Strict
from visionquant.core.paths import Project

Kind = Literal[
    "arithmetic", "published tables", "measurement", "price list", "release list", "behaviour", "not checkable"
]
FILE = "data/supplement/claims.yaml"


def _named(formula: Any) -> Any:
    return {"": formula} if isinstance(formula, str) else formula


class Tolerance(Strict):
    """How far from the printed figure a value may lie, in the figure's unit or as a share of it, and why."""

    below: NonNegativeFloat = 0.0
    above: NonNegativeFloat = 0.0
    share: NonNegativeFloat = 0.0
    why: str


class SectionRow(Strict):
    """A section of the supplement: its heading, our page about it, and how many claims the file makes of it."""

    id: str
    heading: str
    page: str
    claims: Count


class Entry(Strict):
    """One entry of the file; ``{row}`` in a text stands for the row's name.

    ``formula`` gives the value that the claim should have (or, of a sentence, whether it holds); several readings have
    a name each. ``requires`` must hold for the figure to be possible. ``measures`` is what a set of records has to
    show: ``what``, a method of ``reproduction.Evidence``, and its arguments. ``outcome`` of a listing (works, fails) is
    what its test finds when it runs the listing.
    """

    id: str
    section: str
    says: str
    kind: Kind
    table: str = ""
    column: str = ""
    only: tuple[str, ...] = ()
    printed: str = ""
    formula: Annotated[dict[str, str], BeforeValidator(_named)] = Field(default={})
    requires: str = ""
    tolerance: Tolerance | None = None
    measures: dict[str, str | tuple[str, ...]] = Field(default={})
    outcome: Literal["", "works", "fails"] = ""
    shown_by: str = ""
    why: str = ""


class File(Strict):
    """claims.yaml."""

    sections: tuple[SectionRow, ...]
    claims: tuple[Entry, ...]


@dataclass(frozen=True)
class Claim:
    """One claim; ``row`` is its row in ``entry.table``, empty for an entry that stands for itself.

    ``figure`` is what is printed with the bounds that its rounding leaves; None, as ``printed``, of a sentence.
    """

    id: str
    entry: Entry
    row: str = ""
    printed: Printed | None = None
    figure: Bounded | None = None

    @property
    def says(self) -> str:
        return self.entry.says.replace("{row}", self.row)

    @property
    def place(self) -> str:
        """Where it stands: file, row and column, or the words of the section."""
        entry = self.entry
        return f"{entry.table}.csv, {self.row}, {entry.column}" if entry.table else "in the text"

    @property
    def allowed(self) -> Bounded | None:
        """The figure with its rounding and its tolerance."""
        figure, tolerance = self.figure, self.entry.tolerance
        if figure is None or tolerance is None:
            return figure
        share = abs(figure.value) * tolerance.share
        # The value may lie below or above the arithmetic: a figure that exceeds it by `above` still fits.
        return Bounded(figure.value, figure.low - tolerance.above - share, figure.high + tolerance.below + share)

    @property
    def counted(self) -> bool:
        """Whether what it measures is bytes or parameters, which are the same on every machine."""
        words = " ".join(map(str, self.entry.measures.values()))
        return any(word in words for word in ("memory", "bytes", "smaller", "parameters"))


def load_claims(project: Project, names: Names) -> tuple[tuple[SectionRow, ...], tuple[Claim, ...]]:
    """Read and expand the file: its sections, and all claims in the order of the sections.

    Raises:
        StudyError: the file is broken, an id stands twice, or a section or cell is not there; one line that says which.
    """
    file = checked(File, yaml12.read(project.supplement / "claims.yaml", FILE), FILE)
    order = [section.id for section in file.sections]
    claims: dict[str, Claim] = {}
    for entry in file.claims:
        if entry.section not in order:
            raise StudyError(FILE, f"{entry.id}: no section {entry.section}", f"sections: {', '.join(sorted(order))}")
        rows = entry.only or dict.fromkeys(row for table, row, _ in names.texts if table == entry.table) or ("any",)
        for claim in [_of_cell(entry, row, names) for row in rows] if entry.table else [_alone(entry)]:
            if claim.id in claims:
                raise StudyError(FILE, f"{claim.id} stands there twice", "give each claim an id of its own")
            claims[claim.id] = claim
    return file.sections, tuple(sorted(claims.values(), key=lambda claim: order.index(claim.entry.section)))


def _alone(entry: Entry) -> Claim:
    printed = Printed(entry.printed) if entry.printed else None
    return Claim(entry.id, entry, "", printed, rounded(printed.value, printed.half) if printed else None)


def _of_cell(entry: Entry, row: str, names: Names) -> Claim:
    file, text = f"data/supplement/{entry.table}.csv", names.texts.get((entry.table, row, entry.column))
    if text is None:
        found = f"claims.yaml speaks of row {row}, column {entry.column}, which is not there"
        raise StudyError(file, found, "restore the file, or mend claims.yaml")
    figure = names.numbers.get((entry.table, entry.column), {}).get(row)
    if figure is None:
        raise StudyError(file, f"{row}: {text!r} is no number", "mend it")
    return Claim(entry.id.replace("{row}", row), entry, row, Printed(text), figure)
