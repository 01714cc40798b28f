"""Figures with a row or a panel a model: latency, speedup, its spread, throughput against batch size."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.tables import blocks


def latency(evidence: Evidence, records_: RecordSet, batch_size: int = 1) -> Figure:
    """Median latency by model, published beside measured."""
    return _by_model(
        evidence,
        records_,
        "latency_median",
        evidence.precisions,
        batch_size,
        f"Latency by model, batch size {batch_size}",
        "milliseconds (log scale)",
        "latency",
    )


def speedup(evidence: Evidence, records_: RecordSet, batch_size: int = 1) -> Figure:
    """Speedup over FP32 by model, published beside measured; the line marks no difference."""
    return _by_model(
        evidence,
        records_,
        "speedup",
        blocks.compared(evidence),
        batch_size,
        f"Speedup over FP32 by model, batch size {batch_size}",
        "times FP32's speed (log scale); right of the line is faster",
        "speedup",
        line=1.0,
    )


def distribution(evidence: Evidence, records_: RecordSet, batch_size: int = 1) -> Figure:
    """Every timed pass of every pair, relative to the pair's median."""
    precisions = [name for name in evidence.precisions if any(pair[1] == name for pair in records_.records)]
    with canvas.drawing(9.0, 5.6, 1, max(1, len(precisions)), sharey=True, sharex=True, squeeze=False) as (
        figure,
        axes,
    ):
        for panel, precision in zip(axes[0], precisions, strict=False):
            for row, model in enumerate(evidence.models):
                cell = records_.state(model, precision, batch_size).cell
                passes = [ms for one in cell.replicates for ms in one.wall_ms] if cell else []
                if passes:
                    _spread(panel, row, np.asarray(passes) / np.median(passes), canvas.colour(precision))
            panel.set_title(blocks.precision_label(precision))
            canvas.log_scale(panel, "x")
            panel.axvline(1.0, color=canvas.INK, linewidth=0.6)
        canvas.rows_of(axes[0][0], evidence.models)
        figure.supxlabel("pass / median of its cell (log scale)", fontsize=9)
        return Figure(
            f"distribution-{batch_size}",
            f"Spread of the timed passes, batch size {batch_size}",
            "Each row is a cell: the thin line runs from the fastest to the slowest pass, the bar holds the middle "
            "half, the tick is the median. Nothing is dropped.",
            "One panel a precision with a row a model, showing how far single passes lie from their cell's median.",
            blocks.source(records_),
            canvas.svg(figure),
        )


def throughput(evidence: Evidence, records_: RecordSet) -> Figure:
    """Images per second against batch size, a panel a model."""
    models = evidence.models
    height = -(-len(models) // 4)
    sizes = evidence.batch_sizes
    with canvas.drawing(9.0, 1.9 * height, height, 4, sharex=True, squeeze=False) as (figure, axes):
        for panel, model in zip(axes.flat, models, strict=False):
            for precision in evidence.precisions:
                found = [evidence.estimate(records_, "throughput", model, precision, size).value for size in sizes]
                points = [(size, value) for size, value in zip(sizes, found, strict=True) if value is not None]
                if points:
                    panel.plot(
                        *zip(*points, strict=True),
                        color=canvas.colour(precision),
                        marker=canvas.marker(precision),
                        markersize=4,
                        linewidth=1,
                    )
                printed = evidence.published.value("throughput", model, precision)
                if printed is not None:
                    panel.plot([1], [printed], color=canvas.colour(precision), marker=canvas.marker(precision),
                               markersize=5, markerfacecolor="none", linestyle="none")  # fmt: skip
            panel.set_title(model, fontsize=8)
            canvas.log_scale(panel, "x", "y")
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.minorticks_off()
        for panel in list(axes.flat)[len(models) :]:
            panel.set_axis_off()
        figure.supxlabel("batch size", fontsize=9)
        figure.supylabel("images per second (log scale)", fontsize=9)
        _legend(figure, evidence, records_, evidence.precisions, "throughput")
        return Figure(
            "throughput",
            "Throughput against batch size",
            "Filled: measured; hollow: published (batch size 1, six models). A line that ends early has no figure "
            "there; the tables say why, and which changes against FP32 are beyond doubt.",
            "Sixteen small panels, one a model, with a line a precision.",
            blocks.source(records_, evidence),
            canvas.svg(figure),
        )


def _by_model(
    evidence: Evidence,
    records_: RecordSet,
    quantity: str,
    precisions: tuple[str, ...],
    batch_size: int,
    title: str,
    axis: str,
    name: str,
    line: float | None = None,
) -> Figure:
    words = evidence.verdicts(records_, batch_size) if quantity == "speedup" else {}
    with canvas.drawing(9.0, 6.2) as (figure, axes):
        for position, precision in enumerate(precisions):
            tint, shift = canvas.colour(precision), 0.16 * (position - (len(precisions) - 1) / 2)
            for row, model in enumerate(evidence.models):
                found = evidence.estimate(records_, quantity, model, precision, batch_size)
                if found.value is not None:
                    if found.low is not None and found.high is not None:
                        axes.plot([found.low, found.high], [row + shift] * 2, color=tint, linewidth=1.2)
                    axes.plot([found.value], [row + shift], canvas.marker(precision), color=tint, markersize=4.5)
                    if (model, precision) in words:
                        canvas.letter(axes, found.high or found.value, row + shift, words[model, precision].word)
                printed = evidence.published.value(quantity, model, precision) if batch_size == 1 else None
                if printed is not None:
                    axes.plot([printed], [row + shift], canvas.marker(precision), color=tint, markersize=5,
                              markerfacecolor="none")  # fmt: skip
        canvas.log_scale(axes, "x")
        if line is not None:
            axes.axvline(line, color=canvas.INK, linewidth=0.8)
        axes.set_xlabel(axis)
        canvas.rows_of(axes, evidence.models)
        _legend(figure, evidence, records_, precisions, quantity, published=batch_size == 1)
        hollow = "; hollow: published" if batch_size == 1 else ""
        return Figure(
            f"{name}-{batch_size}",
            title,
            f"Filled: measured, with the interval over processes{hollow}. "
            + (canvas.LETTERED if words else "Absolute figures of different machines are not comparable."),
            f"A row a model, a mark a precision: {title.lower()}.",
            blocks.source(records_, evidence if batch_size == 1 else None),
            canvas.svg(figure),
        )


def _spread(axes: Axes, row: int, ratios: np.ndarray, tint: str) -> None:
    low, first, third, high = np.percentile(ratios, [0, 25, 75, 100])
    axes.plot([low, high], [row, row], color=tint, linewidth=0.8)
    axes.plot([first, third], [row, row], color=tint, linewidth=5, solid_capstyle="butt", alpha=0.75)
    axes.plot([1.0], [row], "|", color=canvas.INK, markersize=6)


def _legend(
    figure: Drawing,
    evidence: Evidence,
    records_: RecordSet,
    precisions: tuple[str, ...],
    quantity: str,
    published: bool = True,
) -> None:
    keys = []
    for precision in precisions:
        label = blocks.precision_label(precision)
        if any(pair[1] == precision for pair in records_.records):
            keys.append(canvas.key(precision, f"{label} measured"))
        if published and evidence.published.column(quantity, precision):
            keys.append(canvas.key(precision, f"{label} published", hollow=True))
    if keys:
        figure.legend(handles=keys, loc="outside upper center", ncols=4, fontsize=8)
