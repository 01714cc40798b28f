"""The files of ``data/supplement`` as text, cell by cell, and what else a formula may name.

A table is a CSV file without its ending, a row is named by its key columns joined with "-", and every cell that a
formula touches is noted: those are the inputs of the claim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from visionquant.analysis.claims import bounded
from visionquant.analysis.claims.bounded import Absent, Bounded, Column, Value
from visionquant.analysis.published import GROUP_BOUNDS, Peaks, Printed, rows
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.core.quantities import MIB
from visionquant.weights import architectures

KEYS = {"statistics": ("quantity", "statistic"), "groups": ("group", "quantity", "statistic")}
HEAD_CLASSES = 1000
# Whole things, counted and not rounded: columns, and single rows of a column.
COUNTED = {("costs", "fp32_instances"), ("costs", "fp16_instances"), ("setup", "value")}
COUNTED_ROWS = {("ownership", "years")}


@dataclass(frozen=True)
class Tables:
    """``cells`` maps (table, row, column) to text as printed; ``derived`` maps a name to numbers by row.

    Derived are the counts of the committed architectures and the least milliseconds of a pass on the published card.
    """

    cells: Mapping[tuple[str, str, str], str]
    derived: Mapping[str, Mapping[str, float]]

    def rows(self, table: str) -> tuple[str, ...]:
        """The rows of a table in their order."""
        return tuple(dict.fromkeys(row for name, row, _ in self.cells if name == table))

    def printed(self, table: str, row: str, column: str) -> Printed:
        """One cell.

        Raises:
            StudyError: there is no such cell, or it holds no number.
        """
        text = self.cells.get((table, row, column))
        if text is None:
            found = f"claims.yaml speaks of row {row}, column {column}, which is not there"
            raise StudyError(f"data/supplement/{table}.csv", found, "restore the file, or mend claims.yaml")
        try:
            Decimal(text)
        except InvalidOperation:
            raise StudyError(f"data/supplement/{table}.csv", f"{row}: {text!r} is no number", "mend it") from None
        return Printed(text)

    def bounded(self, table: str, row: str, column: str) -> Bounded:
        """One cell with half a unit of its last decimal on either side; a count has no doubt."""
        printed = self.printed(table, row, column)
        return with_rounding(printed, table, row, column)


def with_rounding(printed: Printed, table: str, row: str, column: str) -> Bounded:
    """A printed figure with the bounds that its rounding leaves; a count has none."""
    counted = (table, column) in COUNTED or (table, row) in COUNTED_ROWS
    return bounded.exact(printed.value) if counted else bounded.of_printed(printed)


@dataclass
class Lookup:
    """What one claim's formula names, and which cells it touched (``used``, in order, each with its text)."""

    tables: Tables
    table: str = ""
    row: str = ""
    used: dict[str, str] = field(default_factory=dict)

    def value(self, name: str, rows: Sequence[str] | None = None) -> Value:
        """A column, or the cell in the claim's own row where the name starts with "row.".

        Raises:
            Absent: counts of a model are not committed.
        KeyError: nothing has that name.
        """
        parts = name.split(".")
        if parts[0] == "row":
            table, column = parts[1:] if len(parts) == 3 else (self.table, parts[-1])
            return self._column(table, column, (self.row,)).cells[self.row]
        if len(parts) != 2:
            raise KeyError(f"no table and column in {name!r}")
        return self._column(parts[0], parts[1], rows)

    def group(self, name: str) -> tuple[str, ...]:
        """The models listed under a group, or, with "ruled " before it, those that its rule on size takes."""
        rule, _, base = name.rpartition(" ")
        if not rule:
            members = [row for row in self.tables.rows("models") if self._text("models", row, "group") == base]
            return tuple(members)
        low, high = GROUP_BOUNDS[base]
        millions = self._column("models", "parameters_millions", None)
        within = {row: one.value for row, one in zip(millions.cells, millions.numbers, strict=True)}
        if rule == "ruled":
            return tuple(row for row, value in within.items() if low < value < high)
        return tuple(row for row, value in within.items() if low <= value <= high)

    def _column(self, table: str, column: str, rows: Sequence[str] | None) -> Column:
        derived = self.tables.derived.get(f"{table}.{column}", {} if table == "counts" else None)
        if derived is not None:
            chosen = {row: value for row, value in derived.items() if rows is None or row in rows}
            self.used |= {f"{table}.{column}[{row}]": f"{value:.6g}" for row, value in chosen.items()}
            found = {row: bounded.exact(value) for row, value in chosen.items()}
        else:
            names = [r for t, r, c in self.tables.cells if (t, c) == (table, column) and (rows is None or r in rows)]
            found = {row: self.tables.bounded(table, row, column) for row in names}
            self.used |= {f"{table}.csv {row} {column}": self._text(table, row, column) for row in names}
        if not found and table == "counts":
            raise Absent(f"no counts of {', '.join(rows) if rows else 'any model'} are committed")
        if not found:
            raise KeyError(f"nothing named {table}.{column}" + (f" in {', '.join(rows)}" if rows else ""))
        return Column(found)

    def _text(self, table: str, row: str, column: str) -> str:
        text = self.tables.cells[table, row, column]
        self.used[f"{table}.csv {row} {column}"] = text
        return text


def load(project: Project, peaks: Peaks, workspace_mib: float) -> Tables:
    """Read every CSV file of ``data/supplement`` and the counts of the committed architectures.

    Raises:
        StudyError: a file can't be read.
    """
    cells: dict[tuple[str, str, str], str] = {}
    for path in sorted(project.supplement.glob("*.csv")):
        try:
            for row in rows(project, path.name):
                keys = KEYS.get(path.stem, (next(iter(row)),))
                name = "-".join(row[key] for key in keys)
                cells |= {(path.stem, name, column): text for column, text in row.items() if column not in keys}
        except (KeyError, TypeError) as error:
            found = f"can't be read: {error}"
            raise StudyError(f"data/supplement/{path.name}", found, "restore it from git") from None
    models = dict.fromkeys(row for table, row, _ in cells if table == "models")
    return Tables(cells, _derived(project, tuple(models), peaks, workspace_mib))


def _derived(
    project: Project, models: tuple[str, ...], peaks: Peaks, workspace_mib: float
) -> dict[str, dict[str, float]]:
    columns: dict[str, dict[str, float]] = {}

    def put(name: str, model: str, value: float) -> None:
        columns.setdefault(f"counts.{name}", {})[model] = value

    for model in models:
        facts = architectures.facts(project, model)
        if facts is None:
            continue
        config = architectures.config(project, model) or {}
        put("parameters_millions", model, facts.parameters / 1e6)
        put("head_millions", model, head_millions(config))
        put("linear_layers", model, facts.linear_layers)
        for precision in ("fp32", "fp16", "int8", "nf4"):
            put(f"{precision}_mib", model, facts.model_bytes[precision] / MIB + workspace_mib)
        for precision in ("fp32", "fp16"):
            floor = peaks.floor_ms(facts.macs, facts.model_bytes[precision], precision)
            put(f"{precision}_floor_ms", model, floor)
    return columns


def head_millions(config: Mapping[str, Any]) -> float:
    """Parameters, in millions, of a classification head of 1000 classes on the network of a config."""
    necks = config.get("neck_hidden_sizes")
    width = int(necks[-1]) if necks else int(config.get("hidden_size", 0))
    return (width + 1) * HEAD_CLASSES / 1e6
