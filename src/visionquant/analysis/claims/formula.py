"""The formulas of claims.yaml: arithmetic, comparisons and a few named functions over published columns.

A formula is a Python expression of names (``latency.fp32_ms``), numbers, ``+ - * /``, ``< > ==``, ``and``, and the
functions below; nothing else is evaluated. ``latency.fp32_ms`` is a column, ``latency.fp32_ms["name"]`` one of its
cells, ``row.fp32_ms`` the cell in the claim's own row, and ``row.latency.fp32_ms`` that of another table.
"""

import ast
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from visionquant.analysis.claims import bounded
from visionquant.analysis.claims.bounded import Bounded, Column, Truth, Value
from visionquant.core.errors import StudyError

_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv", ast.Lt: "lt", ast.Gt: "gt", ast.Eq: "eq",
}  # fmt: skip


class Impossible(Exception):
    """No missing rows can make the formula's inputs hold together."""


class Names(Protocol):
    """Where a formula finds what it names."""

    def value(self, name: str, rows: Sequence[str] | None = None) -> Value: ...

    def group(self, name: str) -> tuple[str, ...]: ...


def evaluate(text: str, names: Names) -> Value:
    """The value of a formula.

    Raises:
        Impossible: its inputs can't hold together.
        Absent: counts that it needs are not committed.
        StudyError: the formula holds something that is not allowed, or a name that nothing has; says which.
    """
    try:
        return _value(ast.parse(text, mode="eval").body, names)
    except bounded.Contradiction as error:
        raise Impossible(str(error)) from None
    except (SyntaxError, TypeError, ValueError, ZeroDivisionError, KeyError, IndexError) as error:
        raise StudyError(f"claims.yaml: formula {text!r}", str(error), "mend it") from None


def _value(node: ast.AST, names: Names) -> Value:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return bounded.exact(float(node.value))
    if isinstance(node, ast.Attribute | ast.Name):
        return names.value(ast.unparse(node))
    if isinstance(node, ast.Subscript):
        row = _word(node.slice)
        return _column(names.value(ast.unparse(node.value), (row,))).cells[row]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return bounded.combine("sub", bounded.exact(0.0), _value(node.operand, names))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return bounded.combine(_OPERATORS[type(node.op)], _value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OPERATORS:
        sides = _value(node.left, names), _value(node.comparators[0], names)
        return bounded.combine(_OPERATORS[type(node.ops[0])], *sides)
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return _all(Column({str(i): _truth(_value(one, names)) for i, one in enumerate(node.values)}))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _call(node.func.id, node.args, names)
    raise ValueError(f"{ast.unparse(node)!r} is not allowed in a formula")


def _call(function: str, arguments: list[ast.expr], names: Names) -> Value:
    if function == "among":
        members = names.group(_word(arguments[1]))
        found = _column(names.value(ast.unparse(arguments[0]), members))
        return Column(found.cells, partial=len(found.cells) < len(members))
    if function == "between":  # a value of which only the range is known
        low, high = _scalar(_value(arguments[0], names)), _scalar(_value(arguments[1], names))
        return Bounded((low.value + high.value) / 2, low.low, high.high, open=True)
    if function == "capacity":  # so many whole instances carry a load that one instance less does not
        count = _scalar(_value(arguments[0], names))
        return Bounded(count.value, count.low - 1 + 1e-6, count.high)
    if function == "percentile":
        method = _word(arguments[2])
        percent = _scalar(_value(arguments[1], names)).value
        return bounded.rising(
            lambda data: float(np.percentile(data, percent, method=method)),  # type: ignore[call-overload]
            _column(_value(arguments[0], names)).numbers,
        )
    if function in _UNPRINTED:
        rows = _column(_value(arguments[0], names)).numbers
        total, low, high, *mean = (_scalar(_value(one, names)) for one in arguments[1:])
        return bounded.with_unprinted(_UNPRINTED[function], rows, int(total.value), low, high, *mean)
    if function in ("at_least", "at_most"):  # of a share in percent: rows that are not printed may go further
        edge = _scalar(_value(arguments[0], names))
        ends = (edge.low, 100.0) if function == "at_least" else (0.0, edge.high)
        return Bounded(edge.value, *ends, open=True)
    if function == "ceil":
        number = _scalar(_value(arguments[0], names))
        up = [float(np.ceil(one - 1e-9)) for one in (number.value, number.low, number.high)]
        return Bounded(up[0], up[1], up[2])
    if function in _OF_COLUMN and len(arguments) == 1:
        column = _column(_value(arguments[0], names))
        found_ = _OF_COLUMN[function](column)
        return bounded.unknown(found_.value) if column.partial and isinstance(found_, Bounded) else found_
    raise ValueError(f"no function {function}")


def _all(column: Column) -> Truth:
    truths = _truths(column)
    if any(one is False for one in truths):
        return False
    return None if column.partial or any(one is None for one in truths) else True


def _any(column: Column) -> Truth:
    truths = _truths(column)
    if any(one is True for one in truths):
        return True
    return None if column.partial or any(one is None for one in truths) else False


def _truths(column: Column) -> list[Truth]:
    if column.numbers:
        raise TypeError("truths were expected")
    return [one for one in column.cells.values() if not isinstance(one, Bounded)]


def _count(column: Column) -> Bounded:
    sure = sum(one is True for one in _truths(column))
    maybe = sum(one is None for one in _truths(column))
    return Bounded(float(sure), float(sure), float(sure + maybe))


_UNPRINTED = {"mean_of_all": "mean", "median_of_all": "median", "std_n_of_all": "std_n", "std_of_all": "std_n-1"}
_OF_COLUMN: dict[str, Callable[[Column], Value]] = {
    "mean": lambda column: bounded.rising(lambda data: float(np.mean(data)), column.numbers),
    "median": lambda column: bounded.rising(lambda data: float(np.median(data)), column.numbers),
    "least": lambda column: bounded.rising(lambda data: float(np.min(data)), column.numbers),
    "greatest": lambda column: bounded.rising(lambda data: float(np.max(data)), column.numbers),
    "total": lambda column: bounded.rising(lambda data: float(np.sum(data)), column.numbers),
    "std": lambda column: bounded.spread(column.numbers, 1),
    "std_n": lambda column: bounded.spread(column.numbers, 0),
    "size": lambda column: bounded.exact(float(len(column.cells))),
    "all": _all,
    "any": _any,
    "count": _count,
}


def _column(value: Value) -> Column:
    if not isinstance(value, Column):
        raise TypeError("a column was expected")
    return value


def _scalar(value: Value) -> Bounded:
    if not isinstance(value, Bounded):
        raise TypeError("a number was expected")
    return value


def _truth(value: Value) -> Truth:
    if isinstance(value, Bounded | Column):
        raise TypeError("a truth was expected")
    return value


def _word(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise TypeError("a name in quotes was expected")
