"""Figures behind the claims: memory against arithmetic, INT8 against Linear layers, throughput against latency."""

import numpy as np

from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.study import BASELINE, Evidence, RecordSet
from visionquant.analysis.tables import blocks

PRECISIONS = ("fp32", "fp16", "int8", "nf4")


def memory(evidence: Evidence, records_: RecordSet) -> Figure:
    """Published memory less weights and workspace by arithmetic, a mark a cell; INT4 against NF4 and against INT8."""
    models = tuple(evidence.published.column("memory_published", BASELINE))
    with canvas.drawing(9.0, 1.2 + 0.36 * len(models)) as (figure, axes):
        for precision in PRECISIONS:
            tint = canvas.colour(precision)
            expected = evidence.arithmetic("memory_with_workspace", precision, models)
            for row, model in enumerate(models):
                printed = evidence.published.value("memory_published", model, precision)
                if printed is not None and model in expected:
                    off = printed - expected[model]
                    shift = 0.14 * (PRECISIONS.index(precision) - 1.5)
                    axes.plot([off], [row + shift], canvas.marker(precision), color=tint, markersize=5)
        as_int8 = evidence.arithmetic("memory_with_workspace", "int8", models)
        for row, model in enumerate(models):
            printed = evidence.published.value("memory_published", model, "nf4")
            if printed is not None and model in as_int8:
                axes.plot([printed - as_int8[model]], [row + 0.21], canvas.marker("nf4"), markersize=5,
                          color=canvas.colour("nf4"), markerfacecolor="none")  # fmt: skip
        axes.axvspan(0, 4, color=canvas.INK, alpha=0.08, linewidth=0)
        axes.set_xscale("symlog", linthresh=4)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("published MB less weights and workspace by arithmetic, MiB (linear to 4, then log)")
        canvas.rows_of(axes, models)
        keys = [canvas.key(name, blocks.precision_label(name)) for name in PRECISIONS]
        keys.append(canvas.key("nf4", "published INT4 against INT8's bytes", hollow=True))
        figure.legend(handles=keys, loc="outside upper center", ncols=5, fontsize=8)
        return Figure(
            "memory-model",
            "Published memory against arithmetic",
            f"Weights by their bytes and {evidence.params.report.workspace_mib:g} MiB of workspace; the band is what "
            "an allocator may keep beside them. FP32, FP16 and INT8 fit. The INT4 column does not fit NF4 (filled) and "
            "does fit INT8 (hollow).",
            "A row a model: marks of FP32, FP16 and INT8 within a narrow band, the filled INT4 marks far to the right.",
            blocks.source(records_, evidence),
            canvas.svg(figure),
        )


def linear_layers(evidence: Evidence, records_: RecordSet) -> Figure:
    """Published INT8 latency against the number of Linear layers, with the line through the origin."""
    points = []
    for row in evidence.published.models:
        facts, ms = evidence.facts(row.name), evidence.published.value("latency_median", row.name, "int8")
        if facts is not None and ms is not None:
            points.append((facts.linear_layers, ms, row.name))
    with canvas.drawing(9.0, 4.2) as (figure, axes):
        said = ""
        for count, ms, _ in points:
            axes.plot([count], [ms], canvas.marker("int8"), color=canvas.colour("int8"), markersize=6)
        if points:
            counts, times = (np.asarray([one[i] for one in points], float) for i in (0, 1))
            per_layer = float(np.median(times / counts))
            axes.plot([0, counts.max()], [0, per_layer * counts.max()], color=canvas.INK, linewidth=0.8)
            r = float(np.corrcoef(counts, times)[0, 1])
            said = f" The line: {1e3 * per_layer:.0f} microseconds a layer (the median); correlation {r:.2f}."
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("Linear layers")
        axes.set_ylabel("published INT8 milliseconds")
        return Figure(
            "linear-layers",
            "INT8 latency against Linear layers",
            "The published INT8 time rises with the number of Linear layers (a pooler, which stays as it is, included)."
            f"{said}",
            "Published INT8 milliseconds rising with the number of Linear layers along a line.",
            blocks.source(records_, evidence),
            canvas.svg(figure),
        )


def throughput(evidence: Evidence, records_: RecordSet) -> Figure:
    """Published throughput over 1000 / published latency, a mark a cell."""
    models = tuple(evidence.published.column("throughput", BASELINE))
    with canvas.drawing(9.0, 1.2 + 0.4 * len(models)) as (figure, axes):
        for precision in PRECISIONS:
            for row, model in enumerate(models):
                rate = evidence.published.value("throughput", model, precision)
                ms = evidence.published.value("latency_median", model, precision)
                if rate is not None and ms is not None:
                    shift = 0.16 * (PRECISIONS.index(precision) - 1.5)
                    low, high = (rate * (ms + half) / 1e3 for half in (-0.005, 0.005))
                    off = [100 * (one - 1) for one in (low, rate * ms / 1e3, high)]
                    tint = canvas.colour(precision)
                    axes.plot([off[0], off[2]], [row + shift] * 2, color=tint, linewidth=1.2)
                    axes.plot([off[1]], [row + shift], canvas.marker(precision), color=tint, markersize=4.5)
        axes.axvline(0.0, color=canvas.INK, linewidth=0.8)
        axes.set_xlabel("published images/s against 1000 / published ms, % off")
        canvas.rows_of(axes, models)
        keys = [canvas.key(name, blocks.precision_label(name)) for name in PRECISIONS]
        figure.legend(handles=keys, loc="outside upper center", ncols=4, fontsize=8)
        return Figure(
            "throughput-latency",
            "Throughput as one over latency",
            "Bars: what the rounding of the milliseconds leaves open. The throughput column carries no information of "
            "its own beyond a few hundredths of a percent.",
            "A row a model with a mark a precision, all within a tenth of a percent of zero.",
            blocks.source(records_, evidence),
            canvas.svg(figure),
        )
