"""Rows of the frame as boxes and columns of tables: a row a model, what was printed beside what was measured."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

from visionquant.analysis import estimators, provenance, verdicts
from visionquant.analysis.estimators import Estimate
from visionquant.analysis.frame import ARITHMETIC, PUBLISHED
from visionquant.analysis.published import PRECISIONS
from visionquant.analysis.study import MachineSet, Study
from visionquant.core.quantities import quantity as described
from visionquant.report.items import (
    MEASURED,
    NUMBER,
    TEXT,
    Item,
    fixed,
    key_of,
    missing,
    number,
    precision_label,
    printed,
)
from visionquant.report.items import PUBLISHED as PRINTED
from visionquant.report.table import Column

PRINTED_PRECISIONS = tuple(PRECISIONS.values())


def estimate(found: Estimate) -> Item:
    """An estimate with its bounds, rounded as its quantity is; a verdict on it has its grounds in the tooltip."""
    note = f"n = {found.n}" if found.n else ""
    if found.verdict:
        note = f"{note}; {found.reason}"
    return number(
        found.value, described(found.quantity).decimals, found.reason, "", found.low, found.high, note, found.verdict,
        found.status,
    )  # fmt: skip


def of_models(*blocks: Sequence[Column]) -> list[Column]:
    """The columns of a table with a row a model."""
    return [Column("Model", str, TEXT), *(column for block in blocks for column in block)]


def of_pairs(*columns: Column, first: str = "Model") -> list[Column]:
    """The columns of a table with a row a (model, precision)."""
    return [Column(first, 0, TEXT), Column("Precision", lambda pair: precision_label(pair[1]), TEXT), *columns]


def pairs(study: Study) -> list[tuple[str, str]]:
    """Every (model, precision) of the tables."""
    return [(model, precision) for model in study.models for precision in study.precisions]


def block(group: str, precisions: Iterable[str], of: Callable[[str, str], Any], css: str = NUMBER) -> list[Column]:
    """A column a precision under one heading; ``of`` takes model and precision."""

    def column(precision: str) -> Column:
        return Column(precision_label(precision), lambda model: of(model, precision), css, group)

    return [column(name) for name in precisions]


def quantity(
    study: Study, source: str, group: str, name: str, precisions: Iterable[str] | None = None, batch_size: int = 1
) -> list[Column]:
    """A quantity of one source of the frame as a column a precision; what is published as it was printed."""
    names = study.precisions if precisions is None else tuple(precisions)
    if source == PUBLISHED:
        cells = study.published.cells
        return block(group, names, lambda *pair: printed(cells.get((name, *pair))), PRINTED)
    rows = study.pivot(source, name, names, batch_size)
    if source == ARITHMETIC:
        rows = rows.map(lambda one: replace(one, n=0))
    boxes, css = rows.map(estimate), NUMBER if source == ARITHMETIC else MEASURED
    return block(group, names, lambda model, precision: boxes.at[model, precision], css)


def of_pair(study: Study, run: MachineSet, heading: str, name: str, batch_size: int = 1) -> Column:
    """A quantity of a set as the column of a table with a row a (model, precision)."""
    return Column(heading, lambda pair: estimate(study.row(run.source, pair[0], pair[1], batch_size, name)), MEASURED)


def counted_words(
    study: Study, run: MachineSet, precision: str, models: Iterable[str], batch_size: int = 1, name: str = "speedup"
) -> str:
    """The verdicts on one precision's speed over some models, counted: "FASTER 13, SLOWER 2"."""
    words = Counter(study.row(run.source, model, precision, batch_size, name).verdict for model in models)
    return ", ".join(f"{word} {words[word]}" for word in get_args(verdicts.Word) if words[word])


def median(values: dict[str, float], decimals: int, status: str = "not_measured", word: str = "") -> Item:
    """Median and range over models; ``word`` are the verdicts behind them, counted."""
    if not values:
        return missing(status, "no model has a figure")
    found = estimators.summary(list(values.values()))
    bounds = " to ".join(fixed(found[name], decimals) for name in ("min", "max"))
    middle = found["median"]
    return Item(fixed(middle, decimals), key_of(middle), bounds, note=f"{len(values)} models", word=word)


def named(name: str, label: str, study: Study, run: MachineSet) -> tuple[str, str]:
    """Id and short title of a table; those of a set other than the measured one say which."""
    if run is study.measured:
        return name, label
    return f"{name}-{run.source.replace(':', '-')}", f"{label}, {run.label}"


def source(run: MachineSet, study: Study | None = None) -> str:
    """Provenance of a table: the set, and where published columns stand beside it, the published machine."""
    described_ = provenance.describe(run)
    setup = study.published.setup if study else {}
    machine = f"Published: {setup['gpu']}, torch {setup['torch']}. " if setup else ""
    return f"{machine}{described_[:1].upper()}{described_[1:]}."
