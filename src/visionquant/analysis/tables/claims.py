"""The claims on trial: how many hold, which are contradicted, and every one with its formula, inputs and evidence."""

from collections.abc import Iterable
from typing import get_args

from visionquant.analysis import table
from visionquant.analysis.claims.claim import Kind
from visionquant.analysis.claims.judge import Internal, number
from visionquant.analysis.claims.measures import Word
from visionquant.analysis.claims.reproduce import Reproduction
from visionquant.analysis.claims.trial import Trial, Tried
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks


def counts(evidence: Evidence, trial: Trial) -> Table:
    """Claims by the kind of evidence they take, and by verdict."""
    rows = []
    for kind in get_args(Kind):
        mine = [one for one in trial.tried if one.claim.entry.kind == kind]
        rows.append((table.text(kind), table.number(len(mine), 0), *_counted(mine)))
    rows.append((table.text("all", css="text strong"), table.number(len(trial.tried), 0), *_counted(trial.tried)))
    return Table(
        "claims-counts",
        "Claims by kind and by verdict",
        "Internal: does the claim follow from what the supplement itself prints? Reproduction: what the set of records "
        "behind the measured columns says; times compare with the published card only, bytes on every machine.",
        (
            Column("Evidence that it takes", css="text"),
            Column("claims"),
            *(Column(word, "internal") for word in get_args(Internal)),
            *(Column(word, "reproduction") for word in get_args(Word)),
        ),
        tuple(rows),
        blocks.source(evidence.measured),
    )


def contradictions(evidence: Evidence, trial: Trial) -> Table:
    """What the supplement's own figures contradict, strongest first."""
    rows = []
    for one in trial.contradictions():
        gap = one.judgement.gap
        rows.append(
            (
                Item(one.claim.says, one.claim.says, css="text", href=f"claims.html#{one.anchor}"),
                table.printed(one.claim.printed) if one.claim.printed else table.text(""),
                table.number(100 * gap, 1, unit="%") if gap is not None else table.text("a sentence", css="number"),
                table.text(one.judgement.why),
            )
        )
    return Table(
        "claims-contradictions",
        "Contradicted, strongest first",
        "Apart: how far the nearest figure that the formula allows lies from the printed one, as a share of it.",
        (
            Column("Claim", css="text"),
            Column("printed", css="number published"),
            Column("apart"),
            Column("the arithmetic", css="text"),
        ),
        tuple(rows),
        "Published figures, counts of the committed architectures, data/supplement/releases.csv.",
    )


def ledger(evidence: Evidence, trial: Trial) -> Table:
    """Every claim."""
    pages = {section.id: section for section in trial.ledger.sections}
    rows = []
    for one in trial.tried:
        section = pages[one.claim.entry.section]
        rows.append(
            (
                Item(one.claim.says, one.claim.id, css="text", more=_folded(one), anchor=one.anchor),
                Item(section.heading, section.heading, css="text", href=f"{section.page}.html"),
                table.text(one.claim.entry.kind),
                table.printed(one.claim.printed) if one.claim.printed else table.text("a sentence", css="number"),
                _recomputed(one),
                _verdict(one.judgement.internal),
                *(_reproduced(each) for each in one.reproductions),
            )
        )
    sets = evidence.shown
    headings = ["Reproduction"] if len(sets) == 1 else [f"Reproduction, {one.label}" for one in sets]
    return Table(
        "claims",
        "Every claim",
        "Each claim unfolds into its place, formula, inputs and the reasons of its verdicts.",
        (
            Column("Claim", css="text"),
            Column("Section", css="text"),
            Column("Evidence", css="text"),
            Column("published", css="number published"),
            Column("recomputed"),
            Column("Internal", css="text"),
            *(Column(heading, css="text") for heading in headings),
        ),
        tuple(rows),
        blocks.source(evidence.measured),
        filters=("Section", "Evidence", "Internal", *headings),
    )


def listings(trial: Trial) -> Table:
    """The code listings, run for real."""
    rows = [
        (
            Item(one.claim.says, one.claim.id, css="text", href=f"claims.html#{one.anchor}"),
            Item(one.claim.entry.outcome, css="good" if one.claim.entry.outcome == "works" else "bad"),
            table.text(one.claim.entry.why),
            table.text(one.claim.entry.shown_by.rpartition("::")[2]),
        )
        for one in trial.tried
        if one.claim.entry.outcome
    ]
    return Table(
        "listings",
        "The listings, restated and run",
        "Each is restated in its pattern and run by a test, which fails if the outcome is another.",
        (
            Column("Claim", css="text"),
            Column("outcome", css="text"),
            Column("what happens", css="text"),
            Column("test", css="text"),
        ),
        tuple(rows),
        "Tests in tests/listings.",
    )


def _folded(one: Tried) -> tuple[str, ...]:
    claim, found = one.claim, one.judgement
    lines = [f"Place: {claim.place}; id `{claim.id}`"]
    lines += [f"Formula{f' ({name})' if name else ''}: `{text}`" for name, text in claim.readings]
    if claim.entry.requires:
        lines.append(f"Must hold: `{claim.entry.requires}`")
    if claim.entry.tolerance:
        lines.append(f"Tolerance: {_tolerance(one)}")
    lines.append(f"Internal: {found.internal}. {found.why}")
    if found.inputs:
        lines.append(f"Inputs: {_inputs(found.inputs)}")
    lines += [f"Reproduction ({each.source}): {each.word}{_figure(each)}; {each.why}" for each in one.reproductions]
    return tuple(lines)


def _inputs(inputs: tuple[tuple[str, str], ...]) -> str:
    """Cells by table and column, each with its row and text."""
    columns: dict[str, list[str]] = {}
    for name, text in inputs:
        table_, _, rest = name.partition(" ")
        row, _, column = rest.rpartition(" ")
        heading, row = (f"{table_} {column}", row) if rest else (name.partition("[")[0], name.partition("[")[2][:-1])
        columns.setdefault(heading, []).append(f"{row} {text}")
    return "; ".join(f"{heading}: {', '.join(cells)}" for heading, cells in columns.items())


def _tolerance(one: Tried) -> str:
    tolerance = one.claim.entry.tolerance
    if tolerance is None:
        return ""
    parts = [f"{100 * tolerance.share:g} %"] if tolerance.share else []
    parts += [f"{tolerance.below:g} below"] if tolerance.below else []
    parts += [f"{tolerance.above:g} above"] if tolerance.above else []
    return f"{', '.join(parts)}: {tolerance.why}"


def _figure(found: Reproduction) -> str:
    if found.value is None:
        return ""
    bounds = (
        f" ({number(found.low)} to {number(found.high)})" if found.low is not None and found.high is not None else ""
    )
    return f", measured {number(found.value)}{bounds}"


def _recomputed(one: Tried) -> Item:
    found = one.judgement
    if found.recomputed is None or found.low is None or found.high is None:
        return Item("", css="number")
    bounds = "" if found.low == found.high else f"{number(found.low)} to {number(found.high)}"
    return Item(number(found.recomputed), table.key_of(found.recomputed), bounds, css="number")


def _verdict(word: str, note: str = "") -> Item:
    return Item(word, word, css=f"verdict {word}", note=note)


def _reproduced(found: Reproduction) -> Item:
    return _verdict(found.word, found.why)


def _counted(tried: Iterable[Tried]) -> tuple[Item, ...]:
    members = list(tried)
    internal = [sum(one.judgement.internal == word for one in members) for word in get_args(Internal)]
    measured = [sum(one.reproduction == word for one in members) for word in get_args(Word)]
    return tuple(table.number(count, 0) for count in (*internal, *measured))


def unprinted(evidence: Evidence, records_: RecordSet) -> Table:
    """The rows that the memory and throughput tables leave out, and what they must have been."""
    published = evidence.published
    printed_memory = published.column("memory_published", "fp32")
    printed_rate = published.column("throughput", "fp32")
    saved = {
        name: evidence.arithmetic("memory_reduction_workspace", name, evidence.models) for name in ("fp16", "int8")
    }
    rows = []
    for row in published.models:
        if row.name in printed_memory and row.name in printed_rate:
            continue
        items = [table.text(row.name)]
        for precision in ("fp16", "int8"):
            items.append(
                table.text("printed", css="number")
                if row.name in printed_memory
                else table.number(saved[precision].get(row.name), 1, why="no committed counts")
            )
        for precision in ("fp32", "fp16", "int8", "nf4"):
            ms = published.value("latency_median", row.name, precision)
            items.append(
                table.text("printed", css="number")
                if row.name in printed_rate
                else table.number(1e3 / ms if ms else None, 2, why="no latency printed")
            )
        rows.append(tuple(items))
    return Table(
        "unprinted",
        "The rows that are not printed",
        "Memory saved as bytes and workspace give it, without what the allocator keeps beside them; throughput as one "
        "over the printed latency. The statistics of the supplement speak of all sixteen models.",
        (
            Column("Model", css="text"),
            Column("FP16", "memory saved, %"),
            Column("INT8", "memory saved, %"),
            *(Column(blocks.precision_label(name), "images/s") for name in ("fp32", "fp16", "int8", "nf4")),
        ),
        tuple(rows),
        blocks.source(records_, evidence),
    )
