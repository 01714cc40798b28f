"""Bounds hold whatever the hidden digits are, and a formula does only what it is allowed to."""

import dataclasses
import itertools
import operator
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import made
import numpy as np
import pytest

from visionquant.analysis.claims import formula, interval
from visionquant.analysis.claims.formula import Names
from visionquant.analysis.claims.interval import Bounded
from visionquant.analysis.published import Printed, load
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project

SUPPLEMENT = load(Project(made.ROOT))


def printed(text: str) -> Bounded:
    return interval.rounded(Printed(text).value, Printed(text).half)


def words(members: Sequence[str] = ("x", "y"), **columns: dict[str, str]) -> Names:
    """Two columns, others, and a group ("edge")."""
    columns = {"a": {"x": "2.50", "y": "1.0", "z": "0.96"}, "b": {"x": "1.25", "y": "1.0", "z": "2"}} | columns
    texts = {("t", row, name): text for name, column in columns.items() for row, text in column.items()}
    texts |= {("models", row, "group"): "edge" for row in members}
    numbers = {("t", name): {row: printed(text) for row, text in cells.items()} for name, cells in columns.items()}
    published: Any = SimpleNamespace(names=members, readings=lambda group: {"as listed": members})
    return Names(texts, numbers, published, "t", "x")


def hidden(one: Bounded, rng: random.Random) -> float:
    return rng.uniform(one.low, one.high)


@pytest.mark.parametrize("act", [operator.add, operator.sub, operator.mul, operator.truediv])
def test_what_the_hidden_digits_give_lies_within_the_bounds(act: Callable[..., Any]) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        a, b = (printed(f"{rng.uniform(-9, 9):.1f}") for _ in range(2))
        if act is operator.truediv and b.low <= 0 <= b.high:
            continue
        found = act(a, b)
        exact = act(hidden(a, rng), hidden(b, rng))
        assert found.low - 1e-9 <= exact <= found.high + 1e-9


@pytest.mark.parametrize(("name", "function"), [
    ("mean", np.mean), ("median", np.median), ("least", np.min), ("greatest", np.max),
    ("std", lambda data: np.std(data, ddof=1)), ("std_n", np.std),
])  # fmt: skip
def test_a_statistic_of_the_hidden_digits_lies_within_the_bounds(name: str, function: object) -> None:
    rng = random.Random(2)
    for _ in range(300):
        texts = {str(i): f"{rng.uniform(0, 3):.1f}" for i in range(rng.randint(2, 9))}
        names = words(c=texts)
        found = formula.evaluate(f"{name}(t.c)", names)
        assert isinstance(found, Bounded)
        exact = float(function([hidden(one, rng) for one in names.column("t", "c").numbers]))  # type: ignore[operator]
        assert found.low - 1e-9 <= exact <= found.high + 1e-9


@pytest.mark.parametrize(("statistic", "function"), [
    ("mean", np.mean), ("median", np.median), ("std_n", np.std), ("std", lambda data: np.std(data, ddof=1)),
])  # fmt: skip
def test_whatever_the_missing_rows_are_the_statistic_lies_within_the_bounds(statistic: str, function: object) -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        data = rng.uniform(30, 50, 16)
        known = {str(i): f"{value:.1f}" for i, value in enumerate(data[:10])}
        of_all = {"low": f"{data.min():.1f}", "high": f"{data.max():.1f}", "mean": f"{data.mean():.1f}"}
        mean = ', t.d["mean"]' if statistic.startswith("std") else ""
        found = formula.evaluate(
            f'{statistic}_of_all(t.c, 16, t.d["low"], t.d["high"]{mean})', words(c=known, d=of_all)
        )
        assert isinstance(found, Bounded)
        assert found.open
        assert found.low <= function(data) <= found.high  # type: ignore[operator]


def spread_of_all(known: Sequence[float], count: int, low: float, high: float, mean: Bounded) -> Bounded:
    return interval.spread_of_all(0, tuple(map(interval.exact, known)), count, low, high, mean)


def test_the_bound_of_a_spread_is_reached() -> None:
    """Three missing values in [0, 10] with mean 5 beside three fives: all but one at an end."""
    found = spread_of_all([5.0] * 3, 6, 0.0, 10.0, interval.exact(5.0))
    best = max(
        np.std([5, 5, 5, a, b, 15 - a - b])
        for a, b in itertools.product(np.linspace(0, 10, 41), repeat=2)
        if 0 <= 15 - a - b <= 10
    )
    assert found.high == pytest.approx(best)
    assert found.low == pytest.approx(0.0)


def test_the_widest_spread_is_found_between_any_two_sums_that_one_might_try() -> None:
    """Whatever the sum of the three missing values: widest at 20, with two of them at 10, an irregular way in."""
    found = spread_of_all([5.0] * 3, 6, 0.0, 10.0, Bounded(35 / 6, 33.0 / 6, (35 + 2**0.5) / 6))
    assert found.high == pytest.approx(float(np.std([5, 5, 5, 10, 10, 0])), abs=1e-12)


def test_the_printed_rows_may_be_rounded_all_one_way() -> None:
    """Ten rows printed as 9.5 are 10 each: then the eleventh is 0, not the 5 that the printed rows would leave."""
    data = [10.0] * 10 + [0.0]
    mean = interval.exact(float(np.mean(data)))
    found = interval.spread_of_all(0, (interval.rounded(9.5, 0.5),) * 10, 11, 0.0, 10.0, mean)
    assert found.low <= np.std(data) <= found.high


def test_missing_rows_that_can_give_no_such_mean_are_a_contradiction() -> None:
    with pytest.raises(interval.Contradiction):
        spread_of_all([5.0] * 3, 6, 0.0, 10.0, interval.exact(9.0))


def test_a_comparison_is_open_where_the_bounds_overlap() -> None:
    names = words()
    assert formula.evaluate('t.a["x"] > t.b["x"]', names) is True
    assert formula.evaluate('t.a["z"] > t.b["z"]', names) is False
    assert formula.evaluate('t.a["y"] > t.b["y"]', names) is None
    assert formula.evaluate("all(t.a > 0.5)", names) is True
    assert formula.evaluate("any(t.a < 0.5) and all(t.a > 0)", names) is False


def test_a_group_takes_its_rows_alone() -> None:
    found = formula.evaluate('mean(among(t.a, "edge"))', words())
    assert isinstance(found, Bounded)
    assert found.value == 1.75


HOSTILE = """
__import__('os') | open('x') | exec('1') | evaluate('1') | __builtins__ | names | t | import os | 1; 2 | (t := 1)
t.a.__class__ | t.__class__ | row.__class__ | row.t.__dict__ | t.a.cells | mean.__globals__ | (1).real | t.a['x'].value
mean(t.a).low | mean(t.a)(t.a) | (lambda: 1)() | lambda: 1 | mean(*t.a) | mean(column=t.a) | 'x'.join(t.a) | f'{t.a}'
t.a[t.b] | t.a[0:1] | t['a'] | t.a['q'] | [1] | [t for t in 'ab'] | t.a ** 2 | t.a % 2 | 'x' * 9 | t.a + 'x'
t.a or t.b | not t.a | -t.a | True | None | 1 < 2 < 3 | all(t.a) | mean(t.a) and 1 | 1 + | ' | 1 / 0 | nothing.here
mean(1) | mean('x') | mean(t.a, t.b) | mean(t.a > 1) | among(t.a) | among(mean(t.a), 'edge') | t.a if 1 else 2
among(t.a, 'x') | among(t.a, 'ruledd edge') | percentile(t.a, 950, 'linear') | percentile(t.a, 95, 'fast')
"""
DEEP = ("9" * 400, "(" * 500, "t.a" + " + 1" * 9999)


@pytest.mark.parametrize(
    "text", [*(text.strip() for line in HOSTILE.split("\n") for text in line.split(" | ") if text), *DEEP]
)
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(StudyError, match=r"claims\.yaml: formula") as caught:
        formula.evaluate(text, words())
    assert "\n" not in str(caught.value)


def test_a_fault_of_the_code_is_no_fault_of_the_formula() -> None:
    """A KeyError inside what a formula calls goes through as it is."""
    names = dataclasses.replace(words(), texts={})
    with pytest.raises(KeyError):
        formula.evaluate("mean(t.a)", names)


def test_where_rows_are_missing_nothing_is_sure_but_a_counterexample() -> None:
    """Two of a group's three rows are printed."""
    names = words(members=("x", "y", "w"))
    assert formula.evaluate('all(among(t.a, "edge") > 0)', names) is None
    assert formula.evaluate('all(among(t.a, "edge") > 2)', names) is False
    assert formula.evaluate('any(among(t.a, "edge") > 2)', names) is True
    assert formula.evaluate('any(among(t.a, "edge") > 9)', names) is None
    mean = formula.evaluate('mean(among(t.a, "edge"))', names)
    assert isinstance(mean, Bounded)
    assert (mean.value, mean.open, mean.high) == (1.75, True, float("inf"))


def test_a_group_is_its_list_or_its_rule() -> None:
    sources = formula.all_names(Project(made.ROOT), SUPPLEMENT, 8.125)
    sizes = {name: formula.evaluate(f'size(among(latency.fp32_ms, "{name}"))', sources) for name in (
        "foundation", "ruled foundation", "closed foundation",
    )}  # fmt: skip
    assert {name: size.value for name, size in sizes.items() if isinstance(size, Bounded)} == {
        "foundation": len(SUPPLEMENT.group("foundation")), "ruled foundation": 3, "closed foundation": 4,
    }  # fmt: skip


def test_whole_instances_carry_a_load_that_one_fewer_does_not() -> None:
    found = formula.evaluate('ceil(capacity(t.n["x"]) / 2.12)', words(n={"x": "4"}))
    assert isinstance(found, Bounded)
    assert (found.low, found.high) == (2.0, 3.0)  # 3.5 printed as 4 may be; a count is exact in the tables
