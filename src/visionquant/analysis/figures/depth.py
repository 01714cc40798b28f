"""Where the error enters: signal to noise after every block."""

from visionquant.analysis import noise_by_block
from visionquant.analysis.figures import canvas
from visionquant.analysis.figures.canvas import Figure
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.tables import blocks

COLUMNS = 4


def noise(evidence: Evidence, records_: RecordSet) -> Figure:
    """A panel a model, a line a precision."""
    names = noise_by_block.traced(records_)
    models = tuple(model for model in evidence.models if any((model, name) in records_.records for name in names))
    rows = max(1, -(-len(models) // COLUMNS))
    with canvas.drawing(9.0, 0.9 + 1.7 * rows, rows, COLUMNS, sharey=True, squeeze=False) as (figure, panels):
        for axes, model in zip(panels.flat, models, strict=False):
            for name in names:
                ratios = noise_by_block.after_blocks(records_, model, name)
                at = [i + 1 for i, ratio in enumerate(ratios) if ratio is not None]
                shown = [ratio for ratio in ratios if ratio is not None]
                tint = canvas.colour(name)
                axes.plot(at, shown, color=tint, linewidth=1.0, marker=canvas.marker(name), markersize=2.5)
            axes.set_title(model, fontsize=7)
        for axes in list(panels.flat)[max(1, len(models)) :]:
            axes.set_axis_off()
        if not models:
            panels.flat[0].text(0.0, 0.5, "no figures by block", transform=panels.flat[0].transAxes)
        figure.supxlabel("after block", fontsize=9)
        figure.supylabel("signal to noise, dB", fontsize=9)
        keys = [canvas.key(name, blocks.precision_label(name)) for name in names]
        if keys:
            figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), fontsize=8)
        return Figure(
            "noise-by-block",
            "Signal to noise after every block",
            "Of the first photograph, against what the same block answers in FP32. A MobileViT's blocks are its five "
            f"stages. Weights: {records_.weights or 'none'}.",
            "A panel a model with a line a precision from the first block to the last; higher is closer to FP32.",
            blocks.source(records_),
            canvas.svg(figure),
        )
