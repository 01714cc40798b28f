"""How far each precision's outputs are from FP32's. Not accuracy, and every caption says so."""

from typing import Any

from matplotlib.axes import Axes

from visionquant.analysis import noise_by_block
from visionquant.analysis.study import MachineSet, Study
from visionquant.report import figure
from visionquant.report.columns import of_models, of_pairs, quantity, source
from visionquant.report.figure import Dot, Figure
from visionquant.report.items import MEASURED
from visionquant.report.table import Column, Table, build


def agreement(study: Study, run: MachineSet) -> Table:
    """Features: cosine and signal to noise."""
    caption = (
        "Last hidden state on crops of real photographs: cosine similarity, and signal to quantisation noise in "
        f"decibels. {_weights(run)}"
    )
    shown = of_models(
        quantity(study, run.source, "cosine", "cosine", study.compared),
        quantity(study, run.source, "SQNR, dB", "sqnr", study.compared),
    )
    return build("agreement", "Features against FP32", caption, shown, study.models, source(run))


def decisions(study: Study, run: MachineSet) -> Table:
    """Logits: how often the same class wins, and how far the distributions are apart."""
    proven = [record.fidelity for record in run.records.values() if record.fidelity]
    through = " or ".join(sorted({one.logits_from for one in proven})) or "a head"
    counts = sorted({one.images for one in proven})
    images = f"{counts[0]} to {counts[-1]} images a model, the fewer the larger it is" if counts else "no images yet"
    caption = (
        f"Logits through {through}, over {images}: share with the same top class, and Kullback-Leibler divergence in "
        f"nats. {_weights(run)}"
    )
    shown = of_models(
        quantity(study, run.source, "top-1 agreement, %", "top1_agreement", study.compared),
        quantity(study, run.source, "KL, nats", "kl_divergence", study.compared),
    )
    title = "Accuracy simulation: decisions against FP32"
    return build("decisions", title, caption, shown, study.models, source(run))


def traced(study: Study) -> MachineSet:
    """The set that tells of noise by block for the most pairs; the measured one where none does."""
    return max((study.measured, *study.sets), key=lambda run: len(noise_by_block.by_pair(run)))


def depth(study: Study, run: MachineSet) -> Table:
    """Where noise enters: after the first block, after the last, and the block that costs most."""
    caption = (
        "Signal to quantisation noise of the first photograph after the first block and after the last, and the block "
        f"after which it falls most. {_weights(run)}"
    )
    shown = of_pairs(
        Column("blocks", lambda row: len(row[2])),
        Column("after the first", lambda row: row[2][0], MEASURED, "SQNR, dB", 1, "equal to FP32"),
        Column("after the last", lambda row: row[2][-1], MEASURED, "SQNR, dB", 1, "equal to FP32"),
        Column("largest fall, dB", 4, MEASURED, "", 1, "no block lowers it"),
        Column("at block", 3, MEASURED, why="no block lowers it"),
    )
    ratios = noise_by_block.by_pair(run)
    names = dict.fromkeys(name for _, name in ratios)
    found = [(model, name) for model in study.models for name in names if (model, name) in ratios]
    rows = [(*pair, ratios[pair], *noise_by_block.steepest(ratios[pair])) for pair in found]
    title, filters = "Where the error enters", ("Model", "Precision")
    return build("noise-depth", title, caption, shown, rows, source(run), filters=filters)


def agreement_figure(study: Study, run: MachineSet) -> Figure:
    """Signal to quantisation noise by model and precision."""
    weights, names, looks = run.weights or "no", study.compared, figure.looks(study)
    seeded = " It shows that conversions are right; it is no accuracy." if "seeded" in weights else ""
    caption = f"On crops of real photographs, {weights} weights.{seeded}"
    alt = "A row a model with a mark a precision on a scale of decibels."
    values = {name: study.column(run.source, "sqnr", name) for name in names}
    dots = [Dot(model, name, values[name][model], size=6) for name in names for model in values[name]]
    label = "signal to quantisation noise of the features, dB (more is closer to FP32)"
    svg = figure.dot_plot(dots, study.models, names, looks, label, 5.6, step=0)
    return Figure("fidelity", "Agreement with FP32", caption, alt, source(run), svg)


def depth_figure(study: Study, run: MachineSet) -> Figure:
    """Signal to noise after every block: a panel a model, a line a precision."""
    caption = (
        "Of the first photograph, against what the same block answers in FP32. A MobileViT's blocks are its five "
        f"stages. Weights: {run.weights or 'none'}."
    )
    alt = "A panel a model with a line a precision from the first block to the last; higher is closer to FP32."
    ratios, looks = noise_by_block.by_pair(run), figure.looks(study)
    names = dict.fromkeys(name for _, name in ratios)
    models = [model for model in study.models if any((model, name) in ratios for name in names)]

    def panel(axes: Axes, model: str) -> None:
        for name in names:
            after = enumerate(ratios.get((model, name), ()), 1)
            points = {block: ratio for block, ratio in after if ratio is not None}
            style: Any = {"color": looks[name].colour, "marker": looks[name].marker}
            axes.plot(list(points), list(points.values()), linewidth=1.0, markersize=2.5, **style)
        axes.set_title(model, fontsize=7)

    keys, labels = figure.keys_of(looks, names), ("after block", "signal to noise, dB")
    svg = figure.grid(models, panel, (9.0, 1.7), keys, labels, above=0.9, sharey=True)
    return Figure("noise-by-block", "Signal to noise after every block", caption, alt, source(run), svg)


def _weights(run: MachineSet) -> str:
    if "seeded" in run.weights:
        return "Seeded weights: this shows that the conversion is right, and nothing about accuracy."
    return "Pretrained weights; agreement with FP32, not accuracy against labels."
