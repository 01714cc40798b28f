"""What keeps accuracy: mixed precision, INT8's outlier path, static INT8's calibration, and a watch over a model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from visionquant.analysis import accuracy, paired
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.records.outcomes import Recipe
from visionquant.report import columns, figure
from visionquant.report.columns import Row, Spec, block, for_pair, measures, of_models, of_pairs, source, value
from visionquant.report.figure import Figure
from visionquant.report.items import MEASURED, NUMBER, TEXT, Item, joined, missing, number
from visionquant.report.table import Column, Table, build, numbers, texts
from visionquant.settings.params import StatisticsChoice
from visionquant.settings.precision import GRAPHS, Int8Precision, MixedPrecision

STATISTICS = ("min-max", "percentile", "mse")
VARIANTS = {"fp32": "FP32", "bitsandbytes": "INT8, bitsandbytes", "dynamic": "INT8, dynamic"}
VARIANTS |= {"min-max": "INT8, static, min-max", "percentile": "INT8, static, percentile", "mse": "INT8, static, MSE"}
VARIANTS |= {f"min-max, {name}": f"INT8, static, min-max, {name}" for name in ("SmoothQuant", "bias correction")}
STYLES: dict[str, Any] = {  # the last two are of variants that take no calibration images
    "min-max": {"color": "#AA3377", "marker": "v"},
    "percentile": {"color": "#66CCEE", "marker": "P"},
    "mse": {"color": "#CCBB44", "marker": "X"},
    "dynamic": {"color": figure.INK, "linestyle": "--"},
    "bitsandbytes": {"color": figure.INK, "linestyle": ":"},
}
QUANTITIES = {"sqnr_db": "SQNR of the logits, dB", "top1": "top-1, %"}


def rules(study: Study) -> Table:
    """What the policies of params.yaml say."""
    caption = (
        "The first rule whose pattern (a regular expression) matches the name of a module, or of one around it, "
        "decides; int8 and nf4 take Linear layers alone."
    )
    rows = []
    for name, row in study.params.precisions.items():
        if isinstance(row, MixedPrecision):
            rest = ("the rest", f"float: {row.dtype}, on a CPU {row.cpu_dtype}")
            policy = [*((rule.modules, rule.to) for rule in row.rules), rest]
            rows += [(name, i, *rule) for i, rule in enumerate(policy, 1)]
    shown = [Column("Policy", 0, TEXT), Column("rule", 1), Column("modules", 2, TEXT), Column("to", 3, TEXT)]
    return build("policy-rules", "What the policies say", caption, shown, rows, "params.yaml, precisions.")


def with_policies(study: Study) -> MachineSet:
    """The set that was measured under the most policies; the measured one where none was."""
    names = study.of_kind(MixedPrecision)
    return max((study.measured, *study.sets), key=lambda run: sum(name in names for _, name in run.records))


def policies(study: Study, run: MachineSet, batch_size: int = 1) -> Table:
    """Speed, bytes and agreement of each policy, between those of FP16 and INT8; a row a model and precision."""
    caption = "Modules: as the record proves them, by their type. A policy pays for the conversions where types meet."
    return _beside(study, run, batch_size, "policies", "Mixed policies", caption, study.of_kind(MixedPrecision))


def graphs(study: Study, run: MachineSet, batch_size: int = 1) -> Table:
    """The same of graphs of ONNX Runtime and OpenVINO, beside bitsandbytes' INT8."""
    caption, own = "Measured in turns with torch's FP32, as any precision.", study.of_kind(*GRAPHS)
    return _beside(study, run, batch_size, "graphs", "Graphs as a precision", caption, own)


def _beside(
    study: Study, run: MachineSet, batch_size: int, name: str, title: str, caption: str, own: tuple[str, ...]
) -> Table:
    seeded = " Seeded weights: agreement shows that the conversion is right." if "seeded" in run.weights else ""
    caption = f"Speedup over torch FP32 with the verdict, Holm-corrected over this table. {caption}{seeded}"

    def modules(pair: tuple[str, str]) -> Item | str:
        record = run.records.get(pair)
        if record is None:
            return missing("not_measured", "not part of this set")
        counts = Counter(((record.conversion and record.conversion.modules) or {}).values())
        return joined((f"{kind} {counts[kind]}" for kind in sorted(counts)), "of one kind")

    def median_ms(model: str, precision: str) -> float | None:
        return study.value(run.source, model, precision, batch_size, "latency_median")

    def over_fastest(pair: tuple[str, str]) -> float | None:
        known, own_ms = [ms for each in floats if (ms := median_ms(pair[0], each))], median_ms(*pair)
        return min(known) / own_ms if known and own_ms else None

    floats = (BASELINE, *(each for each in own if each.startswith("fp32_")))
    over = [Column("over the fastest FP32, x", over_fastest, decimals=2, why="not measured")] if len(floats) > 1 else []
    speed = f"speedup_of_{name}"
    shown = of_pairs(
        for_pair(study, run, "speedup over FP32, x", speed, batch_size),
        *over,
        for_pair(study, run, "latency, ms", "latency_median", batch_size),
        for_pair(study, run, "stored weights, MiB", "memory_stored_weights"),
        for_pair(study, run, "cosine", "cosine"),
        for_pair(study, run, "SQNR, dB", "sqnr"),
        Column("modules", modules, TEXT),
    )
    models = [model for model in study.models if any((model, precision) in run.records for precision in own)]
    held = {precision for _, precision in run.records}
    rows = [(model, precision) for model in models for precision in study.families[speed] if precision in held]
    return build(f"{name}-{batch_size}", f"{title}, batch size {batch_size}", caption, shown, rows, source(run))


def outlier_path(study: Study, run: MachineSet, batch_size: int = 1) -> Table:
    """Speedup over FP32 of every INT8 row of params.yaml, with verdicts over them, and where outliers were met."""
    caption = (
        "LLM.int8() treats input columns beyond its threshold apart, in 16 bit; threshold 0 switches that off. Seeded "
        "weights meet no such columns, so outlier channels are planted in front of Linear layers (scaled up there and "
        "down in the next weights); a trained model is expected between the columns. Speedup over FP32 with the "
        "verdict, Holm-corrected over this table; then the layers that met outliers in a pass of one image."
    )
    rows = {name: row for name, row in study.params.precisions.items() if isinstance(row, Int8Precision)}
    planted = [f", {row.outliers} planted" if row.outliers else "" for row in rows.values()]
    headings = [f"threshold {row.threshold:g}{more}" for row, more in zip(rows.values(), planted, strict=True)]

    def met(model: str, name: str) -> Item | str:
        record = run.records.get((model, name))
        if record is None or record.outlier_layers is None:
            return missing("not_available", "the outlier path is off" if record else "not measured")
        return f"{record.outlier_layers} of {record.conversion.quantized_modules if record.conversion else 0}"

    speeds = columns.columns_of(study, run.source, "speedup over FP32, x", "speedup_in_bracket", rows, batch_size)
    headed = zip([*speeds, *block("layers that met outliers", rows, met, TEXT)], 2 * headings, strict=True)
    shown = of_models([replace(column, heading=heading) for column, heading in headed])
    title = f"INT8 as a bracket, batch size {batch_size}"
    return build(f"bracket-{batch_size}", title, caption, shown, study.models, source(run))


VALIDATION = Spec(
    "validation",
    "What the monitor says of a fold",
    "FP32 on the same held-out images is the baseline, with its own uncertainty; at least 0.95 of it must be retained. "
    "The decision needs the whole 95 % interval on one side; needed: so many samples decide at this accuracy.",
    [
        *texts(network="Network", precision="Precision"),
        Column("right", lambda row: f"{row['right']} of {row['n']}", MEASURED),
        Column("retained", lambda row: number(row["retention"], 4, low=row["low"], high=row["high"]), MEASURED),
        *texts(decision="decision"),
        *measures(why="more than a billion", samples_needed="samples needed"),
    ],
)
MONITOR = Spec(
    "monitor",
    "The monitor on simulated streams",
    "Baseline 0.97, threshold 0.95. At the limit accuracy is just what is allowed, so every alarm is false, and at "
    "most a share alpha of the streams may raise one. Others fall after 1,000 answers.",
    [
        *texts(case="Case"),
        *numbers(2, alpha="alpha"),
        *numbers(4, accuracy="accuracy"),
        Column("streams", lambda row: f"{row['streams']} of {row['answers']}", NUMBER, "of answers"),
        Column(
            "alarms before the fall",
            lambda row: str(row["alarms_before"]) if row["answers_before"] else "none there",
            MEASURED,
        ),
        *measures(alarms="alarms"),
        *measures(why="no fall in these streams", median_delay="median delay, answers"),
    ],
)


def calibration_figure(study: Study) -> Figure:
    """How many calibration images static INT8 takes: a line a statistic, a band over the draws; the first source."""
    caption = "Medians over seeded draws, bands from lowest to highest; horizontal lines take no calibration images."
    alt = "Two panels a network, SQNR above top-1: a line with a band a statistic; levels of dynamic INT8 and others."
    run = columns.first_run(study, "calibration")
    rows = run.rows if run else ()
    names = _networks(rows) or ("",)

    def panel(axes: Axes, network: str, key: str) -> None:
        swept = _sizes(rows, network)
        if not swept:
            figure.empty(axes)
            return
        for name in STATISTICS:
            draws = {images: drawn for images in swept if (drawn := _drawn(rows, network, name, images, key))}
            low, middle, high = ([of(drawn) for drawn in draws.values()] for of in (min, np.median, max))
            axes.fill_between(list(draws), low, high, color=STYLES[name]["color"], alpha=0.15, lw=0)
            axes.plot(list(draws), middle, markersize=4, linewidth=1.2, **STYLES[name])
        for name in ("dynamic", "bitsandbytes"):
            for level in _drawn(rows, network, name, None, key):
                axes.axhline(level, linewidth=0.9, **STYLES[name])
        axes.set_xscale("log", base=2)
        axes.set_xticks(swept)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))

    def on(panels: np.ndarray) -> None:
        for column, network in enumerate(names):
            panels[0, column].set_title(network)
            panels[1, column].set_xlabel("calibration images")
            for axes, key in zip(panels[:, column], QUANTITIES, strict=True):
                panel(axes, network, key)
        for axes, title in zip(panels[:, 0], QUANTITIES.values(), strict=True):
            axes.set_ylabel(title)

    keys = [Line2D([], [], label=VARIANTS[name].removeprefix("INT8, "), **style) for name, style in STYLES.items()]
    below = f"{f'{run.environment.title}, on the CPU' if run else 'nothing was calibrated'}; weights trained here."
    svg = figure.draw((3.2 * len(names) + 0.6, 5.2), on, (2, len(names)), keys, sharex=True, squeeze=False)
    return Figure("calibration", "Static INT8 by the number of calibration images", caption, alt, below, svg)


def _networks(rows: Sequence[Row]) -> tuple[str, ...]:
    """The networks of a calibration, in the order of the recipe."""
    return tuple(dict.fromkeys(str(row["network"]) for row in rows))


def _sizes(rows: Sequence[Row], network: str) -> tuple[int, ...]:
    """The swept numbers of calibration images, ascending; without the sets that an accident was added to."""
    own = [row for row in rows if row["network"] == network and not row["added"]]
    return tuple(sorted({int(row["images"] or 0) for row in own} - {0}))


def _drawn(rows: Sequence[Row], network: str, statistic: str, images: int | None, key: str) -> list[float]:
    """``key`` ("top1" in percent, or a column) of every draw; ``images`` is None for what takes no calibration."""
    wanted = (network, statistic, images)
    of = [row for row in rows if (row["network"], row["statistic"], row["images"]) == wanted and not row["added"]]
    if key == "top1":
        shares = [(value(row, "right"), value(row, "n")) for row in of]
        return [100 * right / n for right, n in shares if right is not None and n]
    return [known for row in of if (known := value(row, key)) is not None]


def _tested(run: Recipe, choice: StatisticsChoice) -> list[Any]:
    """The first draw's first image and largest set, those with an accident, and what takes no images.

    Each with McNemar's test against FP32 (``only_base``, ``only_other``, ``p``; None for FP32 itself), and with
    ``top1``, the share of what is right and the word on it.
    """
    most = {network: _sizes(run.rows, network)[-1] for network in _networks(run.rows)}
    rows = []
    for row in run.rows:
        of_first_draw = row["draw"] == 0 and row["images"] in (1, most[str(row["network"])])
        rows += [row] if row["added"] or row["images"] is None or of_first_draw else []
    contrasts = []
    for row in rows:
        n, base, here = (int(row[key] or 0) for key in ("n", "only_fp32", "only_here"))
        itself, margin = row["statistic"] == "fp32", choice.accuracy_margin
        contrasts.append(None if itself else paired.counted(n, base, here, margin))
    shown = []
    for row, contrast in zip(rows, paired.adjusted(contrasts), strict=True):
        right, n = int(row["right"] or 0), int(row["n"] or 0)
        share = accuracy.share([True] * right + [False] * (n - right), choice.confidence)
        test = dict.fromkeys(("only_base", "only_other", "p")) if contrast is None else vars(contrast)
        word = contrast.word(1 - choice.confidence) if contrast else ""
        top1 = number(share.value, 2, low=share.low, high=share.high, note=f"{right} of {n}", word=word)
        shown.append({**row, **test, "top1": top1})
    return shown


def _variant(row: Row) -> str:
    return VARIANTS[str(row["statistic"])] + (f", with {row['added']}" if row["added"] else "")


CALIBRATION = Spec(
    "calibration",
    "Static against dynamic INT8",
    "Percent of held-out images classified correctly, with the Wilson interval; SAME as FP32 within the margin, LOWER "
    "or HIGHER by McNemar's exact test, corrected (Holm) over the table, UNDECIDED where these images don't tell. "
    "Static: ranges fixed from the first draw, its first image or its largest set; dynamic: from each batch of 100; "
    "bitsandbytes: from each row, other layers in BF16. All three quantise the Linear layers alone. SQNR: of the "
    "logits. SmoothQuant moves half of each input channel's range, by exponent, into the weights; bias correction "
    "takes out what rounded weights add to the mean outputs.",
    [
        *texts(network="Network"),
        Column("Precision", _variant, TEXT),
        *measures(why="it takes none", images="calibration images"),
        Column("top-1, %", "top1", MEASURED),
        *measures(0, "images", "FP32 itself", only_base="right in FP32 alone", only_other="right here alone"),
        *measures(3, why="FP32 itself", p="p"),
        *measures(1, why=lambda row: str(row["why"]), sqnr_db="SQNR, dB"),
        *measures(quantised_layers="layers in INT8"),
    ],
    _tested,
)
CLIPPING = replace(
    CALIBRATION,
    id="clipping",
    title="Static against dynamic INT8 on trained weights",
    caption=f"Through the probe's linear head, which stays FP32. {CALIBRATION.caption}",
)
