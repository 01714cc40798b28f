"""Which layers carry the loss: each Linear layer quantised alone, of trained and of seeded weights side by side."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from visionquant.analysis.study import Study
from visionquant.records.outcomes import Recipe
from visionquant.report import figure
from visionquant.report.columns import Row, Spec, first_run, labelled, measures, value
from visionquant.report.figure import Figure
from visionquant.report.items import precision_label
from visionquant.report.table import texts
from visionquant.settings.params import StatisticsChoice

RECIPE, SEEDED, WORST = "sensitivity", "seeded", 10
OUTLIERS = "outlier channels"
STYLES: dict[str, Any] = {
    "trained": {"color": "#AA3377", "marker": "o", "markersize": 3, "linewidth": 0.6},
    SEEDED: {"color": "#888888", "marker": ".", "markersize": 3, "linewidth": 0.6},
}


def _layers(run: Recipe, precision: str, weights: str) -> list[Row]:
    """The rows of single layers, in the network's order."""
    rows = (row for row in run.rows if row["precision"] == precision and row["outlier_channels"] is not None)
    return [row for row in rows if (row["weights"] == SEEDED) == (weights == SEEDED)]


def _worst(run: Recipe, _: StatisticsChoice) -> Sequence[Row]:
    """Of each precision the trained layers that cost most, with what seeded weights say of them."""
    found = list[Row]()
    for precision in dict.fromkeys(str(row["precision"]) for row in run.rows):
        seeded = {row["layer"]: row["sqnr_db"] for row in _layers(run, precision, SEEDED)}
        trained = sorted(_layers(run, precision, "trained"), key=lambda row: value(row, "sqnr_db") or float("inf"))
        found += [{**row, "seeded_db": seeded.get(row["layer"])} for row in trained[:WORST]]
    return found


WORST_LAYERS = Spec(
    RECIPE,
    "The layers that cost most",
    f"The {WORST} layers of each precision with the least signal to noise on trained weights: the layer alone is "
    "quantised, all else is FP32; seeded weights of the same architecture beside them. Left out: the layer in FP32, "
    "all others quantised. Outlier channels: inputs above 6.0 on some image.",
    [
        labelled("precision", "Precision", precision_label),
        *texts(layer="Layer"),
        *measures(1, "signal to noise, dB", why="FP32's own outputs", sqnr_db="trained", seeded_db="seeded"),
        *measures(1, why="FP32's own outputs", left_out_sqnr_db="left out, dB"),
        *measures(4, kl_nats="KL, nats"),
        *measures(outlier_channels=OUTLIERS),
    ],
    _worst,
)


def by_layer(study: Study) -> Figure:
    """A panel a precision, signal to noise of each layer alone; one of outlier channels."""
    run = first_run(study, RECIPE)
    precisions = list(dict.fromkeys(str(row["precision"]) for row in run.rows)) if run else []

    def panel(axes: Axes, name: str) -> None:
        assert run is not None
        precision, key = (precisions[0], "outlier_channels") if name == OUTLIERS else (name, "sqnr_db")
        for weights, style in STYLES.items():
            values = [value(row, key) for row in _layers(run, precision, weights)]
            points = {number: found for number, found in enumerate(values, 1) if found is not None}
            axes.plot(list(points), list(points.values()), **style)
        axes.set_title(OUTLIERS if name == OUTLIERS else f"{precision_label(name)}: signal to noise, dB")

    caption = (
        "Each Linear layer quantised alone, in the network's order; lower is more noise. Where trained and seeded "
        "weights of one architecture part, agreement on seeded weights misleads. Outlier channels are inputs above 6.0 "
        "on some image, which INT8 treats apart."
    )
    alt = "Panels with a mark a layer: signal to noise of the features by precision, and numbers of outlier channels."
    below = f"Not run: `visionquant recipe {RECIPE}`."
    if run:
        row = run.rows[0]
        below = f"{row['model']}, {row['images']} training images of {row['task']} at {row['pixels']} pixels; "
        below += f"{run.environment.title}; `{run.command}`."
    keys = [Line2D([], [], label=f"{name} weights", **style) for name, style in STYLES.items()]
    panels = [*precisions, OUTLIERS] if run else []
    svg = figure.grid(panels, panel, (9.0, 2.4), keys, ("Linear layer", ""), 0.4, max(1, len(panels)))
    return Figure("sensitivity", "Which layers carry the noise", caption, alt, below, svg)
