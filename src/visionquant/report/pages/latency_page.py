"""Latency, speed and throughput: published beside measured, and which published cells wait for the host."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from visionquant.analysis import launch_bound
from visionquant.analysis.frame import PUBLISHED
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.report import columns, figure, items
from visionquant.report.columns import columns_of, for_pair, of_models, of_pairs, source
from visionquant.report.figure import Dot, Figure
from visionquant.report.items import MEASURED, TEXT, Item, precision_label, text
from visionquant.report.table import Column, Table, build

PRINTED_SPEEDUPS = ("fp16", "int8")
ONLY_BATCH_1 = "The supplement prints batch size 1 only."
NOT_COUNTED = "no operations counted"
BEFORE = "before rounds"


def latency(study: Study, run: MachineSet, batch_size: int) -> Table:
    """Median milliseconds and speedup over FP32."""
    statistics = study.params.statistics
    caption = (
        f"Median of the timed passes, with the {100 * statistics.confidence:g} % interval over rounds. A speedup above "
        "1 is faster than the FP32 of the same blocks; the mark is the verdict over rounds (Holm-corrected over the "
        f"table; SAME within {100 * statistics.equivalence_margin:g} %). {_before(run)}"
        f"{'' if batch_size == 1 else ONLY_BATCH_1}"
    )
    headings = ("published, ms", "measured, ms", "speedup")
    return _table(study, run, batch_size, "Latency", caption, headings, "latency_median", "speedup")


def throughput(study: Study, run: MachineSet, batch_size: int) -> Table:
    """Images per second, and the change against FP32."""
    printed = "Ten of the sixteen rows are not printed." if batch_size == 1 else ONLY_BATCH_1
    caption = f"Batch after batch, with intervals and verdicts over rounds. {_before(run)}{printed}"
    headings = ("published, samples/s", "measured, images/s", "change, %")
    return _table(study, run, batch_size, "Throughput", caption, headings, "throughput", "throughput_change")


def _table(
    study: Study, run: MachineSet, batch_size: int, title: str, caption: str, headings: tuple[str, ...], *names: str
) -> Table:
    """A quantity, and beside each other what was measured and printed against FP32; printed at batch size 1 alone."""
    published, measured, compared = headings
    printed = batch_size == 1
    sources = {"measured": columns_of(study, run.source, "", names[1], study.compared, batch_size)}
    if printed:
        sources["published"] = columns_of(study, PUBLISHED, "", names[1], PRINTED_SPEEDUPS)
    shown = of_models(
        columns_of(study, run.source, measured, names[0], batch_size=batch_size),
        columns.beside(compared, **sources),
        columns_of(study, PUBLISHED, published, names[0], columns.PRINTED_PRECISIONS) if printed else (),
    )
    name, label = columns.named(f"{title.lower()}-{batch_size}", f"Batch size {batch_size}", study, run)
    title, below = f"{title}, batch size {batch_size}", source(run, study if printed else None)
    return build(name, title, caption, shown, study.models, below, label, (), columns.picks(run.source, batch_size))


def speedups(study: Study, run: MachineSet, batch_size: int) -> Table:
    """Each speedup with its three intervals, FP32 against itself in the same blocks, and what stands behind it."""
    confidence = f"{100 * study.params.statistics.confidence:g} %"
    caption = (
        f"Interval: {confidence}, over rounds or over their blocks, whichever is wider. Pooled: with the spread of all "
        "models together, where they are alike. Another run: where one of as many rounds will fall. Placebo: FP32 over "
        f"FP32 once more, in the same blocks. {_before(run)}"
    )

    def interval(heading: str, name: str) -> Column:
        def of(pair: tuple[str, str]) -> Item:
            row = study.row(run.source, *pair, batch_size, name)
            if row.low is None or row.high is None:
                return items.missing(row.status or "not_available", row.reason or "no interval")
            low, high = (items.fixed(end, 2) for end in (row.low, row.high))
            return Item(f"{low} to {high}", items.key_of(row.high - row.low))

        return Column(heading, of, MEASURED)

    def rounds(pair: tuple[str, str]) -> str | None:
        cell = run.state(*pair, batch_size).cell
        return f"{cell.quiet_rounds(pair[1])} of {len(cell.rounds)}" if cell and cell.paired else None

    def remark(pair: tuple[str, str]) -> str:
        state = run.state(*pair, batch_size)
        if state.status == "ok":
            return BEFORE if run.before_rounds else ""
        return state.reason

    shown = of_pairs(
        for_pair(study, run, "speedup, x", "speedup", batch_size),
        interval("pooled", "speedup_pooled"),
        interval("another run", "speedup_prediction"),
        for_pair(study, run, "placebo", "placebo", batch_size),
        Column("quiet rounds", rounds, why="no rounds"),
        Column("remark", remark, TEXT),
    )
    rows = [pair for pair in columns.pairs(study) if pair[1] != BASELINE]
    name, title = f"speedups-{batch_size}", f"Speedups with their intervals, batch size {batch_size}"
    label, filters, picks = f"Batch size {batch_size}", ("Model", "Precision"), columns.picks(run.source, batch_size)
    return build(name, title, caption, shown, rows, source(run), label, filters, picks)


def _before(run: MachineSet) -> str:
    """What must be known of records before rounds; empty for others."""
    said = f"{BEFORE.capitalize()}: intervals are over processes, and ratios have neither one nor a verdict. "
    return said if run.before_rounds else ""


def energy(study: Study, run: MachineSet, batch_size: int = 1) -> Table:
    """Joules an image above idle."""
    caption = "Joules an image, the idle machine's draw subtracted, over a window of at least 5 s on an energy counter."
    shown = of_models(columns_of(study, run.source, "J an image", "energy_per_image", batch_size=batch_size))
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
    study: Study, run: MachineSet, name: str, quantity: str, size: int, title: str, axis: str, line: float | None = None
) -> Figure:
    names, dots = study.compared if quantity == "speedup" else study.precisions, []
    for model, precision in ((model, precision) for precision in names for model in study.models):
        row = study.row(run.source, model, precision, size, quantity)
        printed = study.value(PUBLISHED, model, precision, size, quantity)
        if row.value is not None:
            dots.append(Dot(model, precision, row.value, row.low, row.high, word=row.verdict))
        if printed is not None:
            dots.append(Dot(model, precision, printed, hollow=True, size=5))
    judged = any(dot.word for dot in dots)
    over = "processes" if run.before_rounds else "rounds"
    hollow = "; hollow: published, not ours" if size == 1 else ""
    caption = f"Filled: measured, with the interval over {over}{hollow}. " + (
        figure.LETTERED if judged else "Absolute figures of different machines are not comparable."
    )
    alt, look = f"A row a model, a mark a precision: {title.lower()}.", figure.looks(study)
    keys = figure.keys_beside(study, run, names, quantity, size == 1)
    svg = figure.dot_plot(
        dots, study.models, names, look, axis, 6.2, keys, 4, line=line, scale=figure.log_scale, stacked=(1, 1)
    )
    return Figure(f"{name}-{size}", title, caption, alt, source(run, study if size == 1 else None), svg)


def throughput_figure(study: Study, run: MachineSet) -> Figure:
    """Images per second against batch size, a panel a model."""
    caption = "Filled: measured; hollow: published, not ours. Where a line ends early, the tables say why."
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

    keys = figure.keys_beside(study, run, study.precisions, "throughput")
    labels = ("batch size", "images per second (log scale)")
    svg = figure.grid(study.models, panel, (9.0, 1.9), keys, labels, key_columns=4, sharex=True)
    return Figure("throughput", "Throughput against batch size", caption, alt, source(run, study), svg)


def roofline(study: Study, run: MachineSet) -> Table:
    """Each model's published FP32 and FP16 times beside the two floors, and which one explains it."""
    floors, peaks = launch_bound.floors(study), study.published.peaks
    host, cells = floors.host_us, {(cell.model, cell.precision): cell for cell in floors.cells.itertuples()}
    rate = f"about {host:.1f} microseconds an operation" if host else "not known without counts"
    caption = (
        "Operations: what one pass issues (views apart, attention as one), counted on the same networks with another "
        "version of the library than the published one, which recomputes BEiT's relative positions in every pass. "
        f"Work: the least the GPU needs for arithmetic and weights at its peak ({peaks.fp32_tflops:g} and "
        f"{peaks.fp16_tflops:g} TFLOP/s, {peaks.bandwidth_gb_per_s:g} GB/s). The published host: {rate}, read off the "
        f"{len(floors.idle)} models whose work takes at most a tenth of their published FP32 time. "
        f"Launch-bound: within {launch_bound.NEAR:g} times what the host alone needs, and the work is at most half of "
        "it. Beyond the host: longer than the host explains."
    )

    def operations(model: str) -> int | None:
        facts = study.facts(model)
        return facts.operations["fp16"] if facts else None

    def floor(heading: str, precision: str, name: str, css: str = items.NUMBER, decimals: int = 0) -> Column:
        def of(model: str) -> object:
            value = getattr(cells.get((model, precision)), name, None)
            return text(value, "text strong") if value == "launch-bound" else value

        return Column(heading, of, css, precision_label(precision), decimals, NOT_COUNTED)

    shown = of_models([Column("operations", operations, why=NOT_COUNTED)])
    for name in launch_bound.FLOATS:
        (printed,) = columns_of(study, PUBLISHED, precision_label(name), "latency_median", (name,))
        shown += [
            Column("published, ms", printed.of, items.PUBLISHED, printed.group),
            floor("work, ms", name, "work_ms", decimals=2),
            floor("us an operation", name, "us_per_operation", decimals=1),
            floor("reading", name, "reading", TEXT),
        ]
    speedups = study.published.column("speedup", "fp16")
    shown.append(Column("published FP16 speedup", speedups.get, items.PUBLISHED, "", 2, "not printed"))
    title = "Which published cells wait for the host"
    return build("launch-published", title, caption, shown, study.published.names, source(run, study))


def roofline_figure(study: Study, run: MachineSet) -> Figure:
    """Published FP32 and FP16 times against the operations of a pass, with the host's line."""
    floors, looks = launch_bound.floors(study), figure.looks(study)
    cells, host = floors.cells, floors.host_us
    line = f" The line: {host:.1f} microseconds an operation." if host else ""
    caption = (
        "Filled marks take no longer than about what the host alone needs, though the GPU's work would take less "
        f"than half of it: FP16 can't be faster there.{line}"
    )
    alt = "Published milliseconds against operations, with the line of the host's rate."

    def on(axes: Axes) -> None:
        for cell in cells.to_dict("records"):
            look, hollow = looks[cell["precision"]], cell["reading"] != "launch-bound"
            figure.mark(axes, cell["operations"], cell["published_ms"], look, 6, hollow)
        figure.log_scale(axes, "x", "y")
        if len(cells) and host:
            ends = np.asarray([cells.operations.min(), cells.operations.max()])
            axes.plot(ends, host * ends / 1e3, color=figure.INK, linewidth=0.8)
        axes.set(xlabel="operations of a pass (log scale)", ylabel="published milliseconds (log scale)")

    keys = [
        figure.key(looks[name], f"{precision_label(name)} {word}", hollow=word == "other")
        for word in ("launch-bound", "other")
        for name in launch_bound.FLOATS
    ]
    svg = figure.draw((9.0, 4.4), on, keys=keys, key_columns=4)
    return Figure("launches", "Published time against operations", caption, alt, source(run, study), svg)
