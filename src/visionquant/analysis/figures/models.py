"""Figures of a model as a whole: its bytes, its agreement with FP32, and published against measured."""

from visionquant.analysis import subjects
from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.published import GROUP_BOUNDS
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.tables import blocks


def memory(evidence: Evidence, records_: RecordSet) -> Figure:
    """Memory by precision: published, by arithmetic, measured."""
    name = subjects.counterpart(evidence, records_, "memory_published")
    with canvas.drawing(9.0, 6.2) as (figure, axes):
        keys = []
        for position, precision in enumerate(evidence.precisions):
            tint, shift = canvas.colour(precision), 0.16 * (position - (len(evidence.precisions) - 1) / 2)
            columns = {
                "published": evidence.published.column("memory_published", precision),
                "by arithmetic": evidence.arithmetic("memory_with_workspace", precision, evidence.models),
                "measured": evidence.values(records_, name, precision, evidence.models),
            }
            for kind, column in columns.items():
                look = {"marker": "|", "markersize": 11} if kind == "by arithmetic" else {
                    "marker": canvas.marker(precision), "markersize": 5.5 if kind == "published" else 4,
                }  # fmt: skip
                face = "none" if kind == "published" else tint
                for row, model in enumerate(evidence.models):
                    if model in column:
                        axes.plot([column[model]], [row + shift], color=tint, markerfacecolor=face, **look)
            label = blocks.precision_label(precision)
            if columns["measured"]:
                keys.append(canvas.key(precision, f"{label} measured"))
            if columns["published"]:
                keys.append(canvas.key(precision, f"{label} published", hollow=True))
        canvas.log_scale(axes, "x")
        axes.set_xlabel("MiB (log scale)")
        canvas.rows_of(axes, evidence.models)
        figure.legend(handles=keys, loc="outside upper center", ncols=4, fontsize=8)
        return Figure(
            "memory",
            "Memory by precision",
            "Hollow: published (ten of sixteen models); upright stroke: weights plus workspace by arithmetic; filled: "
            "measured (on a CPU: stored weights plus that workspace). The published INT4 figures stand under NF4: they "
            "sit on the INT8 marks.",
            "A row a model with three marks a precision: published, by arithmetic, measured.",
            blocks.source(records_, evidence),
            canvas.svg(figure),
        )


def published_against_measured(evidence: Evidence, records_: RecordSet) -> Figure:
    """Each printed figure against its measured counterpart; on the line they are the same."""
    panels = (
        ("latency_median", "Latency, ms", evidence.precisions),
        ("speedup", "Speedup over FP32, x", blocks.compared(evidence)),
        ("memory_published", "Memory, MiB", evidence.precisions),
        ("throughput", "Throughput, images/s", evidence.precisions),
    )
    words = evidence.verdicts(records_, 1)
    with canvas.drawing(9.0, 7.6, 2, 2) as (figure, axes):
        for panel, (quantity, title, precisions) in zip(axes.flat, panels, strict=True):
            name = subjects.counterpart(evidence, records_, quantity)
            ends: list[float] = []
            for precision in precisions:
                printed = evidence.published.column(quantity, precision)
                measured = evidence.values(records_, name, precision, tuple(printed))
                both = [model for model in printed if model in measured]
                if not both:
                    continue
                panel.plot(
                    [printed[model] for model in both],
                    [measured[model] for model in both],
                    canvas.marker(precision),
                    color=canvas.colour(precision),
                    markersize=4.5,
                    linestyle="none",
                )
                for model in both if quantity == "speedup" else ():
                    if (model, precision) in words:
                        canvas.letter(panel, printed[model], measured[model], words[model, precision].word)
                ends += [value for model in both for value in (printed[model], measured[model])]
            if ends:
                panel.plot([min(ends), max(ends)], [min(ends), max(ends)], color=canvas.INK, linewidth=0.7)
            canvas.log_scale(panel, "x", "y")
            panel.set_title(title)
            panel.set_xlabel("published")
            panel.set_ylabel("measured")
        keys = [canvas.key(name, blocks.precision_label(name)) for name in evidence.precisions]
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), fontsize=8)
        return Figure(
            "published-against-measured",
            "Published against measured, batch size 1",
            "On the line both are the same. Memory (on a CPU: stored weights plus workspace) is a matter of bytes and "
            "can be compared on any machine; latency and throughput only on the published GPU. " + canvas.LETTERED,
            "Four panels of published figures against measured ones, with the line on which both are the same.",
            blocks.source(records_, evidence),
            canvas.svg(figure),
        )


def groups(evidence: Evidence, records_: RecordSet) -> Figure:
    """FP16 speedup of each listed group, published beside measured."""
    words = evidence.verdicts(records_, 1)
    with canvas.drawing(9.0, 3.4, 1, 2, sharey=True) as (figure, axes):
        for panel, (title, values) in zip(
            axes,
            (
                ("published", evidence.published.column("speedup", "fp16")),
                (records_.label, evidence.values(records_, "speedup", "fp16", evidence.models)),
            ),
            strict=True,
        ):
            for row, group in enumerate(GROUP_BOUNDS):
                found = [values[model] for model in evidence.published.group(group) if model in values]
                panel.plot(
                    found,
                    [row] * len(found),
                    canvas.marker("fp16"),
                    color=canvas.colour("fp16"),
                    markerfacecolor="none" if title == "published" else canvas.colour("fp16"),
                    linestyle="none",
                )
                for model in evidence.published.group(group) if title != "published" else ():
                    if model in values and (model, "fp16") in words:
                        canvas.letter(panel, values[model], row, words[model, "fp16"].word)
            panel.axvline(1.0, color=canvas.INK, linewidth=0.8)
            panel.set_title(title)
            panel.set_xlabel("FP16 speedup over FP32, x")
        canvas.rows_of(axes[0], tuple(GROUP_BOUNDS))
        return Figure(
            "groups",
            "FP16 speedup by group, batch size 1",
            "A mark a model; groups as the supplement lists them. Right of the line is faster than FP32. "
            + canvas.LETTERED,
            "Two panels, published and measured, with a row a group and a mark a model.",
            blocks.source(records_, evidence),
            canvas.svg(figure),
        )


def fidelity(evidence: Evidence, records_: RecordSet) -> Figure:
    """Signal to quantisation noise by model and precision."""
    with canvas.drawing(9.0, 5.6) as (figure, axes):
        for precision in blocks.compared(evidence):
            for row, model in enumerate(evidence.models):
                found = evidence.estimate(records_, "sqnr", model, precision, 1)
                if found.value is not None:
                    axes.plot([found.value], [row], canvas.marker(precision), color=canvas.colour(precision))
        axes.set_xlabel("signal to quantisation noise of the features, dB (more is closer to FP32)")
        canvas.rows_of(axes, evidence.models)
        keys = [canvas.key(name, blocks.precision_label(name)) for name in blocks.compared(evidence)]
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), fontsize=8)
        weights = records_.weights or "no"
        return Figure(
            "fidelity",
            "Agreement with FP32",
            f"On crops of real photographs, {weights} weights."
            + (" It shows that conversions are right; it is no accuracy." if "seeded" in weights else ""),
            "A row a model with a mark a precision on a scale of decibels.",
            blocks.source(records_),
            canvas.svg(figure),
        )
