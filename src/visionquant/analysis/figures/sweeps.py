"""How many calibration images static INT8 takes: a line a statistic, a band over the draws."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from visionquant.analysis import kept, swept
from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.study import Evidence
from visionquant.analysis.swept import LABELS, STATISTICS, Rows

TINTS = dict(zip(STATISTICS, canvas.OTHER_COLOURS, strict=True))
MARKS = dict(zip(STATISTICS, canvas.OTHER_MARKERS, strict=True))
WITHOUT: dict[str, Literal["--", ":"]] = {
    "dynamic": "--",
    "bitsandbytes": ":",
}  # contestants that take no calibration images
QUANTITIES = {"sqnr_db": "SQNR of the logits, dB", "top1": "top-1, %"}


def sweep(study: Evidence) -> Figure:
    """The first source: this machine's run where there is one."""
    run = kept.first(study, swept.NAME)
    rows = run.rows if run else ()
    networks = swept.networks(rows) or ("",)
    with canvas.drawing(3.2 * len(networks) + 0.6, 5.2, 2, len(networks), sharex=True, squeeze=False) as (figure, axes):
        for column, network in enumerate(networks):
            axes[0, column].set_title(network)
            axes[1, column].set_xlabel("calibration images")
            for row, key in enumerate(QUANTITIES):
                _panel(axes[row, column], rows, network, key)
        for row, label in enumerate(QUANTITIES.values()):
            axes[row, 0].set_ylabel(label)
        keys = [
            Line2D([], [], color=TINTS[name], marker=MARKS[name], label=LABELS[name].removeprefix("INT8, "))
            for name in STATISTICS
        ]
        keys += [
            Line2D([], [], color=canvas.INK, linestyle=style, label=LABELS[name].removeprefix("INT8, "))
            for name, style in WITHOUT.items()
        ]
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), fontsize=8)
        machine = f"{run.environment.title}, on the CPU" if run else "nothing was calibrated"
        return Figure(
            "calibration",
            "Static INT8 by the number of calibration images",
            "Medians over seeded draws from the training part, bands from the lowest draw to the highest; horizontal "
            "lines take no calibration images.",
            "Two panels a network, SQNR above top-1: a line with a band for each of three statistics, over one to "
            "hundreds of images, beside dynamic INT8 and bitsandbytes.",
            f"{machine}; weights trained here.",
            canvas.svg(figure),
        )


def _panel(axes: Axes, rows: Rows, network: str, key: str) -> None:
    sizes = swept.sizes(rows, network)
    if not sizes:
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", va="center")
        return
    for name in STATISTICS:
        draws = [swept.drawn(rows, network, name, images, key) for images in sizes]
        axes.fill_between(sizes, [min(d) for d in draws], [max(d) for d in draws], color=TINTS[name], alpha=0.15, lw=0)
        middle = [float(np.median(d)) for d in draws]
        axes.plot(sizes, middle, color=TINTS[name], marker=MARKS[name], markersize=4, linewidth=1.2)
    for name, style in WITHOUT.items():
        for value in _flat(rows, network, name, key):
            axes.axhline(value, color=canvas.INK, linestyle=style, linewidth=0.9)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _flat(rows: Rows, network: str, name: str, key: str) -> list[float]:
    return swept.drawn([row | {"images": 0} for row in rows if row["images"] is None], network, name, 0, key)
