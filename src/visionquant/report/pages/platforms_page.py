"""Every recorded machine: what it is worth, what machines of a kind say together, and where they contradict."""

import math
from collections import Counter
from typing import Any

from visionquant.analysis import platforms
from visionquant.analysis.platforms import PlatformSummary, PooledSpeedup, Turnaround
from visionquant.analysis.study import Study
from visionquant.core.machine import Environment
from visionquant.report import figure
from visionquant.report.columns import machine
from visionquant.report.figure import Dot, Figure
from visionquant.report.items import MEASURED, TEXT, Item, fixed, joined, missing, number, precision_label, text
from visionquant.report.table import Column, Table, build

NO_ROUNDS = "no interval: before rounds, or one round"


def machines(study: Study) -> Table:
    """Each machine's facts, coverage, noise and gates, and how often its speedups agree with the others'."""
    caption = (
        "Half-width: of the interval of a speedup at batch size 1, the median over models and precisions. Agreement: a "
        "speedup and the median of those of the other machines are on one side of 1, or both within the margin."
    )

    def fact(of: Any) -> Any:
        return lambda row: of(row.run.environment)

    def instructions(found: Environment) -> str:
        return joined(found.cpu_isa) + "".join(f"; {limit}" for limit in found.isa_limits or ())

    def gate(found: Any, known: bool) -> Item:
        return text("passed" if found.passed else "failed", note=found.text) if known else missing("", found.text)

    def half_width(row: PlatformSummary) -> float | None:
        return row.half_width and math.expm1(row.half_width)

    shown = [
        Column("Set", lambda row: machine(row.run.source), TEXT),
        Column("kind", "kind", TEXT),
        Column("machine", fact(lambda found: found.title), TEXT),
        Column("instruction sets", fact(instructions), TEXT),
        Column("weights", lambda row: row.run.weights, TEXT),
        Column("cells ok", lambda row: f"{row.ok} of {row.cells}", TEXT),
        Column("half-width, %", half_width, MEASURED, "", 1, NO_ROUNDS, 100),
        Column("placebo", lambda row: number(_known(row), 3, row.placebo.text, note=row.placebo.text), MEASURED),
        Column("placebo gate", lambda row: gate(row.placebo, _known(row) is not None), TEXT),
        Column("first / last rounds", lambda row: gate(row.halves, row.halves.compared > 0), TEXT),
        Column("agrees with others", _agreement, TEXT),
    ]
    return build("machines", "Machines", caption, shown, platforms.summaries(study), _source(study))


def _known(row: PlatformSummary) -> float | None:
    return None if math.isnan(row.placebo.ratio) else row.placebo.ratio


def _agreement(row: PlatformSummary) -> Item:
    if not row.shared:
        return missing("", "no other machine measured the same")
    return text(f"{row.alike} of {row.shared} speedups")


def pooled(study: Study) -> Table:
    """Does a precision help a model on a kind of hardware, and how sure is that?"""
    every = platforms.pooled(study)
    rows = [row for row in every if row.effects]
    caption = (
        f"{len(rows)} of {len(every)} speedups have two machines of a kind with an interval. {_coverage(study)} "
        "Random effects, batch size 1: the mean of log ratios with its "
        f"{100 * study.params.statistics.confidence:g} % interval, the spread (standard deviation) between them, "
        "and the share of variation that their errors don't explain. The word is of each interval alone, uncorrected."
    )

    def of(row: PooledSpeedup, name: str) -> float | None:
        return getattr(row.effects, name)

    def ratio(row: PooledSpeedup) -> Item:
        value, low, high = (of(row, name) for name in ("ratio", "low", "high"))
        return number(value, 2, low=low, high=high, word=row.word)

    def another(row: PooledSpeedup) -> Item:
        low, high = of(row, "next_low"), of(row, "next_high")
        if low is None or high is None:
            return missing("", "three machines are needed")
        return Item(f"{fixed(low, 2)} to {fixed(high, 2)}", low)

    shown = [
        Column("Kind", "kind", TEXT),
        Column("Model", "model", TEXT),
        Column("Precision", lambda row: precision_label(row.precision), TEXT),
        Column("weights", "weights", TEXT),
        Column("machines", "machines"),
        Column("medians alone", "medians"),
        Column("speedup, x", ratio, MEASURED),
        Column("one more machine", another, MEASURED),
        Column("spread between, %", lambda row: of(row, "tau"), MEASURED, "", 1, factor=100),
        Column("I squared, %", lambda row: of(row, "i2"), MEASURED, factor=100),
        Column("p of no difference", lambda row: of(row, "p"), MEASURED, decimals=3),
    ]
    filters = ("Kind", "Model", "Precision")
    return build("pooled", "Speedups over machines of a kind", caption, shown, rows, _source(study), filters=filters)


def _coverage(study: Study) -> str:
    """Which machines can be pooled and which can't, in two sentences."""
    runs = platforms.distinct(study)
    old = [machine(run.source) for run in runs if run.before_rounds]
    kinds = Counter(platforms.kind_of(run.environment) for run in runs if run.environment and not run.before_rounds)
    said = f"Machines with intervals: {joined(f'{kind} {count}' for kind, count in kinds.items())}."
    return said + (f" From before rounds, medians without intervals, in no pool: {', '.join(old)}." if old else "")


def turnarounds(study: Study) -> Table:
    """Where a precision is faster on one machine and slower on another, with what tells them apart."""
    caption = (
        "By verdicts, of sets from before rounds by medians beside the margin. Facts are those that were recorded of a "
        "slower machine and of no faster one, by topics that both recorded: candidates for the cause, not its proof."
    )

    def side(values: dict[str, float]) -> Item:
        shown = [f"{machine(source)} {fixed(value, 2)}" for source, value in values.items()]
        return text(", ".join(shown))

    def facts(row: Turnaround) -> Item:
        lines = [
            f"{', '.join(map(machine, sources))}: {joined(found, 'no recorded fact')}"
            for sources, found in row.explained.items()
        ]
        return text("; ".join(lines))

    shown = [
        Column("Model", "model", TEXT),
        Column("Precision", lambda row: precision_label(row.precision), TEXT),
        Column("faster on", lambda row: side(row.faster), TEXT),
        Column("slower on", lambda row: side(row.slower), TEXT),
        Column("by", lambda row: "verdicts" if row.judged else "medians on a side", TEXT),
        Column("only where it is slower", facts, TEXT),
    ]
    rows, filters = platforms.turnarounds(study), ("Model", "Precision")
    return build("turnarounds", "Verdicts that turn", caption, shown, rows, _source(study), filters=filters)


def forest(study: Study) -> Figure:
    """The speedups of the model that most machines measured, a row a machine, with the means of each kind."""
    found = platforms.speedups(study)
    counts = found.groupby("model", sort=False).size()
    model = next((name for name in study.models if name in counts and counts[name] == counts.max()), "")
    found = found[found.model == model]
    dots, rows = [], list[str]()
    pools = [row for row in platforms.pooled(study) if row.model == model and row.effects]
    kinds: Any = found.groupby("kind", sort=False)
    for kind, group in kinds:
        for row in group.to_dict("records"):
            known, name = row["error"] > 0, machine(str(row["source"]))
            low, high = (row["low"], row["high"]) if known else (None, None)
            dots.append(Dot(name, row["precision"], row["value"], low, high, hollow=not known, word=row["verdict"]))
            rows += [name] * (name not in rows)
        for one in pools:
            if one.kind == kind and one.effects:
                name, mean = f"all: {kind}", one.effects
                dots.append(Dot(name, one.precision, mean.ratio, mean.low, mean.high, size=7.5, word=one.word))
                rows += [name] * (name not in rows)
    by = [name for name in study.compared if name in set(found.precision)]
    caption = f"{model or 'No model'}, batch size 1, with intervals; hollow: a median from before rounds, or one round."
    alt = "A row a machine and a kind, in each a mark and an interval a precision, around the line of no difference."
    look: Any = {"line": 1.0, "scale": figure.log_scale}
    height = 1.2 + 0.6 * max(1, len(rows))
    svg = figure.dot_plot(dots, rows, by, figure.looks(study), "speedup over FP32", height, **look)
    return Figure("forest", "One model on every machine", f"{caption} {figure.LETTERED}", alt, _source(study), svg)


def _source(study: Study) -> str:
    runs = platforms.distinct(study)
    return f"Sets: {len(runs)}; weights: {joined(sorted({run.weights for run in runs if run.weights}))}."
