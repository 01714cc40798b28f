"""Latency against throughput of the server, a line a precision, with batching on and off."""

from visionquant.analysis import kept
from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.study import Evidence
from visionquant.analysis.tables import blocks


def latency(evidence: Evidence) -> Figure:
    """The first source: this machine's, else the first that was recorded."""
    found = kept.first(evidence, "serving")
    rows = [row for row in found.rows if row["case"] == "load"] if found else []
    precisions = tuple(dict.fromkeys(str(row["precision"]) for row in rows))
    with canvas.drawing(9.0, 3.6) as (figure, axes):
        for precision in precisions:
            for batching, style in (("on", "-"), ("off", ":")):
                line = [row for row in rows if (row["precision"], row["batching"]) == (precision, batching)]
                axes.plot(
                    [float(row["images_per_s"] or 0) for row in line],
                    [float(row["p99_ms"] or 0) for row in line],
                    linestyle=style,
                    marker=canvas.marker(precision),
                    markerfacecolor=canvas.colour(precision) if batching == "on" else "none",
                    color=canvas.colour(precision),
                    markersize=5,
                    linewidth=1.3,
                )
                for row in line:
                    at = (float(row["images_per_s"] or 0), float(row["p99_ms"] or 0))
                    axes.annotate(f"{row['clients']}", at, xytext=(5, 3), textcoords="offset points", fontsize=6)
        canvas.log_scale(axes, "y")
        axes.set_xlabel("images per second")
        axes.set_ylabel("p99 latency, ms")
        keys = [
            canvas.key(name, f"{blocks.precision_label(name)}, batching {'off' if hollow else 'on'}", hollow)
            for name in precisions
            for hollow in (False, True)
        ]
        if keys:
            figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), fontsize=8)
        return Figure(
            "serving",
            "The server under load",
            "The number at a mark is that of the clients. Further right is more throughput, further down a shorter "
            "wait; hollow marks and dotted lines: batching off.",
            "A line a precision and batching mode through marks for rising numbers of clients.",
            f"{found.environment.title}; {found.rows[0]['model']}, {found.weights} weights."
            if found
            else "nothing was served: `visionquant recipe serving`",
            canvas.svg(figure),
        )
