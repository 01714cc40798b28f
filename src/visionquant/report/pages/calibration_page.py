"""Static INT8 against dynamic, and how many calibration images its ranges take."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from visionquant.analysis import accuracy
from visionquant.analysis.accuracy import Contrast
from visionquant.analysis.study import Study
from visionquant.records.recipe import Recipe
from visionquant.report import figure
from visionquant.report.figure import Figure
from visionquant.report.items import MEASURED, TEXT, Item, missing, number
from visionquant.report.recipe_tables import Row, Spec, figures, first, value
from visionquant.report.table import Column, words

STATISTICS = ("min-max", "percentile", "mse")
VARIANTS = {
    "fp32": "FP32",
    "bitsandbytes": "INT8, bitsandbytes",
    "dynamic": "INT8, dynamic",
    "min-max": "INT8, static, min-max",
    "percentile": "INT8, static, percentile",
    "mse": "INT8, static, MSE",
}
LOOKS: dict[str, Any] = {
    name: {"color": colour, "marker": marker}
    for name, colour, marker in zip(STATISTICS, ("#AA3377", "#66CCEE", "#CCBB44"), "vPX", strict=True)
}
LINES: dict[str, Any] = {  # of variants that take no calibration images
    "dynamic": {"color": figure.INK, "linestyle": "--"},
    "bitsandbytes": {"color": figure.INK, "linestyle": ":"},
}
QUANTITIES = {"sqnr_db": "SQNR of the logits, dB", "top1": "top-1, %"}


def calibration_figure(study: Study) -> Figure:
    """How many calibration images static INT8 takes: a line a statistic, a band over the draws; the first source."""
    caption = (
        "Medians over seeded draws from the training part, bands from the lowest draw to the highest; horizontal "
        "lines take no calibration images."
    )
    alt = (
        "Two panels a network, SQNR above top-1: a line with a band for each of three statistics, over one to "
        "hundreds of images, beside dynamic INT8 and bitsandbytes."
    )
    run = first(study, "calibration")
    rows = run.rows if run else ()
    names = _networks(rows) or ("",)

    def panel(axes: Axes, network: str, key: str) -> None:
        swept = _sizes(rows, network)
        if not swept:
            figure.empty(axes)
            return
        for name, look in LOOKS.items():
            found = {images: _drawn(rows, network, name, images, key) for images in swept}
            draws = {images: values for images, values in found.items() if values}
            x, (low, middle, high) = list(draws), ([of(one) for one in draws.values()] for of in (min, np.median, max))
            axes.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)
            axes.plot(x, middle, markersize=4, linewidth=1.2, **look)
        for name, look in LINES.items():
            for level in _drawn(rows, network, name, None, key):
                axes.axhline(level, linewidth=0.9, **look)
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

    labels = {name: VARIANTS[name].removeprefix("INT8, ") for name in (LOOKS | LINES)}
    keys = [Line2D([], [], label=labels[name], **look) for name, look in (LOOKS | LINES).items()]
    below = f"{f'{run.environment.title}, on the CPU' if run else 'nothing was calibrated'}; weights trained here."
    size, grid = (3.2 * len(names) + 0.6, 5.2), (2, len(names))
    svg = figure.draw(size, on, grid, keys, sharex=True, squeeze=False)
    return Figure("calibration", "Static INT8 by the number of calibration images", caption, alt, below, svg)


def _networks(rows: Sequence[Row]) -> tuple[str, ...]:
    """The networks of a calibration, in the order of the recipe."""
    return tuple(dict.fromkeys(str(row["network"]) for row in rows))


def _sizes(rows: Sequence[Row], network: str) -> tuple[int, ...]:
    """The swept numbers of calibration images, ascending; without the sets that an accident was added to."""
    found = {int(row["images"] or 0) for row in rows if row["network"] == network and not row["added"]}
    return tuple(sorted(found - {0}))


def _drawn(rows: Sequence[Row], network: str, statistic: str, images: int | None, key: str) -> list[float]:
    """``key`` of every draw of a calibration: "top1" in percent, or a column; empty where there is none.

    ``images`` is None for a variant that takes no calibration images.
    """
    wanted = (network, statistic, images)
    of = [row for row in rows if (row["network"], row["statistic"], row["images"]) == wanted and not row["added"]]
    if key == "top1":
        shares = [(value(row, "right"), value(row, "n")) for row in of]
        return [100 * right / n for right, n in shares if right is not None and n]
    return [found for row in of if (found := value(row, key)) is not None]


def _tested(run: Recipe, confidence: float) -> list[Any]:
    """The first draw's first image and largest set, those with an accident, and what takes no images.

    Each with McNemar's test against FP32 (``only_base``, ``only_other``, ``p``; None for FP32 itself) and the ``word``
    on it, and with ``top1``, the share of what is right.
    """
    most = {network: _sizes(run.rows, network)[-1] for network in _networks(run.rows)}
    rows = [
        row
        for row in run.rows
        if row["added"]
        or row["images"] is None
        or (row["draw"] == 0 and row["images"] in (1, most[str(row["network"])]))
    ]
    contrasts = [None if row["statistic"] == "fp32" else _contrast(row) for row in rows]
    words_ = accuracy.words(contrasts, confidence)
    shown = []
    for row, contrast, word in zip(rows, contrasts, words_, strict=True):
        right, n = int(row["right"] or 0), int(row["n"] or 0)
        share = accuracy.share([True] * right + [False] * (n - right), confidence)
        test = dict.fromkeys(("only_base", "only_other", "p")) if contrast is None else vars(contrast)
        shown.append({**row, **test, "word": word, "share": share})
    return shown


def _top1(row: Any) -> Item:
    note, share = f"{row['right']} of {row['n']}", row["share"]
    return number(share.value, 2, low=share.low, high=share.high, note=note, word=row["word"])


def _contrast(row: Row) -> Contrast:
    base, here = int(row["only_fp32"] or 0), int(row["only_here"] or 0)
    return accuracy.contrast([True] * base + [False] * here, [False] * base + [True] * here)


def _variant(row: Row) -> str:
    return VARIANTS[str(row["statistic"])] + (f", with {row['added']}" if row["added"] else "")


def _spread(statistic: str, key: str, decimals: int, group: str) -> Column:
    """Median over the draws, with the lowest and the highest."""

    def of(row: tuple[str, int, Sequence[Row]]) -> Item:
        network, images, rows = row
        values = _drawn(rows, network, statistic, images, key)
        if not values:
            return missing("not_measured", "no draw has it")
        note, ends = f"{len(values)} draws", (min(values), max(values))
        return number(float(np.median(values)), decimals, low=ends[0], high=ends[1], note=note)

    return Column(VARIANTS[statistic].split(", ")[-1], of, MEASURED, group)


CALIBRATION = Spec(
    "calibration",
    "Static against dynamic INT8",
    "Percent of held-out images named rightly, with the Wilson interval; LOWER or HIGHER than FP32 by "
    "McNemar's exact test, corrected (Holm) over the table, UNDECIDED where these images don't tell the two "
    "apart. Static: ranges fixed from the first draw, its first image or its largest set; dynamic: "
    "from each batch of 100; bitsandbytes: from each row, other layers in BF16. All three quantise the Linear "
    "layers alone. SQNR of the logits, over all images.",
    [
        *words(network="Network"),
        Column("Precision", _variant, TEXT),
        *figures(why="it takes none", images="calibration images"),
        Column("top-1, %", _top1, MEASURED),
        *figures(0, "images", "FP32 itself", only_base="right in FP32 alone", only_other="right here alone"),
        *figures(3, why="FP32 itself", p="p"),
        *figures(1, why=lambda row: str(row["why"]), sqnr_db="SQNR, dB"),
        *figures(quantised_layers="layers in INT8"),
    ],
    _tested,
)


CALIBRATION_SWEEP = Spec(
    "calibration-sweep",
    "How many calibration images",
    "Median over the draws, with the lowest and the highest. The images of a draw are the first of one seeded "
    "order of the training part.",
    [
        *words("Network"),
        Column("calibration images", 1),
        *(_spread(name, "top1", 2, "top-1, %") for name in STATISTICS),
        *(_spread(name, "sqnr_db", 1, "SQNR, dB") for name in STATISTICS),
    ],
    lambda run, _: [(net, size, run.rows) for net in _networks(run.rows) for size in _sizes(run.rows, net)],
    recipe="calibration",
)
