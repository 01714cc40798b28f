"""The formulas of claims.yaml: arithmetic, comparisons and a few named functions over published columns.

A formula is a Python expression of names, numbers, ``+ - * /``, ``< > ==``, ``and``, and ``FUNCTIONS``; Python parses
it, and nothing but the nodes below is evaluated. ``latency.fp32_ms`` is a column, ``latency.fp32_ms["name"]`` one of
its cells, ``row.fp32_ms`` the cell in the claim's own row, and ``row.latency.fp32_ms`` that of another table.
``among(latency.fp32_ms, "edge")`` are the rows of a group as listed, of "ruled edge" by its rule, of "closed edge" by
its rule with the bounds included. The table ``counts`` is arithmetic on the committed architectures.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from visionquant.analysis.claims import interval
from visionquant.analysis.claims.interval import Bounded, BoundedColumn, Truth
from visionquant.analysis.published import GROUP_BOUNDS, Published
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.core.quantities import MIB
from visionquant.weights import architectures

Key = tuple[str, str, str]  # table, row, column
Value = Bounded | BoundedColumn | Truth
HEAD_CLASSES = 1000
READINGS = {"": "as listed", "ruled": "by its rule", "closed": "by its rule, bounds included"}


class CountsMissing(Exception):
    """Counts that a formula needs are not committed."""


class Refused(Exception):
    """What a formula may not say, or names that nothing has."""


@dataclass(frozen=True)
class Names:
    """What formulas may name: ``numbers`` by (table, column) and row, the ``texts`` of cells, groups of models.

    ``table`` and ``row`` are the claim's own; ``used`` are the cells that its formulas touched, in order.
    """

    texts: Mapping[Key, str]
    numbers: Mapping[tuple[str, str], Mapping[str, Bounded]]
    published: Published
    table: str = ""
    row: str = ""
    used: dict[Key, str] = field(default_factory=dict)

    def of(self, table: str, row: str) -> "Names":
        """The names of one claim."""
        return replace(self, table=table, row=row, used={})

    def column(self, table: str, column: str, rows: Sequence[str] | None = None) -> BoundedColumn:
        """A column, or ``rows`` of it; ``CountsMissing`` or ``Refused`` if there is none."""
        numbers = self.numbers.get((table, column), {})
        cells = {row: number for row, number in numbers.items() if rows is None or row in rows}
        if not cells and table == "counts":
            raise CountsMissing(f"no counts of {', '.join(rows or ['any model'])} are committed")
        if not cells:
            raise Refused(f"nothing named {table}.{column}" + (f" in {', '.join(rows)}" if rows else ""))
        self._use(table, cells, column)
        return BoundedColumn(cells)

    def cell(self, table: str, column: str, row: str = "") -> Bounded:
        """One cell: of the claim's own row and table where none is named."""
        return self.column(table or self.table, column, (row or self.row,)).numbers[0]

    def among(self, table: str, column: str, group: str) -> BoundedColumn:
        """The rows of a group; partial where some are not printed."""
        reading, _, name = group.rpartition(" ")
        if reading not in READINGS or name not in GROUP_BOUNDS:
            raise Refused(f"no group {group!r}")
        self._use("models", self.published.names, "parameters_millions" if reading else "group")
        members = self.published.readings(name)[READINGS[reading]]
        cells = self.column(table, column, members).cells
        return BoundedColumn(cells, partial=len(cells) < len(members))

    def _use(self, table: str, rows: Iterable[str], column: str) -> None:
        self.used.update({(table, row, column): self.texts[table, row, column] for row in rows})


def all_names(project: Project, published: Published, workspace_mib: float) -> Names:
    """The published figures with their rounding, and counts of the committed architectures."""
    texts: dict[Key, str] = {}
    numbers: dict[tuple[str, str], dict[str, Bounded]] = {}
    rows = [*published.figures.itertuples(index=False, name=None), *_counts(project, published, workspace_mib)]
    for table, row, column, text, value, half in rows:
        texts[table, row, column] = text
        if value == value:  # words are NaN
            numbers.setdefault((table, column), {})[row] = interval.rounded(value, half)
    return Names(texts, numbers, published)


def _counts(project: Project, published: Published, workspace_mib: float) -> Iterator[tuple[Any, ...]]:
    """Parameters of each architecture, MiB of its weights, and the least ms of a pass on the published card."""
    for model in published.names:
        facts, config = architectures.facts(project, model), architectures.config(project, model)
        if facts is None:
            continue
        columns = {"parameters_millions": facts.parameters / 1e6, "head_millions": head_millions(config or {})}
        for precision, stored in facts.model_bytes.items():
            columns[f"{precision}_mib"] = stored / MIB + workspace_mib
            columns[f"{precision}_floor_ms"] = published.floor_ms(facts.macs, stored, precision)
        yield from (("counts", model, column, f"{value:.6g}", value, 0.0) for column, value in columns.items())


def head_millions(config: Mapping[str, Any]) -> float:
    """Parameters, in millions, of a classification head of 1000 classes on the network of a config."""
    necks = config.get("neck_hidden_sizes")
    return ((int(necks[-1]) if necks else int(config.get("hidden_size", 0))) + 1) * HEAD_CLASSES / 1e6


def evaluate(text: str, names: Names) -> Value:
    """The value of a formula.

    Raises:
        interval.Contradiction: its inputs can't hold together.
        CountsMissing: counts that it needs are not committed.
        StudyError: it holds something that is not allowed, or a name that nothing has; says which.
    """
    try:
        return _value(ast.parse(text, mode="eval").body, names)
    except (SyntaxError, RecursionError, ArithmeticError, Refused) as error:
        raise StudyError(f"claims.yaml: formula {text!r}", str(error), "mend it") from None


def _value(node: ast.AST, names: Names) -> Any:
    match node:
        case ast.Constant(str() as text):
            return text
        case ast.Constant(int() | float() as number) if not isinstance(number, bool):
            return interval.exact(float(number))
        case ast.Attribute(ast.Name("row"), column):
            return names.cell("", column)
        case ast.Attribute(ast.Attribute(ast.Name("row"), table), column):
            return names.cell(table, column)
        case ast.Attribute(ast.Name(table), column):
            return names.column(table, column)
        case ast.Subscript(ast.Attribute(ast.Name(table), column), ast.Constant(str() as row)):
            return names.cell(table, column, row)
        case ast.Call(ast.Name("among"), [ast.Attribute(ast.Name(table), column), ast.Constant(str() as group)], []):
            return names.among(table, column, group)
        case ast.Call(ast.Name(name), arguments, []):
            return _called(name, [_value(argument, names) for argument in arguments])
        case ast.BinOp(left, op, right) | ast.Compare(left, [op], [right]) if type(op) in OPERATORS:
            return _by_row(OPERATORS[type(op)], _value(left, names), _value(right, names))
        case ast.BoolOp(ast.And(), values):
            return _decided(BoundedColumn({str(i): _value(part, names) for i, part in enumerate(values)}), by=False)
    raise Refused(f"{ast.unparse(node)!r} is not allowed in a formula")


def _called(name: str, arguments: list[Any]) -> Any:
    if name not in FUNCTIONS:
        raise Refused(f"no function {name}")
    function, *kinds = FUNCTIONS[name]
    if list(map(type, arguments)) != kinds:
        raise Refused(f"{name} takes {', '.join(KINDS[kind] for kind in kinds)}")
    return function(*arguments)


def _by_row(act: Callable[[Bounded, Bounded], Any], left: Any, right: Any) -> Any:
    """``act`` on two numbers; row by row where a side is a column."""
    columns = [side for side in (left, right) if isinstance(side, BoundedColumn)]
    if columns:
        rows = [row for row in columns[0].cells if all(row in column.cells for column in columns)]
        cells = {row: _by_row(act, _at(left, row), _at(right, row)) for row in rows}
        return BoundedColumn(cells, partial=any(column.partial for column in columns))
    if not isinstance(left, Bounded) or not isinstance(right, Bounded):
        raise Refused("numbers were expected")
    return act(left, right)


def _at(side: Any, row: str) -> Any:
    return side.cells[row] if isinstance(side, BoundedColumn) else side


def _decided(column: BoundedColumn, by: bool) -> Truth:
    """``by`` where one cell is so, which decides; else its opposite, unless a cell is open or missing."""
    truths = list(column.cells.values())
    if not all(truth is None or isinstance(truth, bool) for truth in truths):
        raise Refused("truths were expected")
    return by if by in truths else None if column.partial or None in truths else not by


def _statistic(of: Callable[[tuple[Bounded, ...]], Bounded]) -> Callable[[BoundedColumn], Bounded]:
    """Of the printed rows alone where others are missing: then nothing bounds it."""

    def function(column: BoundedColumn) -> Bounded:
        if not column.numbers:
            raise Refused("numbers were expected")
        known = of(column.numbers)
        return Bounded(known.value, -np.inf, np.inf, open=True) if column.partial else known

    return function


def _percentile(column: BoundedColumn, percent: Bounded, method: str) -> Bounded:
    try:
        return interval.rising(partial(np.percentile, q=percent.value, method=method), column.numbers)
    except ValueError as error:
        raise Refused(str(error)) from None


def _of_all(of: Callable[..., Bounded]) -> Callable[..., Bounded]:
    """Over so many rows, of which the printed ones are known and the others lie between two figures."""
    return lambda column, count, low, high, *mean: of(column.numbers, int(count.value), low.low, high.high, *mean)


KINDS: dict[Any, str] = {BoundedColumn: "a column", Bounded: "a number", str: "a name in quotes"}
OPERATORS: dict[type[ast.AST], Callable[[Bounded, Bounded], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Lt: operator.lt, ast.Gt: operator.gt, ast.Eq: Bounded.overlaps,
}  # fmt: skip
# Each with the kinds of its arguments.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "all": (partial(_decided, by=False), BoundedColumn),
    "any": (partial(_decided, by=True), BoundedColumn),
    "size": (_statistic(lambda numbers: interval.exact(float(len(numbers)))), BoundedColumn),
    "mean": (_statistic(partial(interval.rising, np.mean)), BoundedColumn),
    "median": (_statistic(partial(interval.rising, np.median)), BoundedColumn),
    "least": (_statistic(partial(interval.rising, np.min)), BoundedColumn),
    "greatest": (_statistic(partial(interval.rising, np.max)), BoundedColumn),
    "total": (_statistic(partial(interval.rising, np.sum)), BoundedColumn),
    "std": (_statistic(partial(interval.spread, 1)), BoundedColumn),
    "std_n": (_statistic(partial(interval.spread, 0)), BoundedColumn),
    "percentile": (_percentile, BoundedColumn, Bounded, str),
    "mean_of_all": (_of_all(partial(interval.rising_of_all, np.mean)), BoundedColumn, *[Bounded] * 3),
    "median_of_all": (_of_all(partial(interval.rising_of_all, np.median)), BoundedColumn, *[Bounded] * 3),
    "std_of_all": (_of_all(partial(interval.spread_of_all, 1)), BoundedColumn, *[Bounded] * 4),
    "std_n_of_all": (_of_all(partial(interval.spread_of_all, 0)), BoundedColumn, *[Bounded] * 4),
    # A value of which only the range is known.
    "between": (lambda low, high: Bounded((low.value + high.value) / 2, low.low, high.high, True), Bounded, Bounded),
    # So many whole instances carry a load that one instance less does not.
    "capacity": (lambda count: Bounded(count.value, count.low - 1 + 1e-6, count.high), Bounded),
    "ceil": (lambda number: interval.rising(lambda side: np.ceil(side[0] - 1e-9), (number,)), Bounded),
    # Of a share in percent: rows that are not printed may go further.
    "at_least": (lambda share: Bounded(share.value, share.low, 100.0, open=True), Bounded),
    "at_most": (lambda share: Bounded(share.value, 0.0, share.high, open=True), Bounded),
}
