"""What tables are made of: rows of the frame and of recipes as boxes and columns, a table a source of a recipe."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from visionquant.analysis import estimators, provenance, verdicts
from visionquant.analysis.estimators import Estimate
from visionquant.analysis.frame import ARITHMETIC, PUBLISHED
from visionquant.analysis.published import PRECISIONS
from visionquant.analysis.study import LOCAL, MachineSet, Study
from visionquant.core.quantities import quantity as described
from visionquant.records.outcomes import Recipe, Value
from visionquant.report import items
from visionquant.report.items import MEASURED, NUMBER, TEXT, Item, fixed, number, precision_label
from visionquant.report.table import Column, Table, build, numbers
from visionquant.settings.params import StatisticsChoice

Row = Mapping[str, Value]
PRINTED_PRECISIONS = tuple(PRECISIONS.values())


def estimate(found: Estimate) -> Item:
    """An estimate with its bounds, in as many decimals as they support; the grounds of a verdict are in the tooltip."""
    note = f"n = {found.n}" if found.n else ""
    note += f"; {found.reason}" if found.verdict else ""
    bounds = (found.low, found.high)
    decimals = items.supported(described(found.quantity).decimals, *bounds)
    return number(found.value, decimals, found.reason, "", *bounds, note, found.verdict, found.status)


def of_models(*blocks: Iterable[Column]) -> list[Column]:
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


def columns_of(
    study: Study, source: str, group: str, name: str, precisions: Iterable[str] | None = None, batch_size: int = 1
) -> list[Column]:
    """A quantity of one source of the frame as a column a precision; what is published as it was printed."""
    names = study.precisions if precisions is None else tuple(precisions)
    if source == PUBLISHED:
        cells = study.published.cells
        return block(group, names, lambda *pair: items.printed(cells.get((name, *pair))), items.PUBLISHED)

    rows, css = study.pivot(source, name, names, batch_size), MEASURED
    if source == ARITHMETIC:
        rows, css = rows.map(lambda row: replace(row, n=0)), NUMBER
    boxes = rows.map(estimate)
    return block(group, names, lambda model, precision: boxes.at[model, precision], css)


def beside(what: str, **sources: list[Column]) -> list[Column]:
    """Columns of several sources next to each other: a group a precision, in it a column a source."""
    names = dict.fromkeys(column.heading for found in sources.values() for column in found)
    return [
        replace(column, heading=source_.replace("_", " "), group=f"{name} {what}")
        for name in names
        for source_, found in sources.items()
        for column in found
        if column.heading == name
    ]


def for_pair(study: Study, run: MachineSet, heading: str, name: str, batch_size: int = 1) -> Column:
    """A quantity of a set as the column of a table with a row a (model, precision)."""
    return Column(heading, lambda pair: estimate(study.row(run.source, pair[0], pair[1], batch_size, name)), MEASURED)


def verdict_counts(
    study: Study, run: MachineSet, precision: str, models: Iterable[str], batch_size: int = 1, name: str = "speedup"
) -> Counter[str]:
    """How often each verdict was given on one precision's speed over some models."""
    return Counter(study.row(run.source, model, precision, batch_size, name).verdict for model in models)


def counted_words(
    study: Study, run: MachineSet, precision: str, models: Iterable[str], batch_size: int = 1, name: str = "speedup"
) -> str:
    """The verdicts on one precision's speed over some models, counted: "FASTER 13, SLOWER 2"."""
    words = verdict_counts(study, run, precision, models, batch_size, name)
    return ", ".join(f"{word} {words[word]}" for word in get_args(verdicts.Word) if words[word])


def median(values: dict[str, float], decimals: int, status: str = "not_measured", word: str = "") -> Item:
    """Median and range over models; ``word`` are the verdicts behind them, counted."""
    if not values:
        return items.missing(status, "no model has a figure")
    found = estimators.summary(list(values.values()))
    middle, bounds = found["median"], " to ".join(fixed(found[name], decimals) for name in ("min", "max"))
    return Item(fixed(middle, decimals), items.key_of(middle), bounds, note=f"{len(values)} models", word=word)


def machine(source_: str) -> str:
    """What a reader calls the machine of a source."""
    return "this machine" if source_ == LOCAL else source_.partition(":")[2] or source_


def picks(source_: str, batch_size: int | None = None) -> tuple[tuple[str, str], ...]:
    """By what a reader picks a table among those of its kind: the machine, and the batch size where it has one."""
    return ("Machine", machine(source_)), *((("Batch size", str(batch_size)),) if batch_size else ())


def named(name: str, label: str, study: Study, run: MachineSet) -> tuple[str, str]:
    """Id and short title of a table; those of a set other than the measured one say which."""
    if run is study.measured:
        return name, label
    return f"{name}-{run.source.replace(':', '-')}", f"{label}, {run.label}"


def source(run: MachineSet, study: Study | None = None) -> str:
    """Provenance of a table: the set, and where published columns stand beside it, the published machine."""
    described_ = provenance.describe(run) + ("; before rounds" if run.before_rounds else "")
    setup = study.published.setup if study else {}
    machine = f"Published: {setup['gpu']}, torch {setup['torch']}. " if setup else ""
    return f"{machine}{described_[:1].upper()}{described_[1:]}."


@dataclass(frozen=True)
class Spec:
    """A table of a recipe, of the one named as its id by default; ``rows`` makes its rows of a run."""

    id: str
    title: str
    caption: str
    columns: list[Column]
    rows: Callable[[Recipe, StatisticsChoice], Sequence[Any]] = lambda run, _: run.rows
    filters: tuple[str, ...] = ()
    recipe: str = ""


def recipe_tables(study: Study, spec: Spec) -> tuple[Table, ...]:
    """A table for each source of a recipe, this machine's first, or an empty one that says how to get it."""
    recipe, tables = spec.recipe or spec.id, list[Table]()
    for source_, run in _runs(study, recipe).items():
        name = f"{spec.id}-{source_.replace(':', '-')}" if tables else spec.id
        title = f"{spec.title}, {machine(source_)}"
        rows = spec.rows(run, study.params.statistics)
        below = f"{run.environment.title}; weights: {run.weights}; `{run.command}`, {run.elapsed_s:.0f} s."
        tables.append(build(name, title, spec.caption, spec.columns, rows, below, "", spec.filters, picks(source_)))
    stale = study.local.stale.get(f"recipes/{recipe}.json")
    why = f"{f'Stale ({stale})' if stale else 'Not run'}: `visionquant recipe {recipe}`."
    return tuple(tables) or (build(spec.id, spec.title, spec.caption, spec.columns, (), why),)


def _runs(study: Study, recipe: str) -> dict[str, Recipe]:
    """The runs of one recipe by source, this machine's first."""
    machines = sorted(study.sets, key=lambda run: run.source != LOCAL)
    return {run.source: run.recipes[recipe] for run in machines if recipe in run.recipes}


def first_run(study: Study, recipe: str) -> Recipe | None:
    """The run that figures show: this machine's, else the first that was recorded."""
    return next(iter(_runs(study, recipe).values()), None)


def value(row: Row, key: str) -> float | None:
    """A number of a row, None where it has none."""
    found = row.get(key)
    return float(found) if isinstance(found, int | float) else None


def why_missing(row: Row) -> str:
    """Why a figure of a row is missing, where the row says so."""
    return str(row.get("why_missing", "not measured"))


def measures(
    decimals: int = 0, group: str = "", why: Any = why_missing, factor: float = 1.0, **of: str
) -> list[Column]:
    """Measured numbers by key with heading, times ``factor``."""
    return numbers(decimals, MEASURED, group, why, factor, **of)


def labelled(key: str, heading: str, of: Callable[[str], str]) -> Column:
    """Words of a row by key, in the spelling that ``of`` gives."""
    return Column(heading, lambda row: of(str(row[key])), TEXT)


def share_column(study: Study, source: str, heading: str, name: str) -> Column:
    """A share of images in percent, with its interval, how many they are, and the verdict on it."""

    def of(pair: tuple[str, str]) -> Item:
        share = study.row(source, *pair, 0, name)
        note = f"{round((share.value or 0.0) * share.n / 100)} of {share.n}"
        return number(share.value, 2, "it has no head", "", share.low, share.high, note, share.verdict)

    return Column(heading, of, MEASURED)


def figure_column(
    study: Study, source: str, heading: str, name: str, group: str = "", decimals: int = 0, why: str = "FP32 itself"
) -> Column:
    """A figure of a network in a precision; ``why`` it may be missing."""
    return Column(heading, lambda row: study.value(source, row[0], row[1], 0, name), MEASURED, group, decimals, why)
