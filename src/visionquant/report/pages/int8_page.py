"""Why INT8 is slow: where the time of a pass goes, what the machine could do, and which engine does better."""

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.records.outcomes import Recipe
from visionquant.report import columns, figure, int8_facts, items
from visionquant.report.columns import Row, Spec, labelled, measures, source, value
from visionquant.report.figure import Figure
from visionquant.report.items import TEXT, Item, grouped, joined, missing, text
from visionquant.report.table import Column, Table, build, numbers, texts
from visionquant.settings.params import StatisticsChoice

COLOURS = {  # Paul Tol's light scheme: what is not the product that was asked for is pale
    "integer products": "#228833",
    "integer products in floats": "#44BB99",
    "float products": "#4477AA",
    "quantise the inputs": "#EE8866",
    "outliers apart": "#AA3377",
    "scale the products back": "#EEDD88",
    "casts and calls of the layers": "#FFAABB",
    "attention": "#99DDFF",
    "norms, activations, sums": "#BBBBBB",
    "between operations": "#DDDDDD",
}
PRODUCT_PARTS = ("integer products", "integer products in floats", "float products")


def time_figure(study: Study) -> Figure:
    """A panel a model and batch size, in it a bar a precision, in parts."""
    run = int8_facts.profiled(study)
    rows = list(run.recipes[int8_facts.RECIPE].rows) if run else []
    passes = [row for row in rows if row["kind"] == "pass"]
    panels = list(dict.fromkeys(f"{row['model']}, batch {row['batch_size']}" for row in passes))
    names = list(dict.fromkeys(str(row["precision"]) for row in passes))

    def panel(axes: Axes, title: str) -> None:
        for number, precision in enumerate(names):
            left = 0.0
            for part, colour in COLOURS.items():
                ms = sum(
                    value(row, "ms") or 0.0
                    for row in int8_facts.parts_of(rows, title, precision)
                    if row["part"] == part
                )
                axes.barh([number], [ms], left=left, color=colour, height=0.7)
                left += ms
        figure.rows_of(axes, [int8_facts.label(name) for name in names])
        axes.set_title(title)

    caption = (
        "Milliseconds of a pass by what they go to. bitsandbytes' INT8 quantises the inputs of every layer, treats "
        "outlier columns apart, multiplies integers, and scales the result back: all but the integer product is what "
        "it adds. Shares by torch's profiler, applied to the median of passes without it, in turns."
    )
    alt = "Panels by model and batch size; in each a bar a precision, divided into the parts of a pass."
    below = f"Not run: `visionquant recipe {int8_facts.RECIPE}`."
    if run:
        found = run.recipes[int8_facts.RECIPE]
        weights = joined(dict.fromkeys(f"{row['model']}: {row['weights']} weights" for row in passes))
        below = f"{found.environment.title}; {weights}; `{found.command}`."
    keys: list[Any] = [Patch(color=colour, label=part) for part, colour in COLOURS.items()]
    svg = figure.grid(panels, panel, (9.0, 1.7), keys, ("milliseconds", ""), 0.9, 2, key_columns=4)
    return Figure("int8-time", "Where the time of a pass goes", caption, alt, below, svg)


def _products(run: Recipe, _: StatisticsChoice) -> list[Row]:
    """Passes, with what their products reach of the rate that this machine's own product reached in that type."""
    peaks = int8_facts.peaks_of(run)
    found = list[Row]()
    for row in run.rows:
        if row["kind"] != "pass":
            continue
        title, name = f"{row['model']}, batch {row['batch_size']}", str(row["precision"])
        parts = {str(part["part"]): part for part in int8_facts.parts_of(run.rows, title, name)}
        main = next((one for one in PRODUCT_PARTS if one in parts), "")
        own = parts.get(main, {})
        rate, peak = value(own, "rate"), peaks.get("int8" if main == PRODUCT_PARTS[0] else name)
        reached = rate / peak if rate and peak else None
        share, whole = value(own, "share"), value(row, "rate")
        beside = {"main": main, "main_share": share, "main_rate": rate, "peak": peak, "reached": reached}
        found.append({**row, **beside, "whole_reached": whole / peak if whole and peak else None})
    return found


PRODUCTS = Spec(
    "int8-products",
    "What the products reach",
    "The products of the layers with weights: their share of the pass, their rate, and how much that is of torch's own "
    "square product on this machine in the same number format (the peak). Whole pass: the same work over all its time.",
    [
        *texts(model="Model", weights="Weights"),
        *numbers(batch_size="batch"),
        labelled("precision", "Precision", int8_facts.label),
        *measures(1, ms="pass, ms"),
        *measures(2, speedup="over FP32, x"),
        Column("products", lambda row: row["main"] or missing("not_available", "the profiler told nothing"), TEXT),
        *measures(0, "products", factor=100, main_share="of the pass, %"),
        *measures(0, "products", main_rate="10⁹ MAC/s", peak="peak"),
        *measures(0, "of the peak, %", factor=100, reached="products", whole_reached="whole pass"),
        *measures(5, cosine="cosine to FP32"),
    ],
    _products,
    ("Model", "batch"),
    int8_facts.RECIPE,
)
PEAKS = Spec(
    "int8-peaks",
    "What this machine can do",
    "torch's square matrix products and copies, the fastest of several, all threads. Other libraries may be faster, "
    "in INT8 above all where the processor has no instructions for it.",
    [
        *texts(part="What"),
        labelled("precision", "Number format", lambda name: "" if name == "None" else int8_facts.label(name)),
        *measures(1, rate="10⁹ MAC/s, or 10⁹ bytes/s"),
    ],
    lambda run, _: [row for row in run.rows if row["kind"] == "peak"],
    (),
    int8_facts.RECIPE,
)

LARGEST_FP16 = 65_504.0


def _squared(row: Row, shown: Callable[[float], Item]) -> Item:
    """The square of the deviation, as it is to be shown, or why there is none."""
    deviation = value(row, "deviation")
    return missing("not_available", columns.why_missing(row)) if deviation is None else shown(deviation**2)


NORMS = Spec(
    "int8-norms",
    "What LayerNorm squares",
    "The largest deviation of a value from the mean of its token, before any LayerNorm, in FP32. An engine that takes "
    "LayerNorm apart squares it in the type that it computes in; FP16 ends at 65,504, the square of 255.9.",
    [
        *texts(model="Model", weights="Weights", part="Layer"),
        *measures(1, deviation="largest deviation"),
        Column("its square", lambda row: _squared(row, grouped), "number measured"),
        Column("FP16 holds it", lambda row: _squared(row, lambda square: items.yes(square <= LARGEST_FP16)), TEXT),
    ],
    lambda run, _: [row for row in run.rows if row["kind"] == "norm"],
    (),
    int8_facts.RECIPE,
)


def engines(study: Study, run: MachineSet, batch_size: int) -> Table:
    """Every precision of the profiled models, the fastest first: ratios to torch's FP32 and to the fastest FP32."""
    caption = (
        "Measured in turns with torch's FP32, in rounds. Over the fastest FP32: the ratio divided by that of the "
        "fastest engine in FP32, without an interval of its own. Of the peak: the work of the pass over its time, as a "
        "share of torch's square product on this machine in that number format."
    )
    peaks, device = int8_facts.peaks_of(run.recipes.get(int8_facts.RECIPE)), "cuda" if run.on_cuda else "cpu"
    models = [model for model in study.params.report.profiled if (model, BASELINE) in run.records]
    pairs = [(model, name) for model in models for name in study.params.precisions if (model, name) in run.records]

    def over(pair: tuple[str, str]) -> float:
        """0 where there is no ratio: such rows come last."""
        return int8_facts.speed(study, run, *pair, batch_size).value or 0.0

    def over_fastest(pair: tuple[str, str]) -> Item | float:
        found = int8_facts.speed(study, run, *pair, batch_size)
        fastest = max(1.0, int8_facts.fastest_fp32(study, run, pair[0], batch_size))
        return missing(found.status, found.reason) if found.value is None else found.value / fastest

    def reached(pair: tuple[str, str]) -> Item | float:
        size, time = run.records[pair].size, study.row(run.source, *pair, batch_size, "latency_median")
        macs = size.macs if size else None
        peak = peaks.get(int8_facts.number_format(study.params.precisions[pair[1]], device))
        if macs is None or not time.value:
            return missing(time.status, time.reason)
        if peak is None:
            return missing("not_measured", f"no peak of this machine: `visionquant recipe {int8_facts.RECIPE}`")
        return 100 * macs * batch_size / time.value / 1e6 / peak

    def ratio(model: str, precision: str) -> Item:
        return columns.estimate(int8_facts.speed(study, run, model, precision, batch_size))

    shown = sorted(pairs, key=lambda pair: (models.index(pair[0]), -over(pair)))
    boxes = [
        Column("Model", 0, TEXT),
        Column("Precision", lambda pair: text(int8_facts.label(pair[1])), TEXT),
        columns.for_pair(study, run, "latency, ms", "latency_median", batch_size),
        Column("over torch FP32, x", lambda pair: ratio(*pair), "number measured"),
        Column("over the fastest FP32, x", over_fastest, "number measured", decimals=2),
        Column("of the peak, %", reached, "number measured", decimals=0),
        columns.for_pair(study, run, "cosine", "cosine"),
    ]
    title = f"Engines and precisions, batch size {batch_size}"
    picks = columns.picks(run.source, batch_size)
    name, short = columns.named(f"engines-{batch_size}", f"batch size {batch_size}", study, run)
    return build(name, title, caption, boxes, shown, source(run), short, ("Model",), picks)
