"""What the supplement says over all models and over groups, recomputed from its rows and measured; its validation."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from visionquant.analysis import estimators
from visionquant.analysis.claims import ledger
from visionquant.analysis.claims.claim import Claim
from visionquant.analysis.claims.reproduction import Reproduction
from visionquant.analysis.published import GROUP_BOUNDS, SUBJECTS
from visionquant.analysis.study import MachineSet, Study
from visionquant.core.quantities import quantity as described
from visionquant.report import figure, items
from visionquant.report.columns import block, counted_words, median, picks, source
from visionquant.report.figure import Figure
from visionquant.report.items import MEASURED, NUMBER, PUBLISHED, TEXT, Item, missing, number, printed, text
from visionquant.report.table import Column, Table, build, texts

DEFINED = {"std": "standard deviation", "p95": "95th percentile"}
UNPRINTED = "no row of this reading is printed"


def over_models(study: Study, run: MachineSet) -> Table:
    """Each printed statistic, recomputed from the printed column, and measured."""
    caption = "Recomputed from the printed rows: std with n-1, percentile by numpy's linear rule."
    models, rows = study.published.names, []
    for row in study.published.statistics:
        about, definition = SUBJECTS[row.subject], estimators.default_definition(row.statistic)
        values = list(study.published.subject_values(row.subject).values())
        measured = len(study.measured_values(run, row.subject, models))
        fits = estimators.reproducing(row.statistic, row.printed, values)
        again = number(estimators.summary(values).get(definition), described(about.quantity).decimals + 1)
        follows = _follows(row.statistic, fits, len(values) == len(models))
        figure_ = _measured(study, run, row.subject, models, definition)
        name, of = DEFINED.get(row.statistic, row.statistic), len(models)
        share = f"{len(values)} of {of}"
        rows.append((about.label, name, printed(row.printed), again, share, follows, figure_, f"{measured} of {of}"))
    css = {"Subject": TEXT, "statistic": TEXT, "published": PUBLISHED, "recomputed": NUMBER, "rows printed": TEXT}
    css |= {"follows from the printed rows": TEXT, "measured": MEASURED, "models": TEXT}
    shown = [Column(heading, place, css[heading]) for place, heading in enumerate(css)]
    return build("statistics", "Statistics over models, batch size 1", caption, shown, rows, source(run, study))


def groups(study: Study, run: MachineSet) -> Table:
    """The printed group patterns under each reading of a group."""
    caption = "Groups as listed and as defined by parameter count differ: each claim is computed under every reading."
    rows = []
    for claim in study.published.groups:
        about = SUBJECTS[claim.subject]
        for reading, models in study.published.readings(claim.group).items():
            values = study.published.subject_values(claim.subject, models)
            again = estimators.summary(list(values.values())).get(claim.computed)
            agrees = items.yes(again is not None and claim.printed.rounds_from(again))
            agrees = missing("not_published", UNPRINTED) if again is None else agrees
            what = text(f"{about.label}, {claim.statistic}", note=claim.statement)
            which = text(f"{reading}, {len(models)} models", note=", ".join(models))
            recomputed = number(again, described(about.quantity).decimals, UNPRINTED)
            measured = _measured(study, run, claim.subject, models, claim.computed)
            rows.append((claim.group, what, which, printed(claim.printed), recomputed, agrees, measured))
    css = {"Group": TEXT, "claim": TEXT, "reading of the group": TEXT, "published": PUBLISHED}
    css |= {"from the printed rows": NUMBER, "agrees": TEXT, "measured": MEASURED}
    shown = [Column(heading, place, css[heading]) for place, heading in enumerate(css)]
    return build("groups", "Group patterns, batch size 1", caption, shown, rows, source(run, study))


def group_medians(study: Study, run: MachineSet, batch_size: int) -> Table:
    """Median speedup and memory reduction of each listed group and precision."""
    caption = "Median over the group's models, with the range."

    def of(quantity: str, group: str, precision: str) -> Item:
        models, decimals = study.published.group(group), 2 if quantity == "speedup" else 1
        values = study.column(run.source, quantity, precision, models, batch_size)
        word = counted_words(study, run, precision, models, batch_size) if quantity == "speedup" else ""
        return median(values, decimals, word=word)

    reduction = study.counterpart(run, "memory_reduction")
    shown = [
        Column("Group", str, TEXT),
        Column("models", lambda group: len(study.published.group(group))),
        *block("measured speedup", study.compared, partial(of, "speedup"), MEASURED),
        *block("measured memory reduction, %", study.compared, partial(of, reduction), MEASURED),
    ]
    name, label = f"group-medians-{batch_size}", f"Batch size {batch_size}"
    title, by = f"Groups as listed, {label.lower()}", picks(run.source, batch_size)
    return build(name, title, caption, shown, GROUP_BOUNDS, source(run), label, (), by)


def edge(study: Study, run: MachineSet) -> Table:
    """The edge claims, with the measured figure where there is one."""
    models = study.published.group("edge")
    speedups = study.measured_values(run, "fp16_speedup", models)
    reductions = study.measured_values(run, "int8_memory_reduction", models)
    cuts = [100 * (1 - 1 / value) for value in speedups.values()]
    measured = {
        "memory_reduction_int8": ([*reductions.values()], "median memory reduction of the edge models"),
        "compute_reduction_fp16": (cuts, "median cut of the edge models' latency in FP16 (below zero: longer)"),
    }

    def middle(row: Any) -> Item:
        if row.subject not in measured:
            return missing("not_available", "nothing here measures it")
        return number(estimators.summary(measured[row.subject][0]).get("median"), 1, "no model has a figure", "%")

    shown = [
        *texts(statement="Statement"),
        Column("published", lambda row: printed(row.printed, row.unit), PUBLISHED),
        Column("measured", middle, MEASURED),
        Column("what was measured", lambda row: measured.get(row.subject, ("", "not measured by this study"))[1], TEXT),
    ]
    caption = "Beside each claim the nearest figure that was measured, where there is one."
    return build("edge", "Edge deployment, as published", caption, shown, study.published.edge, source(run))


def validation(study: Study) -> Table:
    """The three expected metrics, judged."""
    caption = "Within 5 % of the expected figure, by the whole interval; only figures of the published GPU can tell."
    css = {"supported": "good", "refuted": "bad"}

    def measured(row: tuple[Claim, Reproduction]) -> Item:
        found = row[1]
        return number(found.value, 3, found.why, low=found.low, high=found.high, status="not_measured")

    shown = [
        Column("Metric", lambda row: row[0].row, TEXT),
        Column("published", lambda row: printed(row[0].printed), PUBLISHED),
        Column("set", lambda row: row[1].source, TEXT),
        Column("measured", measured, MEASURED),
        Column("verdict", lambda row: text(row[1].word, css.get(row[1].word, "")), TEXT),
        Column("why", lambda row: row[1].why, TEXT),
    ]
    return build("validation", "The supplement's validation", caption, shown, ledger.validation(study))


def groups_figure(study: Study, run: MachineSet) -> Figure:
    """FP16 speedup of each listed group, published beside measured."""
    caption = f"A mark a model; groups as listed. Right of the line is faster than FP32. {figure.LETTERED}"
    alt = "Two panels, published and measured, with a row a group and a mark a model."
    look = figure.LOOKS["fp16"]
    sides = {source: study.column(source, "speedup", "fp16") for source in ("published", run.source)}

    def on(panels: np.ndarray) -> None:
        for axes, (source_, values) in zip(panels, sides.items(), strict=True):
            face = "none" if source_ == "published" else look.colour
            style = {"color": look.colour, "markerfacecolor": face, "linestyle": "none"}
            for row, group in enumerate(GROUP_BOUNDS):
                models = [model for model in study.published.group(group) if model in values]
                axes.plot([values[model] for model in models], [row] * len(models), look.marker, **style)
                for model in models:
                    figure.letter(axes, values[model], row, study.row(source_, model, "fp16", 1, "speedup").verdict)
            figure.line_at(axes, 1.0)
            title = "published" if source_ == "published" else run.label
            axes.set(title=title, xlabel="FP16 speedup over FP32, x")
        figure.rows_of(panels[0], tuple(GROUP_BOUNDS))

    svg, title = figure.draw((9.0, 3.4), on, (1, 2), sharey=True), "FP16 speedup by group, batch size 1"
    return Figure("groups", title, caption, alt, source(run, study), svg)


def published_against_measured(study: Study, run: MachineSet) -> Figure:
    """Each printed figure against its measured counterpart; on the line they are the same."""
    caption = (
        "On the line both are the same. Memory (on a CPU: stored weights plus workspace) is a matter of bytes and "
        "can be compared on any machine; latency and throughput only on the published GPU. " + figure.LETTERED
    )
    alt = "Four panels of published figures against measured ones, with the line on which both are the same."
    titles = {"latency_median": "Latency, ms", "speedup": "Speedup over FP32, x"}
    titles |= {"memory_published": "Memory, MiB", "throughput": "Throughput, images/s"}
    looks = figure.looks(study)

    def panel(axes: Axes, quantity: str) -> None:
        name, ends = study.counterpart(run, quantity), list[float]()
        for precision in study.compared if quantity == "speedup" else study.precisions:
            column, look = study.published.column(quantity, precision), looks[precision]
            measured = study.column(run.source, name, precision, column)
            x, y = [column[model] for model in measured], list(measured.values())
            if measured:
                axes.plot(x, y, look.marker, color=look.colour, markersize=4.5, linestyle="none")
            for model in measured if quantity == "speedup" else ():
                word = study.row(run.source, model, precision, 1, quantity).verdict
                figure.letter(axes, column[model], measured[model], word)
            ends += [*x, *y]
        if ends:
            axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=figure.INK, linewidth=0.7)
        figure.log_scale(axes, "x", "y")
        axes.set(title=titles[quantity], xlabel="published", ylabel="measured")

    svg = figure.grid(tuple(titles), panel, (9.0, 3.8), figure.keys_of(looks, study.precisions), ("", ""), columns=2)
    title = "Published against measured, batch size 1"
    return Figure("published-against-measured", title, caption, alt, source(run, study), svg)


def _measured(study: Study, run: MachineSet, subject: str, models: tuple[str, ...], definition: str) -> Item:
    """A statistic over measured models; where it is one of speed, with the verdicts behind it."""
    about, values = SUBJECTS[subject], study.measured_values(run, subject, models)
    value = estimators.summary(list(values.values())).get(definition)
    item = number(value, described(about.quantity).decimals, "no model has a figure")
    if about.quantity != "speedup" or item.status:
        return item
    return replace(item, word=counted_words(study, run, about.precision, models))


def _follows(statistic: str, fits: list[str], complete: bool) -> Item:
    """Whether the printed rows give the figure, and by which definitions; with rows left out, a no proves nothing."""
    if fits:
        names = ", ".join(name.partition("_")[2] for name in fits)
        return Item(f"yes: {names}" if statistic in DEFINED else "yes", len(fits), css="good text")
    return Item("no", 0, css="bad text") if complete else Item("not from these rows alone", 0)
