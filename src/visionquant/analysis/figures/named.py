"""Top-1 of the trained networks, a mark and an interval a precision."""

from visionquant.analysis import accuracy
from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.study import Evidence
from visionquant.analysis.tables import blocks


def top1(evidence: Evidence) -> Figure:
    """The source with the most images."""
    found = accuracy.sets(evidence)
    source = max(found, key=lambda name: len(found[name][0].labels), default="")
    rows = accuracy.measured(found[source], evidence.params.statistics.confidence) if source else ()
    networks = tuple(dict.fromkeys(row.network for row in rows))
    precisions = tuple(dict.fromkeys(row.precision for row in rows))
    with canvas.drawing(9.0, 1.2 + 0.6 * max(2, len(networks))) as (figure, axes):
        for row in rows:
            at = networks.index(row.network) + 0.16 * (precisions.index(row.precision) - (len(precisions) - 1) / 2)
            tint = canvas.colour(row.precision)
            axes.plot([row.top1.low, row.top1.high], [at, at], color=tint, linewidth=1.3)
            axes.plot([row.top1.value], [at], canvas.marker(row.precision), color=tint, markersize=5)
        if not rows:
            axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", va="center")
        axes.set_xlabel("top-1, %")
        canvas.rows_of(axes, networks)
        keys = [canvas.key(name, blocks.precision_label(name)) for name in precisions]
        if keys:
            figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), fontsize=8)
        machine = found[source][0].environment.title if source else "nothing was evaluated"
        return Figure(
            "accuracy",
            "Top-1 in every precision",
            "Wilson intervals; the precisions name the same images, so overlapping intervals are no proof of equality: "
            "the table has the exact test.",
            "A row a network with a mark and an interval a precision.",
            f"{machine}; weights trained here.",
            canvas.svg(figure),
        )
