"""Figures to decide by: each model's Pareto front, and what the cost model is sensitive to."""

from visionquant.analysis import cost, decision, prices
from visionquant.analysis.decision import Advice
from visionquant.analysis.evidence import BASELINE, Evidence, RecordSet
from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.tables import blocks

COLUMNS = 4


def pareto(evidence: Evidence, records_: RecordSet, found: tuple[Advice, ...]) -> Figure:
    """Latency against memory, a panel a model; filled marks keep within the limits, a line joins the front."""
    rows = -(-len(found) // COLUMNS)
    with canvas.drawing(10.0, 2.3 * rows, rows, COLUMNS, squeeze=False) as (figure, panels):
        for axes, advice in zip(panels.flat, found, strict=False):
            front = sorted(
                (one.latency.value, one.memory.value)
                for one in advice.candidates
                if one.front and one.latency.value is not None and one.memory.value is not None
            )
            if len(front) > 1:
                axes.plot(*zip(*front, strict=True), color=canvas.INK, linewidth=0.7, alpha=0.6)
            for one in advice.candidates:
                if one.latency.value is None or one.memory.value is None:
                    continue
                tint = canvas.colour(one.precision)
                if one.latency.low is not None and one.latency.high is not None:
                    axes.plot([one.latency.low, one.latency.high], [one.memory.value] * 2, color=tint, linewidth=1.2)
                axes.plot([one.latency.value], [one.memory.value], canvas.marker(one.precision), color=tint,
                          markersize=9 if one is advice.chosen else 5,
                          markerfacecolor="none" if one.misses else tint)  # fmt: skip
            canvas.log_scale(axes, "x", "y")
            axes.set_title(advice.model)
        for axes in list(panels.flat)[len(found) :]:
            axes.set_axis_off()
        figure.supxlabel("latency, ms (log scale)", fontsize=9)
        figure.supylabel("memory, MiB (log scale)", fontsize=9)
        names = tuple(dict.fromkeys(one.precision for advice in found for one in advice.candidates))
        keys = [canvas.key(name, blocks.precision_label(name)) for name in names]
        figure.legend(handles=keys, loc="outside upper center", ncols=max(1, len(keys)), fontsize=8)
        return Figure(
            "pareto",
            "Latency against memory",
            "Large mark: taken. Hollow: outside the limits. The line joins what no other precision beats in latency, "
            "memory and fidelity at once; bars are 95 % intervals of latency.",
            "A panel a model with a mark a precision; lower left is better.",
            blocks.source(records_),
            canvas.svg(figure),
        )


def advice(evidence: Evidence, records_: RecordSet) -> tuple[Advice, ...]:
    """The answers under the limits of params.yaml."""
    return decision.recommend(evidence, records_, evidence.models, evidence.params.decision)


def tornado(evidence: Evidence, records_: RecordSet) -> Figure:
    """What all years save, net of development, when one assumption moves by the spread."""
    assumed = evidence.params.cost
    price = prices.of(prices.load(evidence.project), assumed.instance).now
    base = cost.rate(evidence, records_, assumed.model, BASELINE)
    other = cost.rate(evidence, records_, assumed.model, assumed.precision)
    label = blocks.precision_label(assumed.precision)
    with canvas.drawing(9.0, 3.6) as (figure, axes):
        caption = "no measured throughput of both precisions within the limits"
        if base and other:
            middle, swings = cost.swings(assumed, price, base, other)
            for row, one in enumerate(swings):
                axes.barh([row], [one.at_low - middle], left=middle, height=0.55, color=canvas.colour("fp16"))
                axes.barh([row], [one.at_high - middle], left=middle, height=0.55, color=canvas.colour("int8"))
            axes.axvline(middle, color=canvas.INK, linewidth=0.8)
            canvas.rows_of(axes, tuple(one.name.replace("_", " ") for one in swings))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            caption = f"in the middle {middle:,.0f} dollars"
        else:
            canvas.log_scale(axes)
        axes.set_xlabel("saved over all years less development, US dollars")
        return Figure(
            "tornado",
            f"What the saving rests on: {assumed.model}, {label} against FP32",
            f"Blue: the assumption {100 * assumed.spread:g} % lower; red: higher; {caption}. Utilisation is cut at "
            "100 %.",
            "Horizontal bars around the saving, the widest on top.",
            blocks.source(records_),
            canvas.svg(figure),
        )
