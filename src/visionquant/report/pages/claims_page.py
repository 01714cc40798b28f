"""The supplement's claims: how many follow, which are contradicted, each with its evidence, and the figures behind."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_args

from matplotlib.axes import Axes

from visionquant.analysis.claims.claim import Kind
from visionquant.analysis.claims.ledger import CheckedClaim, InternalWord, Ledger
from visionquant.analysis.claims.ledger import number as shown_number
from visionquant.analysis.claims.reproduction import ReproductionWord
from visionquant.analysis.frame import ARITHMETIC
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.report import figure
from visionquant.report.columns import PRINTED_PRECISIONS, block, of_models, source
from visionquant.report.figure import Dot, Figure
from visionquant.report.items import PUBLISHED, TEXT, Item, key_of, number, printed, text
from visionquant.report.page_map import place
from visionquant.report.table import Column, Table, build, say, texts

CASES = 5  # of each of the three answers


@dataclass(frozen=True)
class StoryPart:
    """One of the three answers about claims: a sentence, and (words, anchor of the claim) of its strongest cases."""

    heading: str
    sentence: str
    cases: tuple[tuple[str, str], ...]


def story(ledger: Ledger) -> tuple[StoryPart, ...]:
    """The claims in one screen: what holds, what doesn't, what could not be tested."""
    outcomes = Counter(row.claim.entry.outcome for row in ledger.claims if row.claim.entry.outcome)
    supported = [row for row in ledger.claims if row.reproduction == "supported"]
    values = {
        "claims": len(ledger.claims),
        "internal": ledger.counted("internal"),
        "measured": ledger.counted("reproduction"),
        "works": outcomes["works"],
        "runs": outcomes.total(),
        "counted": sum(row.claim.counted for row in supported),
    }
    untested = [row for row in ledger.claims if row.reproduction == "not comparable"]
    cases = {
        "What holds": ("holds", [row for row in supported if row.internal.word == "follows"]),
        "What doesn't": ("fails", ledger.contradictions()),
        "What could not be tested": ("untested", untested),
    }
    return tuple(StoryPart(heading, say(name, values), _cases(claims)) for heading, (name, claims) in cases.items())


def _cases(claims: Iterable[CheckedClaim]) -> tuple[tuple[str, str], ...]:
    """The first case of each entry, with how many more it stands for."""
    by_entry: dict[int, list[CheckedClaim]] = {}
    for row in claims:
        by_entry.setdefault(id(row.claim.entry), []).append(row)
    cases = []
    for first, *others in list(by_entry.values())[:CASES]:
        figure = f": printed {first.claim.printed.text}" if first.claim.printed else ""
        if first.internal.word == "contradicted" and first.internal.value is not None:
            figure += f"; computed anew {first.internal.value:,.6g}"
        more = f" (and {len(others)} like it)" if others else ""
        cases.append((f"{first.claim.says}{figure}{more}", first.anchor))
    return tuple(cases)


def claim_counts(study: Study, ledger: Ledger) -> Table:
    """Claims by the kind of evidence they take, and by verdict."""
    caption = (
        "Internal: does it follow from what the supplement prints? Reproduction: what the measured set says; times "
        "compare with the published card only, bytes on every machine."
    )
    members = {kind: [row for row in ledger.claims if row.claim.entry.kind == kind] for kind in get_args(Kind)}
    members["all"] = list(ledger.claims)

    def count(group: str, word: str, of: Callable[[CheckedClaim], str]) -> Column:
        return Column(word, lambda kind: sum(of(row) == word for row in members[kind]), group=group)

    shown = [
        Column("Evidence that it takes", lambda kind: text(kind, "text strong" if kind == "all" else ""), TEXT),
        Column("claims", lambda kind: len(members[kind])),
        *(count("internal", word, lambda row: row.internal.word) for word in get_args(InternalWord)),
        *(count("reproduction", word, lambda row: row.reproduction) for word in get_args(ReproductionWord)),
    ]
    return build("claims-counts", "Claims by kind and by verdict", caption, shown, members, source(study.measured))


def contradictions(study: Study, ledger: Ledger) -> Table:
    """What the supplement's own figures contradict, strongest first."""
    caption = "Apart: how far the nearest figure that the formula allows lies from the printed one, as a share of it."

    def apart(row: CheckedClaim) -> Item | str:
        return "a sentence" if row.internal.gap is None else number(100 * row.internal.gap, 1, unit="%")

    shown = [
        Column("Claim", _linked, TEXT),
        Column("printed", lambda row: printed(row.claim.printed) if row.claim.printed else "", PUBLISHED),
        Column("apart", apart),
        *texts(internal__why="the arithmetic"),
    ]
    below = "Published figures, counts of the committed architectures, data/supplement/releases.csv."
    title = "Contradicted, strongest first"
    return build("claims-contradictions", title, caption, shown, ledger.contradictions(), below)


def every(study: Study, ledger: Ledger) -> Table:
    """Every claim."""
    caption = "Each claim unfolds into its place, formula, inputs and the reasons of its verdicts."
    sections, runs = {section.id: section for section in ledger.sections}, study.shown

    def section(row: CheckedClaim) -> Item:
        found = sections[row.claim.entry.section]
        return Item(found.heading, found.heading, href=place(found.page))

    def recomputed(row: CheckedClaim) -> Item:
        check = row.internal
        if check.value is None or check.low is None or check.high is None:
            return Item("")
        bounds = "" if check.low == check.high else f"{shown_number(check.low)} to {shown_number(check.high)}"
        return Item(shown_number(check.value), key_of(check.value), bounds)

    def verdict(word: str, note: str = "") -> Item:
        return text(word, f"verdict {word}", note)

    def reproduced(i: int) -> Column:
        of = lambda row: verdict(row.reproductions[i].word, row.reproductions[i].why)  # noqa: E731
        return Column(headings[i], of, TEXT)

    headings = ["Reproduction"] if len(runs) == 1 else [f"Reproduction, {run.label}" for run in runs]
    shown = [
        Column("Claim", lambda row: Item(row.claim.says, row.claim.id, more=_folded(row), anchor=row.anchor), TEXT),
        Column("Section", section, TEXT),
        *texts(claim__entry__kind="Evidence"),
        Column("published", lambda row: printed(row.claim.printed) if row.claim.printed else "a sentence", PUBLISHED),
        Column("recomputed", recomputed),
        Column("Internal", lambda row: verdict(row.internal.word), TEXT),
        *map(reproduced, range(len(runs))),
    ]
    filters, below = ("Section", "Evidence", "Internal", *headings), source(study.measured)
    return build("claims", "Every claim", caption, shown, ledger.claims, below, filters=filters)


def listings(ledger: Ledger) -> Table:
    """The code listings, run for real."""

    css = {"works": "good"}
    shown = [
        Column("Claim", _linked, TEXT),
        Column("outcome", lambda row: Item(row.claim.entry.outcome, css=css.get(row.claim.entry.outcome, "bad")), TEXT),
        *texts(claim__entry__why="what happens"),
        Column("test", lambda row: row.claim.entry.shown_by.rpartition("::")[2], TEXT),
    ]
    caption = "Each is restated in its pattern and run by a test, which fails if the outcome is another."
    rows = [row for row in ledger.claims if row.claim.entry.outcome]
    return build("listings", "The listings, restated and run", caption, shown, rows, "Tests in tests/listings.")


def unprinted(study: Study, run: MachineSet) -> Table:
    """The rows that the memory and throughput tables leave out, and what they must have been."""
    caption = "From bytes and workspace, and as one over the printed latency; the statistics speak of all sixteen."
    memory, rate = (study.published.column(name, BASELINE) for name in ("memory_published", "throughput"))

    def reduction(model: str, precision: str) -> Item | str:
        saved = study.value(ARITHMETIC, model, precision, 0, "memory_reduction_workspace")
        return "printed" if model in memory else number(saved, 1, "no committed counts")

    def per_second(model: str, precision: str) -> Item | str:
        ms = study.published.value("latency_median", model, precision)
        return "printed" if model in rate else number(1e3 / ms if ms else None, 2, "no latency printed")

    shown = of_models(
        block("memory saved, %", ("fp16", "int8"), reduction), block("images/s", PRINTED_PRECISIONS, per_second)
    )
    rows = [name for name in study.published.names if name not in memory or name not in rate]
    return build("unprinted", "The rows that are not printed", caption, shown, rows, source(run, study))


def _linked(row: CheckedClaim) -> Item:
    return Item(row.claim.says, row.claim.says, href=f"claims.html#{row.anchor}")


def _folded(row: CheckedClaim) -> tuple[str, ...]:
    """The lines that a claim unfolds into."""
    claim, check, tolerance = row.claim, row.internal, row.claim.entry.tolerance
    lines = [f"Place: {claim.place}; id `{claim.id}`"]
    lines += [f"Formula{f' ({name})' if name else ''}: `{formula}`" for name, formula in claim.entry.formula.items()]
    lines += [f"Must hold: `{claim.entry.requires}`"] if claim.entry.requires else []
    if tolerance:
        parts = [f"{100 * tolerance.share:g} %"] if tolerance.share else []
        parts += [f"{tolerance.below:g} below"] if tolerance.below else []
        parts += [f"{tolerance.above:g} above"] if tolerance.above else []
        lines.append(f"Tolerance: {', '.join(parts)}: {tolerance.why}")
    lines.append(f"Internal: {check.word}. {check.why}")
    cells: dict[str, list[str]] = {}
    for (name, key, column), printed_text in check.inputs:
        heading = f"counts.{column}" if name == "counts" else f"{name}.csv {column}"
        cells.setdefault(heading, []).append(f"{key} {printed_text}")
    inputs = "; ".join(f"{heading}: {', '.join(texts)}" for heading, texts in cells.items())
    lines += [f"Inputs: {inputs}"] if inputs else []
    for found in row.reproductions:
        value, low, high = ("" if end is None else shown_number(end) for end in (found.value, found.low, found.high))
        ends = f" ({low} to {high})" if low and high else ""
        measured = f", measured {value}{ends}" if value else ""
        lines.append(f"Reproduction ({found.source}): {found.word}{measured}; {found.why}")
    return tuple(lines)


def memory_model_figure(study: Study, run: MachineSet) -> Figure:
    """Published memory less weights and workspace by arithmetic, a mark a cell; INT4 against NF4 and against INT8."""
    caption = (
        f"Weights by their bytes and {study.params.report.workspace_mib:g} MiB of workspace; the band is what an "
        "allocator may keep beside them. FP32, FP16 and INT8 fit; the INT4 column fits INT8 (hollow), not NF4 (filled)."
    )
    alt = "A row a model: marks of FP32, FP16 and INT8 within a narrow band, the filled INT4 marks far to the right."
    models, looks, dots = tuple(study.published.column("memory_published", BASELINE)), figure.looks(study), []
    for precision, bytes_of in (*((name, name) for name in PRINTED_PRECISIONS), ("nf4", "int8")):
        values = study.published.column("memory_published", precision)
        expected = study.column(ARITHMETIC, "memory_with_workspace", bytes_of, models)
        for model in [model for model in models if model in values and model in expected]:
            hollow = precision != bytes_of
            dots.append(Dot(model, precision, values[model] - expected[model], size=5, hollow=hollow))

    def scale(axes: Axes) -> None:
        axes.set_xscale("symlog", linthresh=4)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")

    hollow_key = figure.key(looks["nf4"], "published INT4 against INT8's bytes", hollow=True)
    keys, height = [*figure.keys_of(looks, PRINTED_PRECISIONS), hollow_key], 1.2 + 0.36 * len(models)
    label = "published MB less weights and workspace by arithmetic, MiB (linear to 4, then log)"
    look: Any = {"step": 0.14, "band": (0, 4)}
    svg = figure.dot_plot(dots, models, PRINTED_PRECISIONS, looks, label, height, keys, scale=scale, **look)
    return Figure("memory-model", "Published memory against arithmetic", caption, alt, source(run, study), svg)
