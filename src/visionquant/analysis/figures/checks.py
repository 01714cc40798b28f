"""Figures of what can be trusted: the same cell twice, the machine over time, and published time against operations."""

from datetime import datetime

import numpy as np

from visionquant.analysis import aa_shift, launch_bound
from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.tables import blocks
from visionquant.records import drift


def repeated(evidence: Evidence, records_: RecordSet) -> Figure:
    """The A/A run: first pass over second, with intervals, a mark a cell."""
    cells = [one for one in aa_shift.judge(evidence, records_).cells if one.ratio is not None] if records_.aa else []
    models = tuple(dict.fromkeys(one.model for one in cells))
    precisions = tuple(dict.fromkeys(one.precision for one in cells))
    with canvas.drawing(9.0, 1.0 + 0.5 * max(3, len(models))) as (figure, axes):
        for one in cells:
            shift = 0.16 * (precisions.index(one.precision) - (len(precisions) - 1) / 2)
            row, tint = models.index(one.model) + shift, canvas.colour(one.precision)
            axes.plot([one.low, one.high], [row, row], color=tint, linewidth=1.2)
            axes.plot([one.ratio], [row], canvas.marker(one.precision), color=tint, markersize=4.5)
        margin = evidence.params.statistics.equivalence_margin
        if cells:
            axes.axvspan(1 / (1 + margin), 1 + margin, color=canvas.INK, alpha=0.08, linewidth=0)
        canvas.log_scale(axes, "x")
        axes.axvline(1.0, color=canvas.INK, linewidth=0.8)
        axes.set_xlabel("latency of the first pass over that of the second")
        canvas.rows_of(axes, models)
        keys = [canvas.key(name, blocks.precision_label(name)) for name in precisions]
        if keys:
            figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), fontsize=8)
        return Figure(
            "aa",
            "The same cell twice",
            "Ratio of the two passes with its interval over processes; the band is the margin within which speeds are "
            f"called the same ({100 * margin:g} %).",
            "A row a model with a mark and an interval a precision, around the line of no difference.",
            blocks.source(records_),
            canvas.svg(figure),
        )


def machine(evidence: Evidence, records_: RecordSet) -> Figure:
    """Every reading of the reference kernel over the time of the measurement, as a share of the set's median."""
    points = sorted(
        (datetime.fromisoformat(one.started_at), ms)
        for record in records_.records.values()
        for cell in record.cells
        for one in cell.replicates
        if one.sentinel and one.started_at
        for ms in (one.sentinel.before_ms, one.sentinel.after_ms)
    )
    cells = [cell for record in records_.records.values() for cell in record.cells]
    noise = [drift.noise(cell.calibration_ms, floor=0.0) for cell in cells if cell.calibration_ms]
    with canvas.drawing(9.0, 3.2) as (figure, axes):
        if points:
            minutes = [(at - points[0][0]).total_seconds() / 60 for at, _ in points]
            shares = np.asarray([ms for _, ms in points]) / np.median([ms for _, ms in points])
            if noise:
                band = float(np.exp(np.median(noise)))
                axes.axhspan(1 / band, band, color=canvas.INK, alpha=0.08, linewidth=0)
            axes.plot(minutes, shares, ".", color=canvas.colour("fp16"), markersize=2.5)
            axes.axhline(1.0, color=canvas.INK, linewidth=0.8)
        else:
            canvas.log_scale(axes)
        axes.set_xlabel("minutes since the first replicate")
        axes.set_ylabel("reference kernel / its median")
        return Figure(
            "machine",
            "The machine over time",
            "Two readings of a fixed matrix product beside every replicate; the band is what they scatter by chance. "
            "Cells in which it moved further were measured again.",
            "Points around one over the minutes of the measurement, most of them inside a grey band.",
            blocks.source(records_),
            canvas.svg(figure),
        )


def launches(evidence: Evidence, records_: RecordSet) -> Figure:
    """Published FP32 and FP16 times against the operations of a pass, with the host's line."""
    found = launch_bound.issues(evidence)
    host = launch_bound.host_us(evidence)
    with canvas.drawing(9.0, 4.4) as (figure, axes):
        for one in found:
            tint = canvas.colour(one.precision)
            bound = one.reading == "launch-bound"
            axes.plot([one.operations], [one.published_ms], canvas.marker(one.precision), color=tint, markersize=6,
                      markerfacecolor=tint if bound else "none")  # fmt: skip
        canvas.log_scale(axes, "x", "y")
        if found and host:
            ends = np.asarray([min(one.operations for one in found), max(one.operations for one in found)])
            axes.plot(ends, host * ends / 1e3, color=canvas.INK, linewidth=0.8)
        axes.set_xlabel("operations of a pass (log scale)")
        axes.set_ylabel("published milliseconds (log scale)")
        keys = [canvas.key(name, f"{blocks.precision_label(name)} launch-bound") for name in launch_bound.FLOATS]
        keys += [canvas.key(name, f"{blocks.precision_label(name)} other", hollow=True) for name in launch_bound.FLOATS]
        figure.legend(handles=keys, loc="outside upper center", ncols=4, fontsize=8)
        line = f" The line: {host:.1f} microseconds an operation." if host else ""
        return Figure(
            "launches",
            "Published time against operations",
            "Filled marks take no longer than about what the host alone needs, though the GPU's work would take less "
            f"than half of it: FP16 can't be faster there.{line}",
            "Published milliseconds against operations, with the line of the host's rate.",
            blocks.source(records_, evidence),
            canvas.svg(figure),
        )
