"""What the supplement says over all models and over groups, beside the same figures recomputed and measured."""

from dataclasses import replace

from visionquant.analysis import statistics, subjects, table
from visionquant.analysis.estimates import describe
from visionquant.analysis.published import GROUP_BOUNDS
from visionquant.analysis.published_validation import Verdict
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks

DEFINED = {"std": "standard deviation", "p95": "95th percentile"}


def answers(evidence: Evidence, records_: RecordSet) -> Table:
    """A row a precision: speed, memory and agreement with FP32, published and measured, over the models."""
    reduction = subjects.counterpart(evidence, records_, "memory_reduction")
    models = tuple(row.name for row in evidence.published.models)
    rows = []
    for precision in blocks.compared(evidence):
        speeds = subjects.printed_speedups(evidence, precision)
        measured = evidence.values(records_, "speedup", precision, evidence.models)
        saved = evidence.values(records_, reduction, precision, evidence.models)
        cosines = evidence.values(records_, "cosine", precision, evidence.models)
        rows.append(
            (
                table.text(blocks.precision_label(precision)),
                _middle(speeds, 2, "published"),
                _middle(measured, 2, "measured", blocks.counted_words(evidence, records_, precision, evidence.models)),
                _middle(evidence.published.column("memory_reduction", precision), 1, "published"),
                _middle(evidence.arithmetic("memory_reduction_workspace", precision, models), 1),
                _middle(saved, 1, "measured"),
                table.number(min(cosines.values(), default=None), 4, "number measured", why="fidelity not measured"),
            )
        )
    return Table(
        "answers",
        "The answer in one table",
        "Over FP32 at batch size 1: median over the models, with the range, and the verdicts on the single models. "
        "Speedup "
        "above 1 is faster. The published "
        "INT4 column stands under NF4; its speedups are computed from its printed milliseconds.",
        (
            Column("Precision", css="text"),
            Column("published", "speedup, x", "number published"),
            Column("measured", "speedup, x", "number measured"),
            Column("published", "memory saved, %", "number published"),
            Column("by arithmetic", "memory saved, %"),
            Column("measured", "memory saved, %", "number measured"),
            Column("lowest cosine", f"to FP32, {records_.weights or 'no'} weights", "number measured"),
        ),
        tuple(rows),
        blocks.source(records_, evidence),
    )


def statistics_block(evidence: Evidence, records_: RecordSet) -> Table:
    """Each printed statistic, recomputed from the printed column, and measured."""
    models = tuple(row.name for row in evidence.published.models)
    rows = []
    for row in evidence.published.statistics:
        about = subjects.subject(row.subject)
        printed = subjects.published_values(evidence, row.subject)
        measured = subjects.measured_values(evidence, records_, row.subject, models)
        definition = statistics.default_definition(row.statistic)
        decimals = describe(about.quantity).decimals
        fits = statistics.reproducing(row.statistic, row.printed, list(printed.values()))
        rows.append(
            (
                table.text(about.label),
                table.text(DEFINED.get(row.statistic, row.statistic)),
                table.printed(row.printed),
                table.number(statistics.summary(list(printed.values())).get(definition), decimals + 1),
                table.text(f"{len(printed)} of {len(models)}"),
                _follows(row.statistic, fits, complete=len(printed) == len(models)),
                _figure(evidence, records_, row.subject, models, definition, decimals),
                table.text(f"{len(measured)} of {len(models)}"),
            )
        )
    return Table(
        "statistics",
        "Statistics over models, batch size 1",
        "Recomputed: from the rows that the supplement prints (std with n-1, percentile by numpy's linear rule). For "
        "memory only ten of sixteen rows are printed, so a figure over sixteen can't be recomputed from them.",
        (
            Column("Subject", css="text"),
            Column("statistic", css="text"),
            Column("published", css="number published"),
            Column("recomputed"),
            Column("rows printed", css="text"),
            Column("follows from the printed rows", css="text"),
            Column("measured", css="number measured"),
            Column("models", css="text"),
        ),
        tuple(rows),
        blocks.source(records_, evidence),
    )


def definitions(evidence: Evidence) -> Table:
    """Every definition of std and percentile on the printed columns, and which one gives the printed figure."""
    rows = []
    for row in evidence.published.statistics:
        if row.statistic not in DEFINED:
            continue
        values = list(subjects.published_values(evidence, row.subject).values())
        for name, value in statistics.summary(values).items():
            if name.split("_")[0] == row.statistic:
                fits = row.printed.rounds_from(value)
                rows.append(
                    (
                        table.text(subjects.subject(row.subject).label),
                        table.text(name),
                        table.number(value, 4),
                        table.printed(row.printed),
                        Item("yes" if fits else "no", int(fits), css="good" if fits else "bad"),
                    )
                )
    return Table(
        "definitions",
        "Which definition gives the printed figure",
        "std_n divides by n, std_n-1 by n-1; percentiles are named as numpy names their rules.",
        (
            Column("Subject", css="text"),
            Column("definition", css="text"),
            Column("value"),
            Column("published", css="number published"),
            Column("rounds to it", css="text"),
        ),
        tuple(rows),
    )


def groups(evidence: Evidence, records_: RecordSet) -> Table:
    """The printed group patterns under each reading of a group."""
    rows = []
    for claim in evidence.published.groups:
        about = subjects.subject(claim.subject)
        statistic = claim.computed
        decimals = describe(about.quantity).decimals
        for reading, models in subjects.groups(evidence, claim.group).items():
            printed = subjects.published_values(evidence, claim.subject, models)
            again = statistics.summary(list(printed.values())).get(statistic)
            fits = again is not None and claim.printed.rounds_from(again)
            rows.append(
                (
                    table.text(claim.group),
                    table.text(f"{about.label}, {claim.statistic}", note=claim.statement),
                    table.text(f"{reading}, {len(models)} models", note=", ".join(models)),
                    table.printed(claim.printed),
                    table.number(again, decimals, why="no row of this reading is printed"),
                    Item("yes" if fits else "no", int(fits), css="good" if fits else "bad")
                    if again is not None
                    else table.missing("not_published", "no row of this reading is printed"),
                    _figure(evidence, records_, claim.subject, models, statistic, decimals),
                )
            )
    return Table(
        "groups",
        "Group patterns, batch size 1",
        "The supplement lists models under group headings and then defines the groups by parameter count; the two do "
        "not hold the same models, so each claim is computed under every reading.",
        (
            Column("Group", css="text"),
            Column("claim", css="text"),
            Column("reading of the group", css="text"),
            Column("published", css="number published"),
            Column("from the printed rows"),
            Column("agrees", css="text"),
            Column("measured", css="number measured"),
        ),
        tuple(rows),
        blocks.source(records_, evidence),
    )


def group_medians(evidence: Evidence, records_: RecordSet, batch_size: int) -> Table:
    """Median speedup and memory reduction of each listed group and precision."""
    reduction = subjects.counterpart(evidence, records_, "memory_reduction")
    rows = []
    for group in GROUP_BOUNDS:
        models = evidence.published.group(group)
        cells: list[Item] = [table.text(group), table.number(len(models), 0)]
        for name, decimals in (("speedup", 2), (reduction, 1)):
            for precision in blocks.compared(evidence):
                values = evidence.values(records_, name, precision, models, batch_size)
                word = blocks.counted_words(evidence, records_, precision, models, batch_size)
                cells.append(_middle(values, decimals, "measured", word if name == "speedup" else ""))
        rows.append(tuple(cells))
    compared = [blocks.precision_label(name) for name in blocks.compared(evidence)]
    return Table(
        f"group-medians-{batch_size}",
        f"Groups as listed, batch size {batch_size}",
        "Median over the group's models, with the range.",
        (
            Column("Group", css="text"),
            Column("models"),
            *(Column(name, "measured speedup", "number measured") for name in compared),
            *(Column(name, "measured memory reduction, %", "number measured") for name in compared),
        ),
        tuple(rows),
        blocks.source(records_),
        f"Batch size {batch_size}",
    )


def validation(verdicts: list[Verdict]) -> Table:
    """The three expected metrics, judged."""
    css = {"within": "good", "differs": "bad"}
    return Table(
        "validation",
        "The supplement's validation",
        "Its own three metrics and its own rule: within 5 % of the expected figure. Only figures of the published GPU "
        "can pass or fail it.",
        (
            Column("Metric", css="text"),
            Column("published", css="number published"),
            Column("set", css="text"),
            Column("measured", css="number measured"),
            Column("verdict", css="text"),
            Column("why", css="text"),
        ),
        tuple(
            (
                table.text(one.metric),
                table.printed(one.published),
                table.text(one.source),
                Item(
                    table.fixed(one.value, 3),
                    table.key_of(one.value),
                    "" if one.low is None or one.high is None else f"{one.low:.3f}–{one.high:.3f}",  # noqa: RUF001
                    "number measured",
                )
                if one.value is not None
                else table.missing("not_measured", one.why),
                Item(one.verdict, one.verdict, css=css.get(one.verdict, "text")),
                table.text(f"{one.why}. {one.extra}".strip()),
            )
            for one in verdicts
        ),
    )


def _middle(values: dict[str, float], decimals: int, kind: str = "", word: str = "") -> Item:
    """Median and range over models; ``word`` are the verdicts behind them, counted."""
    if not values:
        status = "not_published" if kind == "published" else "not_measured"
        return table.missing(status, "no model has a figure")
    found = statistics.summary(list(values.values()))
    low, high = (table.fixed(found[name], decimals) for name in ("min", "max"))
    return Item(
        table.fixed(found["median"], decimals),
        table.key_of(found["median"]),
        f"{low} to {high}",
        f"number {kind}".strip(),
        f"{len(values)} models",
        word=word,
    )


def _figure(
    evidence: Evidence, records_: RecordSet, subject: str, models: tuple[str, ...], definition: str, decimals: int
) -> Item:
    """A statistic over measured models; where it is one of speed, with the verdicts behind it."""
    about = subjects.subject(subject)
    values = subjects.measured_values(evidence, records_, subject, models)
    item = table.number(
        statistics.summary(list(values.values())).get(definition),
        decimals,
        "number measured",
        why="no model has a figure",
    )
    if about.quantity != "speedup" or item.status:
        return item
    return replace(item, word=blocks.counted_words(evidence, records_, about.precision, models))


def _follows(statistic: str, fits: list[str], complete: bool) -> Item:
    """Whether the printed rows give the figure, and by which definitions; with rows left out, a no proves nothing."""
    if fits:
        names = ", ".join(name.partition("_")[2] for name in fits)
        return Item(f"yes: {names}" if statistic in DEFINED else "yes", len(fits), css="good text")
    return Item("no", 0, css="bad text") if complete else Item("not from these rows alone", 0, css="text")
