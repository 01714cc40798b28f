"""Arithmetic on printed numbers: a figure printed as 2.50 lies between 2.495 and 2.505, and so does what follows.

A bound is exact for sums, differences, products, quotients, ranks and means, each of which rises or falls in every
argument. A standard deviation does neither; the triangle inequality bounds it: moving value i by at most h_i moves it
by at most sqrt(sum of h_i squared / (n - ddof)). A comparison is True, False, or None where the bounds overlap.
``open`` marks what rests on rows that were never printed.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

Truth = bool | None
Statistic = Callable[[np.ndarray], float]


class Contradiction(Exception):
    """Printed figures that no missing row can reconcile."""


def _by_corners(act: Callable[[float, float], float]) -> Callable[["Bounded", "Bounded"], "Bounded"]:
    def acted(left: "Bounded", right: "Bounded") -> "Bounded":
        if act is operator.truediv and right.low <= 0 <= right.high:
            raise ZeroDivisionError("the divisor may be zero")
        corners = [act(a, b) for a, b in product((left.low, left.high), (right.low, right.high))]
        return Bounded(act(left.value, right.value), min(corners), max(corners), left.open or right.open)

    return acted


@dataclass(frozen=True)
class Bounded:
    """A number and the bounds it can have, both of them possible."""

    value: float
    low: float
    high: float
    open: bool = False

    __add__ = _by_corners(operator.add)
    __sub__ = _by_corners(operator.sub)
    __mul__ = _by_corners(operator.mul)
    __truediv__ = _by_corners(operator.truediv)

    def __lt__(self, other: "Bounded") -> Truth:
        return True if self.high < other.low else False if self.low >= other.high else None

    def overlaps(self, other: "Bounded") -> bool:
        """Whether some number lies within both bounds; nine digits decide, for the last ones are the processor's."""
        slack = 1e-9 * max(1.0, abs(self.value), abs(other.value))
        return self.low <= other.high + slack and other.low <= self.high + slack


@dataclass(frozen=True)
class BoundedColumn:
    """Bounded numbers, or truths, by row name; ``partial`` where rows that belong to it are not printed."""

    cells: Mapping[str, Bounded | Truth]
    partial: bool = False

    @property
    def numbers(self) -> tuple[Bounded, ...]:
        return tuple(cell for cell in self.cells.values() if isinstance(cell, Bounded))


def exact(value: float) -> Bounded:
    """A number without doubt."""
    return Bounded(value, value, value)


def rounded(value: float, half: float) -> Bounded:
    """A printed figure with half a unit of its last decimal on either side."""
    return Bounded(value, value - half, value + half)


def rising(statistic: Statistic, values: tuple[Bounded, ...]) -> Bounded:
    """A statistic that never falls when a value rises: mean, median, least, greatest, a percentile."""
    sides = ([getattr(number, side) for number in values] for side in ("value", "low", "high"))
    value, low, high = (float(statistic(np.asarray(side))) for side in sides)
    return Bounded(value, low, high, any(number.open for number in values))


def spread(ddof: int, values: tuple[Bounded, ...]) -> Bounded:
    """Standard deviation with ``n - ddof`` in the denominator."""
    value, slack = float(np.std([value.value for value in values], ddof=ddof)), _slack(values, len(values) - ddof)
    return Bounded(value, max(0.0, value - slack), value + slack)


def rising_of_all(statistic: Statistic, printed: tuple[Bounded, ...], count: int, low: float, high: float) -> Bounded:
    """``rising`` over ``count`` values of which only ``printed`` are known; the others lie in [low, high]."""
    missing = count - len(printed)
    least = rising(statistic, printed + (exact(low),) * missing).low
    most = rising(statistic, printed + (exact(high),) * missing).high
    return Bounded((least + most) / 2, least, most, open=True)


def spread_of_all(
    ddof: int, printed: tuple[Bounded, ...], count: int, low: float, high: float, mean: Bounded
) -> Bounded:
    """``spread`` over ``count`` values of which only ``printed`` are known, and the ``mean`` of all.

    The mean bounds the sum of the others, which lie in [low, high], or is a ``Contradiction``. At a given sum they
    spread least where they are equal, most where all but one stand at an end of the range. Both variances are convex in
    the sum, the second between the sums at which all stand at an end: so the least lies at the printed rows' own mean
    or beside it, the greatest at one of those sums or at an end.
    """
    missing, known = count - len(printed), np.asarray([value.value for value in printed])
    if not missing:
        return spread(ddof, printed)
    least_sum = max(missing * low, mean.low * count - sum(value.high for value in printed))
    most_sum = min(missing * high, mean.high * count - sum(value.low for value in printed))
    if least_sum > most_sum + 1e-9:
        raise Contradiction("no missing rows in the printed range give the printed mean")

    def deviation(others: list[float]) -> float:
        return float(np.std([*known, *others], ddof=ddof))

    def far_apart(total: float) -> list[float]:
        at_high = min(int((total - missing * low) / (high - low)), missing - 1) if high > low else 0
        ends = [high] * at_high + [low] * (missing - 1 - at_high)
        return [*ends, total - sum(ends)]

    kinks = [missing * low + rank * (high - low) for rank in range(missing + 1)]
    sums = [least_sum, most_sum, *(kink for kink in kinks if least_sum < kink < most_sum)]
    most = max(deviation(far_apart(total)) for total in sums)
    equal = min(max(float(known.mean()), least_sum / missing), most_sum / missing)
    least, slack = deviation([equal] * missing), _slack(printed, count - ddof)
    return Bounded((least + most) / 2, max(0.0, least - slack), most + slack, open=True)


def _slack(values: tuple[Bounded, ...], freedom: int) -> float:
    """By how much a standard deviation may move where each value moves within its bounds."""
    squares = (max(value.high - value.value, value.value - value.low) ** 2 for value in values)
    return math.sqrt(sum(squares) / freedom)
