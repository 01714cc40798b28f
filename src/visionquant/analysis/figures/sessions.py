"""How fast each contestant of the ONNX Runtime recipe is over torch in FP32, a mark a batch size."""

from visionquant.analysis import kept
from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.kept import Row
from visionquant.analysis.study import Evidence
from visionquant.analysis.tables import blocks

FILLED, HOLLOW = "full", "none"  # the smallest batch size, and the others


def speedups(evidence: Evidence) -> Figure:
    """The first source: a row a contestant, the smallest batch size filled and the largest hollow."""
    recipe = kept.first(evidence, "onnxruntime")
    rows = recipe.rows if recipe else ()
    names = tuple(dict.fromkeys(_contestant(row) for row in rows))
    sizes = sorted({int(row["batch_size"] or 0) for row in rows})
    with canvas.drawing(9.0, 1.2 + 0.3 * max(4, len(names))) as (figure, axes):
        for row in rows:
            if row["speedup_over_torch_fp32"] is None:
                continue
            name = str(row["precision"])
            axes.plot(
                [float(row["speedup_over_torch_fp32"])],
                [names.index(_contestant(row))],
                canvas.marker(name),
                color=canvas.colour(name),
                fillstyle=FILLED if row["batch_size"] == sizes[0] else HOLLOW,
                markersize=6,
            )
        canvas.log_scale(axes, "x")
        if rows:
            axes.axvline(1.0, color=canvas.INK, linewidth=0.8, alpha=0.5)
            axes.set_xlabel("speedup over torch FP32 with all threads, x")
            canvas.rows_of(axes, names)
            keys = [canvas.key("fp32", f"batch {size}", hollow=size != sizes[0]) for size in sizes]
            figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), fontsize=8)
        source = f"{recipe.environment.title}; {recipe.weights} weights." if recipe else "nothing ran."
        return Figure(
            "onnxruntime",
            "What ONNX Runtime's options are worth",
            "A ratio is the median over rounds in which all contestants took turns.",
            "A row a contestant with a mark a batch size; colours and shapes are those of the precisions.",
            source,
            canvas.svg(figure),
        )


def _contestant(row: Row) -> str:
    """What ran, in words: precision, engine, threads, and the options that are not the default."""
    threads = f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"
    changed = [f"{row['branches']} branches"] if kept.value(row, "branches") not in (None, 1.0) else []
    changed += [f"{row['graph_optimization']} fusion"] if row["graph_optimization"] not in (None, "all") else []
    changed += ["no spinning"] if row["spinning"] == "off" else []
    return ", ".join([blocks.precision_label(kept.number_format(row)), str(row["engine"]), threads, *changed])
