"""Arithmetic on printed numbers: a figure printed as 2.50 lies between 2.495 and 2.505, and so does what follows.

A bound is exact for sums, differences, products, quotients, ranks and means, each of which rises or falls in every
argument. A standard deviation does neither; the triangle inequality bounds it: moving value i by at most h_i moves it
by at most sqrt(sum of h_i squared / (n - ddof)). A comparison is True, False, or None where the bounds
overlap. ``open`` marks what rests on rows that were never printed.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from visionquant.analysis.published import Printed

Truth = bool | None


class Absent(Exception):
    """Counts that a formula needs are not committed."""


class Contradiction(Exception):
    """Printed figures that no missing row can reconcile."""


@dataclass(frozen=True)
class Bounded:
    """A number and the bounds it can have."""

    value: float
    low: float
    high: float
    open: bool = False

    def overlaps(self, other: "Bounded") -> bool:
        """Whether some number lies within both bounds; nine digits decide, for the last ones are the processor's."""
        slack = 1e-9 * max(1.0, abs(self.value), abs(other.value))
        return self.low <= other.high + slack and other.low <= self.high + slack


@dataclass(frozen=True)
class Column:
    """Bounded numbers, or truths, by row name; ``partial`` where rows that belong to it are not printed."""

    cells: Mapping[str, "Bounded | Truth"]
    partial: bool = False

    @property
    def numbers(self) -> tuple[Bounded, ...]:
        return tuple(one for one in self.cells.values() if isinstance(one, Bounded))


Value = Bounded | Column | Truth


def exact(value: float) -> Bounded:
    """A number without doubt."""
    return Bounded(value, value, value)


def of_printed(printed: Printed) -> Bounded:
    """A printed figure with half a unit of its last decimal on either side."""
    half = 0.5 * 10.0**-printed.decimals
    return Bounded(printed.value, printed.value - half, printed.value + half)


def combine(name: str, left: Value, right: Value) -> Value:
    """``left`` and ``right`` under add, sub, mul, truediv, lt, gt or eq; a column goes row by row.

    Raises:
        TypeError: a truth is no number.
        ZeroDivisionError: the divisor may be zero.
    """
    if isinstance(left, Column) or isinstance(right, Column):
        columns = [one for one in (left, right) if isinstance(one, Column)]
        rows = [row for row in columns[0].cells if all(row in one.cells for one in columns)]
        found = {row: combine(name, _at(left, row), _at(right, row)) for row in rows}
        cells = {row: one for row, one in found.items() if not isinstance(one, Column)}
        return Column(cells, partial=any(one.partial for one in columns))
    if not isinstance(left, Bounded) or not isinstance(right, Bounded):
        raise TypeError(f"{name} takes numbers")
    if name in ("lt", "gt"):
        small, large = (left, right) if name == "lt" else (right, left)
        return True if small.high < large.low else False if small.low >= large.high else None
    if name == "eq":
        return left.overlaps(right)
    if name == "truediv" and right.low <= 0 <= right.high:
        raise ZeroDivisionError("the divisor may be zero")
    act = getattr(operator, name)
    corners = [act(a, b) for a, b in product((left.low, left.high), (right.low, right.high))]
    return Bounded(act(left.value, right.value), min(corners), max(corners), left.open or right.open)


def rising(function: Callable[[np.ndarray], float], values: tuple[Bounded, ...]) -> Bounded:
    """A function that never falls when a value rises: mean, median, least, greatest, a percentile."""
    value, low, high = (
        float(function(np.asarray([getattr(one, name) for one in values]))) for name in ("value", "low", "high")
    )
    return Bounded(value, low, high, any(one.open for one in values))


def unknown(value: float) -> Bounded:
    """A statistic of the printed rows alone, where others are missing without any bound on them."""
    return Bounded(value, -math.inf, math.inf, open=True)


def spread(values: tuple[Bounded, ...], ddof: int) -> Bounded:
    """Standard deviation with ``n - ddof`` in the denominator."""
    n = len(values)
    value = float(np.std([one.value for one in values], ddof=ddof))
    halves = [max(one.high - one.value, one.value - one.low) for one in values]
    half = math.sqrt(sum(one**2 for one in halves) / (n - ddof))
    return Bounded(value, max(0.0, value - half), value + half)


def with_unprinted(
    statistic: str, values: tuple[Bounded, ...], count: int, low: Bounded, high: Bounded, mean: Bounded | None = None
) -> Bounded:
    """Bounds of a statistic of ``count`` rows of which only ``values`` are printed; the others lie in [low, high].

    ``statistic`` is mean, median, std_n or std_n-1. For a standard deviation, ``mean`` is the mean of all rows, which
    fixes the sum of the missing ones: it is greatest where all of them but one stand at an end of the range, least
    where they are equal.

    Raises:
        Contradiction: no missing values in the range can give that mean.
    """
    missing = count - len(values)
    ends = (Bounded(low.low, low.low, low.low), Bounded(high.high, high.high, high.high))
    if statistic in ("mean", "median"):
        function: Callable[[np.ndarray], float] = np.mean if statistic == "mean" else np.median
        least = rising(function, values + (ends[0],) * missing).low
        most = rising(function, values + (ends[1],) * missing).high
        return Bounded((least + most) / 2, least, most, open=True)
    if mean is None:
        raise ValueError("a standard deviation needs the mean")
    ddof = 1 if statistic == "std_n-1" else 0
    known = np.asarray([one.value for one in values])
    half = max(one.high - one.value for one in values)
    found = []
    for total in np.linspace(mean.low * count - known.sum(), mean.high * count - known.sum(), 21):
        rest = float(np.clip(total, missing * low.low, missing * high.high))
        if abs(rest - total) > half * len(known) + 1e-9:
            continue
        far = _spread_out(rest, missing, low.low, high.high)
        found += [np.std([*known, *far], ddof=ddof), np.std([*known, *[rest / missing] * missing], ddof=ddof)]
    if not found:
        raise Contradiction("no missing rows in the printed range give the printed mean")
    slack = half * math.sqrt(count / (count - ddof))
    return Bounded(float(np.mean(found)), max(0.0, float(min(found)) - slack), float(max(found)) + slack, open=True)


def _spread_out(total: float, count: int, low: float, high: float) -> list[float]:
    """Values in [low, high] with this sum that lie as far apart as can be: all but one at an end."""
    if high <= low:
        return [low] * count
    at_high = min(int((total - count * low) / (high - low)), count)
    values = [high] * at_high + [low] * (count - at_high)
    if at_high < count:
        values[at_high] = total - sum(values) + low
    return values


def _at(value: Value, row: str) -> Value:
    return value.cells[row] if isinstance(value, Column) else value
