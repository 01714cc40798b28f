"""Latency and throughput: every model and batch size, published beside measured, and the spread behind them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from visionquant.analysis.frame import PUBLISHED
from visionquant.analysis.study import MachineSet, Study
from visionquant.report import columns, figure
from visionquant.report.columns import of_models, of_pair, of_pairs, source
from visionquant.report.figure import Dot, Figure
from visionquant.report.items import precision_label
from visionquant.report.table import Column, Table, build

PRINTED_SPEEDUPS = ("fp16", "int8")
ONLY_BATCH_1 = "The supplement prints batch size 1 only."


def latency(study: Study, run: MachineSet, batch_size: int) -> Table:
    """Median milliseconds and speedup over FP32."""
    statistics = study.params.statistics
    rest = "" if batch_size == 1 else f" {ONLY_BATCH_1}"
    caption = (
        f"Median of all timed forward passes; below it the {100 * statistics.confidence:g} % interval over replicate "
        "processes. A speedup above 1 is faster than FP32; the word below it is the verdict over processes "
        f"(Holm-corrected over the table; SAME within {100 * statistics.equivalence_margin:g} %; between cells that "
        f"were not measured in turns, what the machine moves by counts against it).{rest}"
    )
    headings = ("published, ms", "measured, ms", "published speedup", "measured speedup")
    return _table(study, run, batch_size, "Latency", caption, headings, "latency_median", "speedup")


def throughput(study: Study, run: MachineSet, batch_size: int) -> Table:
    """Images per second, and the change against FP32."""
    caption = (
        "Images over seconds of windows of their own, one in each process, without waiting between batches; below it "
        "the interval over processes, and the verdict on the change. "
        + ("Ten of the sixteen rows are not printed." if batch_size == 1 else ONLY_BATCH_1)
    )
    headings = ("published, samples/s", "measured, images/s", "published change, %", "measured change, %")
    return _table(study, run, batch_size, "Throughput", caption, headings, "throughput", "throughput_change")


def _table(
    study: Study, run: MachineSet, batch_size: int, title: str, caption: str, headings: tuple[str, ...], *names: str
) -> Table:
    """A quantity and its comparison with FP32, each as printed and as measured; printed at batch size 1 alone."""
    blocks = [
        columns.quantity(study, PUBLISHED, headings[0], names[0], columns.PRINTED_PRECISIONS),
        columns.quantity(study, run.source, headings[1], names[0], batch_size=batch_size),
        columns.quantity(study, PUBLISHED, headings[2], names[1], PRINTED_SPEEDUPS),
        columns.quantity(study, run.source, headings[3], names[1], study.compared, batch_size),
    ]
    name, label = columns.named(f"{title.lower()}-{batch_size}", f"Batch size {batch_size}", study, run)
    shown, provenance = of_models(*(blocks if batch_size == 1 else blocks[1::2])), study if batch_size == 1 else None
    title = f"{title}, batch size {batch_size}"
    return build(name, title, caption, shown, study.models, source(run, provenance), label)


def distribution(study: Study, run: MachineSet, batch_size: int) -> Table:
    """Mean, standard deviation and percentiles of each cell."""
    caption = (
        "Milliseconds over all timed passes. Outliers lie more than three interquartile ranges outside the quartiles "
        "of their own process; they are counted and stay in every figure. A percentile carries an interval between two "
        "order statistics, and is refused where the sample is too small for one."
    )
    percentiles = {f"latency_p{p}": f"p{p}" for p in study.params.statistics.percentiles}
    quantities = {"latency_outliers": "outliers", "latency_mean": "mean", "latency_std": "std (n-1)", **percentiles}

    def passes(pair: tuple[str, str]) -> list[int]:
        cell = run.state(*pair, batch_size).cell
        return [len(one.wall_ms) for one in cell.replicates] if cell else []

    shown = of_pairs(
        Column("passes", lambda pair: sum(passes(pair)) or None, why="nothing was timed"),
        Column("processes", lambda pair: len(passes(pair)) or None, why="nothing was timed"),
        *(of_pair(study, run, heading, name, batch_size) for name, heading in quantities.items()),
    )
    label = f"batch size {batch_size}"
    name, title = f"distribution-{batch_size}", f"Latency of every cell, {label}"
    return build(name, title, caption, shown, columns.pairs(study), source(run), label.capitalize())


def energy(study: Study, run: MachineSet, batch_size: int = 1) -> Table:
    """Joules an image above idle."""
    caption = "Joules an image, the idle machine's draw subtracted, over a window of at least 5 s on an energy counter."
    shown = of_models(columns.quantity(study, run.source, "J an image", "energy_per_image", batch_size=batch_size))
    title = f"Energy, batch size {batch_size}"
    return build(f"energy-{batch_size}", title, caption, shown, study.models, source(run))


def latency_figure(study: Study, run: MachineSet, batch_size: int = 1) -> Figure:
    """Median latency by model, published beside measured."""
    title = f"Latency by model, batch size {batch_size}"
    return _by_model(study, run, "latency", "latency_median", batch_size, title, "milliseconds (log scale)")


def speedup_figure(study: Study, run: MachineSet, batch_size: int = 1) -> Figure:
    """Speedup over FP32 by model, published beside measured; the line marks no difference."""
    title = f"Speedup over FP32 by model, batch size {batch_size}"
    axis = "times FP32's speed (log scale); right of the line is faster"
    return _by_model(study, run, "speedup", "speedup", batch_size, title, axis, 1.0)


def _by_model(
    study: Study,
    run: MachineSet,
    name: str,
    quantity: str,
    batch_size: int,
    title: str,
    axis: str,
    line: float | None = None,
) -> Figure:
    names, dots = study.compared if quantity == "speedup" else study.precisions, []
    for precision in names:
        for model in study.models:
            found = study.row(run.source, model, precision, batch_size, quantity)
            printed = study.value(PUBLISHED, model, precision, batch_size, quantity)
            if found.value is not None:
                dots.append(Dot(model, precision, found.value, found.low, found.high, word=found.verdict))
            if printed is not None:
                dots.append(Dot(model, precision, printed, hollow=True, size=5))
    judged = any(dot.word for dot in dots)
    caption = (
        f"Filled: measured, with the interval over processes{'; hollow: published' if batch_size == 1 else ''}. "
        + (figure.LETTERED if judged else "Absolute figures of different machines are not comparable.")
    )
    alt = f"A row a model, a mark a precision: {title.lower()}."
    keys = _keys(study, run, names, quantity, batch_size == 1)
    look, log = figure.looks(study), figure.log_scale
    svg = figure.dot_plot(dots, study.models, names, look, axis, 6.2, keys, 4, line=line, scale=log)
    return Figure(f"{name}-{batch_size}", title, caption, alt, source(run, study if batch_size == 1 else None), svg)


def distribution_figure(study: Study, run: MachineSet, batch_size: int = 1) -> Figure:
    """Every timed pass of every pair, relative to the pair's median."""
    caption = (
        "Each row is a cell: the thin line runs from the fastest to the slowest pass, the bar holds the middle "
        "half, the tick is the median. Nothing is dropped."
    )
    alt = "One panel a precision with a row a model, showing how far single passes lie from their cell's median."
    looks = figure.looks(study)
    precisions = [name for name in study.precisions if any(pair[1] == name for pair in run.records)]

    def panel(axes: Axes, precision: str) -> None:
        colour = looks[precision].colour
        for row, model in enumerate(study.models):
            cell = run.state(model, precision, batch_size).cell
            passes = [ms for one in cell.replicates for ms in one.wall_ms] if cell else []
            if passes:
                low, first, third, high = np.percentile(np.asarray(passes) / np.median(passes), [0, 25, 75, 100])
                axes.plot([low, high], [row, row], color=colour, linewidth=0.8)
                axes.plot([first, third], [row, row], color=colour, linewidth=5, solid_capstyle="butt", alpha=0.75)
                axes.plot([1.0], [row], "|", color=figure.INK, markersize=6)
        axes.set_title(precision_label(precision))
        figure.log_scale(axes)
        figure.line_at(axes, 1.0, 0.6)
        if precision == precisions[0]:
            figure.rows_of(axes, study.models)

    title, label = f"Spread of the timed passes, batch size {batch_size}", "pass / median of its cell (log scale)"
    shared = {"columns": max(1, len(precisions)), "sharey": True, "sharex": True}
    svg = figure.grid(precisions, panel, (9.0, 5.6), (), (label, ""), **shared)
    return Figure(f"distribution-{batch_size}", title, caption, alt, source(run), svg)


def throughput_figure(study: Study, run: MachineSet) -> Figure:
    """Images per second against batch size, a panel a model."""
    caption = (
        "Filled: measured; hollow: published (batch size 1, six models). A line that ends early has no figure "
        "there; the tables say why, and which changes against FP32 are beyond doubt."
    )
    alt = "Sixteen small panels, one a model, with a line a precision."
    looks, sizes = figure.looks(study), study.batch_sizes

    def panel(axes: Axes, model: str) -> None:
        for precision in study.precisions:
            look: Any = {"color": looks[precision].colour, "marker": looks[precision].marker}
            values = {size: study.value(run.source, model, precision, size, "throughput") for size in sizes}
            points = {size: value for size, value in values.items() if value is not None}
            if points:
                axes.plot(list(points), list(points.values()), markersize=4, linewidth=1, **look)
            printed = study.value(PUBLISHED, model, precision, 1, "throughput")
            if printed is not None:
                axes.plot([1], [printed], markersize=5, markerfacecolor="none", linestyle="none", **look)
        axes.set_title(model, fontsize=8)
        figure.log_scale(axes, "x", "y")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()

    keys, labels = _keys(study, run, study.precisions, "throughput"), ("batch size", "images per second (log scale)")
    svg = figure.grid(study.models, panel, (9.0, 1.9), keys, labels, key_columns=4, sharex=True)
    return Figure("throughput", "Throughput against batch size", caption, alt, source(run, study), svg)


def _keys(
    study: Study, run: MachineSet, precisions: tuple[str, ...], quantity: str, published: bool = True
) -> list[Line2D]:
    looks, keys = figure.looks(study), []
    for precision in precisions:
        label = precision_label(precision)
        if any(pair[1] == precision for pair in run.records):
            keys.append(figure.key(looks[precision], f"{label} measured"))
        if published and study.published.column(quantity, precision):
            keys.append(figure.key(looks[precision], f"{label} published", hollow=True))
    return keys
