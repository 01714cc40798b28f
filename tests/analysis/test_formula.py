"""Bounds hold whatever the hidden digits are, and a formula does only what it is allowed to."""

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest

from visionquant.analysis.claims import bounded, formula
from visionquant.analysis.claims.bounded import Bounded, Column, Value
from visionquant.analysis.published import Printed
from visionquant.core.errors import StudyError


class Words:
    """Two columns and a group."""

    def __init__(self) -> None:
        self.columns = {
            "t.a": {"x": "2.50", "y": "1.0", "z": "0.96"},
            "t.b": {"x": "1.25", "y": "1.0", "z": "2"},
        }

    def value(self, name: str, rows: Sequence[str] | None = None) -> Value:
        column = self.columns[name]
        return Column(
            {row: bounded.of_printed(Printed(text)) for row, text in column.items() if not rows or row in rows}
        )

    def group(self, name: str) -> tuple[str, ...]:
        return ("x", "y")


def hidden(one: Bounded, rng: random.Random) -> float:
    return rng.uniform(one.low, one.high)


@pytest.mark.parametrize("act", ["add", "sub", "mul", "truediv"])
def test_what_the_hidden_digits_give_lies_within_the_bounds(act: str) -> None:
    import operator

    rng = random.Random(1)
    for _ in range(2000):
        a, b = (bounded.of_printed(Printed(f"{rng.uniform(-9, 9):.1f}")) for _ in range(2))
        if act == "truediv" and b.low <= 0 <= b.high:
            continue
        found = bounded.combine(act, a, b)
        assert isinstance(found, Bounded)
        exact = getattr(operator, act)(hidden(a, rng), hidden(b, rng))
        assert found.low - 1e-9 <= exact <= found.high + 1e-9


@pytest.mark.parametrize(("name", "function"), [
    ("mean", np.mean), ("median", np.median), ("least", np.min), ("greatest", np.max),
    ("std", lambda data: np.std(data, ddof=1)), ("std_n", np.std),
])  # fmt: skip
def test_a_statistic_of_the_hidden_digits_lies_within_the_bounds(name: str, function: object) -> None:
    rng = random.Random(2)
    for _ in range(300):
        texts = {str(i): f"{rng.uniform(0, 3):.1f}" for i in range(rng.randint(2, 9))}
        words = Words()
        words.columns["t.c"] = texts
        found = formula.evaluate(f"{name}(t.c)", words)
        assert isinstance(found, Bounded)
        cells = words.value("t.c")
        assert isinstance(cells, Column)
        exact = float(function([hidden(one, rng) for one in cells.numbers]))  # type: ignore[operator]
        assert found.low - 1e-9 <= exact <= found.high + 1e-9


@pytest.mark.parametrize("statistic", ["mean", "median", "std_n-1", "std_n"])
def test_whatever_the_missing_rows_are_the_statistic_lies_within_the_bounds(statistic: str) -> None:
    rng = np.random.default_rng(3)
    functions = {"mean": np.mean, "median": np.median, "std_n": np.std, "std_n-1": lambda data: np.std(data, ddof=1)}
    for _ in range(300):
        data = rng.uniform(30, 50, 16)
        known = tuple(bounded.of_printed(Printed(f"{value:.1f}")) for value in data[:10])
        low, high = (bounded.of_printed(Printed(f"{value:.1f}")) for value in (data.min(), data.max()))
        mean = bounded.of_printed(Printed(f"{data.mean():.1f}")) if statistic.startswith("std") else None
        found = bounded.with_unprinted(statistic, known, 16, low, high, mean)
        assert found.open
        assert found.low <= functions[statistic](data) <= found.high  # type: ignore[operator]


def test_the_bound_of_a_spread_is_reached() -> None:
    """Three missing values in [0, 10] with mean 5 beside three fives: all but one at an end."""
    five, low, high = (bounded.exact(value) for value in (5.0, 0.0, 10.0))
    found = bounded.with_unprinted("std_n", (five,) * 3, 6, low, high, five)
    best = max(
        np.std([5, 5, 5, a, b, 15 - a - b])
        for a, b in itertools.product(np.linspace(0, 10, 41), repeat=2)
        if 0 <= 15 - a - b <= 10
    )
    assert found.high == pytest.approx(best)
    assert found.low == pytest.approx(0.0)


def test_missing_rows_that_can_give_no_such_mean_are_a_contradiction() -> None:
    one, low, high = (bounded.exact(value) for value in (5.0, 0.0, 10.0))
    with pytest.raises(bounded.Contradiction):
        bounded.with_unprinted("std_n", (one,) * 3, 6, low, high, bounded.exact(9.0))


def test_a_comparison_is_open_where_the_bounds_overlap() -> None:
    words = Words()
    assert formula.evaluate('t.a["x"] > t.b["x"]', words) is True
    assert formula.evaluate('t.a["z"] > t.b["z"]', words) is False
    assert formula.evaluate('t.a["y"] > t.b["y"]', words) is None
    assert formula.evaluate("all(t.a > 0.5)", words) is True
    assert formula.evaluate("any(t.a < 0.5) and all(t.a > 0)", words) is False


def test_a_group_takes_its_rows_alone() -> None:
    found = formula.evaluate('mean(among(t.a, "group"))', Words())
    assert isinstance(found, Bounded)
    assert found.value == 1.75


@pytest.mark.parametrize(
    "text", ["__import__('os')", "t.a.__class__", "open('x')", "t.a ** 2", "[1]", "lambda: 1", "t.a if 1 else 2", "1 +",
             "mean(1)", "all(t.a)", "among(t.a)", "nothing.here", "t.a['q']", "1 / 0", "mean(t.a) and 1"],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(StudyError, match=r"claims\.yaml: formula") as caught:
        formula.evaluate(text, Words())
    assert "\n" not in str(caught.value)


def test_where_rows_are_missing_nothing_is_sure_but_a_counterexample() -> None:
    """Two of a group's three rows are printed."""
    words = Words()
    words.group = lambda name: ("x", "y", "w")  # type: ignore[method-assign]
    assert formula.evaluate('all(among(t.a, "group") > 0)', words) is None
    assert formula.evaluate('all(among(t.a, "group") > 2)', words) is False
    assert formula.evaluate('any(among(t.a, "group") > 2)', words) is True
    assert formula.evaluate('any(among(t.a, "group") > 9)', words) is None
    mean = formula.evaluate('mean(among(t.a, "group"))', words)
    assert isinstance(mean, Bounded)
    assert (mean.value, mean.open, mean.high) == (1.75, True, float("inf"))


def test_whole_instances_carry_a_load_that_one_fewer_does_not() -> None:
    words = Words()
    words.columns["t.n"] = {"x": "4"}
    found = formula.evaluate('ceil(capacity(t.n["x"]) / 2.12)', words)
    assert isinstance(found, Bounded)
    assert (found.low, found.high) == (2.0, 3.0)  # 3.5 printed as 4 may be; a count is exact in the tables
