"""A recipe's tables as data: what is shown of each column of its rows, in order; one table a source."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from visionquant.analysis.study import LOCAL, Study
from visionquant.records.recipe import Recipe, Value
from visionquant.report.items import MEASURED, TEXT
from visionquant.report.table import Column, Displayed, Table, build, folded, numbers

Row = dict[str, Value]


@dataclass(frozen=True)
class Spec:
    """A table of a recipe, of the one named as its id by default; ``rows`` makes its rows of a run at a confidence."""

    id: str
    title: str
    caption: str
    columns: list[Column]
    rows: Callable[[Recipe, float], Sequence[Any]] = lambda run, _: run.rows
    filters: tuple[str, ...] = ()
    recipe: str = ""


def show(study: Study, spec: Spec) -> Displayed:
    """The tables of a recipe, folded, this machine's first."""
    return folded(tables(study, spec))


def tables(study: Study, spec: Spec) -> tuple[Table, ...]:
    """A table for each source of a recipe, this machine's first, or an empty one that says how to get it."""
    recipe, found = spec.recipe or spec.id, list[Table]()
    for source, run in _runs(study, recipe).items():
        name = f"{spec.id}-{source.replace(':', '-')}" if found else spec.id
        title = f"{spec.title}, {'this machine' if source == LOCAL else source}"
        rows = spec.rows(run, study.params.statistics.confidence)
        below = f"{run.environment.title}; weights: {run.weights}; `{run.command}`, {run.elapsed_s:.0f} s."
        found.append(build(name, title, spec.caption, spec.columns, rows, below, filters=spec.filters))
    stale = study.local.stale.get(f"recipes/{recipe}.json")
    why = f"{f'Stale ({stale})' if stale else 'Not run'}: `visionquant recipe {recipe}`."
    return tuple(found) or (build(spec.id, spec.title, spec.caption, spec.columns, (), why),)


def _runs(study: Study, recipe: str) -> dict[str, Recipe]:
    """The runs of one recipe by source, this machine's first."""
    machines = sorted(study.sets, key=lambda one: one.source != LOCAL)
    return {one.source: one.recipes[recipe] for one in machines if recipe in one.recipes}


def first(study: Study, recipe: str) -> Recipe | None:
    """The run that figures show: this machine's, else the first that was recorded."""
    return next(iter(_runs(study, recipe).values()), None)


def value(row: Row, key: str) -> float | None:
    """A number of a row, None where it has none."""
    found = row.get(key)
    return float(found) if isinstance(found, int | float) else None


def why_missing(row: Row) -> str:
    """Why a figure of a row is missing, where the row says so."""
    return str(row.get("why_missing", "not measured"))


def figures(decimals: int = 0, group: str = "", why: Any = why_missing, factor: float = 1.0, **of: str) -> list[Column]:
    """Measured numbers by key with heading, times ``factor``."""
    return [replace(column, factor=factor) for column in numbers(decimals, MEASURED, group, why, **of)]


def labelled(key: str, heading: str, of: Callable[[str], str]) -> Column:
    """Words of a row by key, in the spelling that ``of`` gives."""
    return Column(heading, lambda row: of(str(row[key])), TEXT)
