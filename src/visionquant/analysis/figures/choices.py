"""Figures to decide by: each model's Pareto front, and what the cost model is sensitive to."""

from visionquant.analysis import cost, decision, prices
from visionquant.analysis.decision import Advice
from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.study import BASELINE, Evidence, RecordSet
from visionquant.analysis.tables import blocks

COLUMNS = 4


def pareto(evidence: Evidence, records_: RecordSet, found: tuple[Advice, ...]) -> Figure:
    """Latency against memory, a panel a model; filled marks keep within the limits."""
    rows = -(-len(found) // COLUMNS)
    with canvas.drawing(10.0, 2.3 * rows, rows, COLUMNS, squeeze=False) as (figure, panels):
        for axes, advice in zip(panels.flat, found, strict=False):
            for one in advice.candidates:
                if one.latency.value is None or one.memory.value is None:
                    continue
                tint = canvas.colour(one.precision)
                if one.latency.low is not None and one.latency.high is not None:
                    axes.plot([one.latency.low, one.latency.high], [one.memory.value] * 2, color=tint, linewidth=1.2)
                axes.plot([one.latency.value], [one.memory.value], canvas.marker(one.precision), color=tint,
                          markersize=9 if one is advice.chosen else 5,
                          markerfacecolor="none" if one.misses else tint)  # fmt: skip
                if one.cosine.value is not None:
                    said = f"{one.cosine.value:.4f}" + ("" if one.front else " beaten")
                    axes.annotate(said, (one.latency.value, one.memory.value), (0, 7), textcoords="offset points",
                                  fontsize=6.5, ha="center")  # fmt: skip
            canvas.log_scale(axes, "x", "y")
            axes.margins(0.16)
            known = [one for one in advice.candidates if one.known]
            if known:
                times = [one.latency.value or 0.0 for one in known]
                sizes = [one.memory.value or 0.0 for one in known]
                axes.set_xticks([min(times), max(times)], [_tick(min(times)), _tick(max(times))])
                axes.set_yticks([min(sizes), max(sizes)], [_tick(min(sizes)), _tick(max(sizes))])
                axes.minorticks_off()
            axes.set_title(advice.model)
        for axes in list(panels.flat)[len(found) :]:
            axes.set_axis_off()
        figure.supxlabel("latency, ms (log scale)", fontsize=9)
        what = "peak memory" if cost.on_cuda(records_) else "stored weights"
        figure.supylabel(f"{what}, MiB (log scale)", fontsize=9)
        names = tuple(dict.fromkeys(one.precision for advice in found for one in advice.candidates))
        keys = [canvas.key(name, blocks.precision_label(name)) for name in names]
        figure.legend(handles=keys, loc="outside upper center", ncols=max(1, len(keys)), fontsize=8)
        return Figure(
            "pareto",
            "Latency against memory",
            "Large mark: taken. Hollow: outside the limits. The small figure is the cosine to FP32; beaten: another "
            "precision is better in latency, memory and fidelity at once. Bars are 95 % intervals of latency.",
            "A panel a model with a mark a precision; lower left is better.",
            blocks.source(records_),
            canvas.svg(figure),
        )


def _tick(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def advice(evidence: Evidence, records_: RecordSet) -> tuple[Advice, ...]:
    """The answers under the limits of params.yaml."""
    return decision.recommend(evidence, records_, evidence.models, evidence.params.decision)


def tornado(evidence: Evidence, records_: RecordSet) -> Figure:
    """What all years save, net of development, when one assumption moves by the spread."""
    assumed = evidence.params.cost
    listed = prices.of(prices.load(evidence.project), assumed.instance)
    price = listed.now
    base = cost.rate(evidence, records_, assumed.model, BASELINE)
    other = cost.rate(evidence, records_, assumed.model, assumed.precision)
    label = blocks.precision_label(assumed.precision)
    with canvas.drawing(9.0, 3.6) as (figure, axes):
        caption = "no measured throughput of both precisions within the limits, or a price of another kind of machine"
        if base and other and cost.fits(records_, listed):
            middle, swings = cost.swings(assumed, price, base, other)
            for row, one in enumerate(swings):
                axes.barh([row], [one.at_low - middle], left=middle, height=0.55, color=canvas.colour("fp16"))
                axes.barh([row], [one.at_high - middle], left=middle, height=0.55, color=canvas.colour("int8"))
                for end, at in ((one.low, one.at_low), (one.high, one.at_high)):
                    side = "left" if at > middle else "right"
                    axes.annotate(f"{end:,.4g}", (at, row), (3 if at > middle else -3, 0), ha=side, va="center",
                                  textcoords="offset points", fontsize=7)  # fmt: skip
            axes.margins(x=0.12)
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
            f"Blue: the assumption {100 * assumed.spread:g} % lower; red: higher, its value at the end of each bar; "
            f"{caption}. Utilisation is cut at 100 %.",
            "Horizontal bars around the saving, the widest on top.",
            blocks.source(records_),
            canvas.svg(figure),
        )
