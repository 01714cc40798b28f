"""Tables made of what a recipe kept: one for each source, or an empty one that says how to get it."""

from collections.abc import Callable

from visionquant import recipes
from visionquant.analysis import table
from visionquant.analysis.evidence import Evidence
from visionquant.analysis.table import Column, Item, Table
from visionquant.recipes import Recipe, Value

OfRow = Callable[[dict[str, Value]], tuple[Item, ...]]


def tables(
    evidence: Evidence, name: str, title: str, caption: str, columns: tuple[Column, ...], of_row: OfRow
) -> tuple[Table, ...]:
    """The recipe ``name`` by source, this machine's first."""
    found = recipes.read_all(evidence.project, name)
    if not found:
        return (Table(name, title, caption, columns, (), f"Not run: `visionquant recipe {name}`."),)
    return tuple(
        Table(
            name if i == 0 else f"{name}-{source.replace(':', '-')}",
            title if i == 0 else f"{title}, {source}",
            caption,
            columns,
            tuple(of_row(row) for row in one.rows),
            provenance(one),
        )
        for i, (source, one) in enumerate(found.items())
    )


def figure(row: dict[str, Value], key: str, decimals: int, why: str = "not measured") -> Item:
    """A measured number of a row."""
    value = row.get(key)
    return table.number(float(value) if isinstance(value, int | float) else None, decimals, "number measured", why=why)


def provenance(one: Recipe) -> str:
    """Machine, weights and command of a run."""
    return f"{one.environment.title}; weights: {one.weights}; `{one.command}`, {one.elapsed_s:.0f} s."
