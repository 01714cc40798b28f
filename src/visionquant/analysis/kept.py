"""Tables made of what a recipe kept: one for each source, or an empty one that says how to get it."""

from collections.abc import Callable, Sequence

from visionquant.analysis import table
from visionquant.analysis.study import Evidence
from visionquant.analysis.table import Column, Item, Table
from visionquant.records import recipe as recipes
from visionquant.records.recipe import Recipe, Value

Row = dict[str, Value]
Items = tuple[Item, ...]


def tables(
    evidence: Evidence,
    recipe: str,
    name: str,
    title: str,
    caption: str,
    columns: tuple[Column, ...],
    rows: Callable[[Recipe], Sequence[Items]],
    filters: tuple[str, ...] = (),
) -> tuple[Table, ...]:
    """A table for each source of ``recipe``, this machine's first; ``rows`` makes its rows."""
    found = recipes.read_all(evidence.project, recipe)
    if not found:
        return (Table(name, title, caption, columns, (), f"Not run: `visionquant recipe {recipe}`."),)
    return tuple(
        Table(
            name if i == 0 else f"{name}-{source.replace(':', '-')}",
            f"{title}, {'this machine' if source == recipes.LOCAL else source}",
            caption,
            columns,
            tuple(rows(one)),
            provenance(one),
            filters=filters,
        )
        for i, (source, one) in enumerate(found.items())
    )


def each(of_row: Callable[[Row], Items]) -> Callable[[Recipe], Sequence[Items]]:
    """Every row of a run as ``of_row`` makes it."""
    return lambda found: [of_row(row) for row in found.rows]


def first(evidence: Evidence, recipe: str) -> Recipe | None:
    """The run that figures show: this machine's, else the first that was recorded."""
    return next(iter(recipes.read_all(evidence.project, recipe).values()), None)


def value(row: Row, key: str) -> float | None:
    """A number of a row, None where it has none."""
    found = row.get(key)
    return float(found) if isinstance(found, int | float) else None


def figure(row: Row, key: str, decimals: int, why: str = "not measured", css: str = "number measured") -> Item:
    """A number of a row as a box of a table."""
    return table.number(value(row, key), decimals, css, why=why)


def number_format(row: Row) -> str:
    """The precision's name without the engine, which stands beside it."""
    return str(row["precision"]).removesuffix("_onnxruntime")


def provenance(one: Recipe) -> str:
    """Machine, weights and command of a run."""
    return f"{one.environment.title}; weights: {one.weights}; `{one.command}`, {one.elapsed_s:.0f} s."
