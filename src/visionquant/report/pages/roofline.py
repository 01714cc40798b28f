"""Where published time goes that is no arithmetic: operations, the host's time for each, and the GPU's share."""

import numpy as np
from matplotlib.axes import Axes

from visionquant.analysis import launch_bound
from visionquant.analysis.study import MachineSet, Study
from visionquant.report import columns, figure
from visionquant.report.columns import block, of_models, source
from visionquant.report.figure import Figure
from visionquant.report.items import MEASURED, PUBLISHED, TEXT, number, precision_label, text
from visionquant.report.table import Column, Table, build

NOT_COUNTED = "no operations counted"


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

    def floor(heading: str, precision: str, name: str, css: str, decimals: int = 0) -> Column:
        def of(model: str) -> object:
            value = getattr(cells.get((model, precision)), name, None)
            return text(value, "text strong") if value == "launch-bound" else value

        return Column(heading, of, css, precision_label(precision), decimals, NOT_COUNTED)

    shown = of_models([Column("operations", operations, why=NOT_COUNTED)])
    for name in launch_bound.FLOATS:
        (printed,) = columns.quantity(study, "published", precision_label(name), "latency_median", (name,))
        shown += [
            Column("published, ms", printed.of, PUBLISHED, printed.group),
            floor("work, ms", name, "work_ms", "number", 2),
            floor("us an operation", name, "us_per_operation", "number", 1),
            floor("reading", name, "reading", TEXT),
        ]
    speedups = study.published.column("speedup", "fp16")
    shown.append(Column("published FP16 speedup", speedups.get, PUBLISHED, "", 2, "not printed"))
    title = "Which published cells wait for the host"
    return build("launch-published", title, caption, shown, study.published.names, source(run, study))


def waits(study: Study, run: MachineSet) -> Table:
    """Operations of every pair and, on a GPU, the share of the time in which it waits for the host."""
    caption = (
        "Operations that torch dispatches in a pass of one image, views apart, as the set's own code counted them; a "
        "bitsandbytes call counts as one, whatever it starts inside. Wait: the share of a pass in which no kernel "
        "ran, by torch's profiler; a CPU has no such figure."
    )
    counts = {pair: record.operations for pair, record in run.records.items()}
    shown = of_models(
        block(
            "operations a pass", study.precisions, lambda *pair: number(counts.get(pair), 0, "not counted"), MEASURED
        ),
        columns.quantity(study, run.source, "GPU waits, % of the pass", "launch_share"),
    )
    return build("launch-measured", "Operations, and the GPU's wait", caption, shown, study.models, source(run))


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
