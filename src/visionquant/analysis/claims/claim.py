"""One published claim as a frozen value, and ``data/supplement/claims.yaml`` as a list of them.

An entry of the file with ``table`` and ``column`` stands for the cells of that column: one claim each, its number taken
from the CSV file and never copied. An entry without is a sentence, or a figure that stands in one (``printed``).
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from visionquant.analysis.claims.tables import Tables
from visionquant.analysis.published import Printed
from visionquant.core import yaml12
from visionquant.core.complaint import checked
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Row
from visionquant.core.paths import Project

Kind = Literal[
    "arithmetic", "published tables", "measurement", "price list", "release list", "behaviour", "not checkable"
]
FILE = "data/supplement/claims.yaml"


class Tolerance(Row):
    """How far from the printed figure a value may lie, in the figure's unit or as a share of it, and why."""

    below: Annotated[float, Field(ge=0)] = 0.0
    above: Annotated[float, Field(ge=0)] = 0.0
    share: Annotated[float, Field(ge=0)] = 0.0
    why: str


class SectionRow(Row):
    """A section of the supplement: its heading, our page about it, and how many claims the file makes of it."""

    id: str
    heading: str
    page: str
    claims: Annotated[int, Field(ge=1)]


class Entry(Row):
    """One entry of the file; ``{row}`` in a text stands for the row's name.

    ``formula`` gives the value that the claim should have (or, of a sentence, whether it holds); several readings have
    a name each. ``requires`` must hold for the figure to be possible. ``measures`` says what a record set has to show:
    see ``measures``. ``outcome`` of a listing (works, fails) is what its test finds when it runs the listing.
    """

    id: str
    section: str
    says: str
    kind: Kind
    table: str = ""
    column: str = ""
    only: tuple[str, ...] = ()
    printed: str = ""
    unit: str = ""
    formula: str | dict[str, str] = ""
    requires: str = ""
    tolerance: Tolerance | None = None
    measures: str = ""
    outcome: Literal["", "works", "fails"] = ""
    shown_by: str = ""
    why: str = ""


class File(Row):
    """claims.yaml."""

    sections: tuple[SectionRow, ...]
    claims: tuple[Entry, ...]


@dataclass(frozen=True)
class Claim:
    """One claim; ``row`` is its row in ``entry.table``, empty for an entry that stands for itself."""

    id: str
    entry: Entry
    row: str
    printed: Printed | None

    @property
    def says(self) -> str:
        return self.entry.says.replace("{row}", self.row)

    @property
    def place(self) -> str:
        """Where it stands: file, row and column, or the words of the section."""
        entry = self.entry
        return f"{entry.table}.csv, {self.row}, {entry.column}" if entry.table else "in the text"

    @property
    def readings(self) -> tuple[tuple[str, str], ...]:
        """(name, formula) of every reading; the name is empty where there is one."""
        formula = self.entry.formula
        if isinstance(formula, str):
            return (("", formula),) if formula else ()
        return tuple(formula.items())


@dataclass(frozen=True)
class Ledger:
    """All sections and claims, in the order of the supplement."""

    sections: tuple[SectionRow, ...]
    claims: tuple[Claim, ...]

    def of_section(self, section: str) -> tuple[Claim, ...]:
        return tuple(claim for claim in self.claims if claim.entry.section == section)


def load(project: Project, tables: Tables) -> Ledger:
    """Read and expand the file.

    Raises:
        StudyError: the file is broken, an id stands twice, or a section or cell is not there; one line that says which.
    """
    file = checked(File, yaml12.read(project.supplement / "claims.yaml", FILE), FILE)
    known = {section.id for section in file.sections}
    claims: list[Claim] = []
    for entry in file.claims:
        if entry.section not in known:
            raise StudyError(FILE, f"{entry.id}: no section {entry.section}", f"sections: {', '.join(sorted(known))}")
        claims += _expanded(entry, tables)
    ids = [claim.id for claim in claims]
    doubled = sorted({one for one in ids if ids.count(one) > 1})
    if doubled:
        raise StudyError(FILE, f"{doubled[0]} stands there twice", "give each claim an id of its own")
    order = [section.id for section in file.sections]
    return Ledger(file.sections, tuple(sorted(claims, key=lambda claim: order.index(claim.entry.section))))


def _expanded(entry: Entry, tables: Tables) -> list[Claim]:
    if not entry.table:
        return [Claim(entry.id, entry, "", Printed(entry.printed) if entry.printed else None)]
    rows = entry.only or tables.rows(entry.table)
    return [
        Claim(entry.id.replace("{row}", row), entry, row, tables.printed(entry.table, row, entry.column))
        for row in rows
    ]
