"""How far outputs are from FP32's, which is no accuracy, and top-1 against labels, which is."""

from typing import Any

from matplotlib.axes import Axes

from visionquant.analysis import estimators
from visionquant.analysis.study import LOCAL, MachineSet, Study
from visionquant.records.outcomes import counted
from visionquant.report import figure
from visionquant.report.columns import (
    columns_of,
    figure_column,
    machine,
    of_models,
    of_pairs,
    picks,
    share_column,
    source,
)
from visionquant.report.figure import Dot, Figure
from visionquant.report.items import MEASURED, Item, missing
from visionquant.report.table import Column, Table, build, texts

TRAINED = "weights trained here"


def agreement(study: Study, run: MachineSet) -> Table:
    """Features: cosine and signal to noise."""
    caption = f"Last hidden state on crops of photographs; signal to quantisation noise in decibels. {_weights(run)}"
    shown = of_models(
        columns_of(study, run.source, "cosine", "cosine", study.compared),
        columns_of(study, run.source, "SQNR, dB", "sqnr", study.compared),
    )
    return build("agreement", "Features against FP32", caption, shown, study.models, source(run))


def decisions(study: Study, run: MachineSet) -> Table:
    """Logits: how often the same class wins, and how far the distributions are apart."""
    proven = [record.fidelity for record in run.records.values() if record.fidelity]
    through = " or ".join(sorted({fidelity.logits_from for fidelity in proven})) or "a head"
    counts = sorted({fidelity.images for fidelity in proven})
    images = f"{counts[0]} to {counts[-1]} images a model, the fewer the larger it is" if counts else "no images yet"
    caption = f"Logits through {through}, over {images}. KL: Kullback-Leibler divergence. {_weights(run)}"
    shown = of_models(
        columns_of(study, run.source, "top-1 agreement, %", "top1_agreement", study.compared),
        columns_of(study, run.source, "KL, nats", "kl_divergence", study.compared),
    )
    title = "Accuracy simulation: decisions against FP32"
    return build("decisions", title, caption, shown, study.models, source(run))


def _weights(run: MachineSet) -> str:
    if "seeded" in run.weights:
        return "Seeded weights: this shows that the conversion is right, and nothing about accuracy."
    return "Pretrained weights; agreement with FP32, not accuracy against labels."


def traced(study: Study) -> MachineSet:
    """The set that tells of noise by block for the most pairs; the measured one where none does."""
    return max((study.measured, *study.sets), key=lambda run: len(estimators.block_ratios(run.records)))


def agreement_figure(study: Study, run: MachineSet) -> Figure:
    """Signal to quantisation noise by model and precision."""
    weights, names, looks = run.weights or "no", study.compared, figure.looks(study)
    seeded = " It shows that conversions are right; it is no accuracy." if "seeded" in weights else ""
    caption = f"On crops of real photographs, {weights} weights.{seeded}"
    alt = "A row a model with a mark a precision on a scale of decibels."
    values = {name: study.column(run.source, "sqnr", name) for name in names}
    dots = [Dot(model, name, ratio, size=6) for name in names for model, ratio in values[name].items()]
    label = "signal to quantisation noise of the features, dB (more is closer to FP32)"
    svg = figure.dot_plot(dots, study.models, names, looks, label, 5.6, step=0)
    return Figure("fidelity", "Agreement with FP32", caption, alt, source(run), svg)


def depth_figure(study: Study, run: MachineSet) -> Figure:
    """Signal to noise after every block: a panel a model, a line a precision."""
    caption = f"Of the first photograph. A MobileViT's blocks are its five stages. Weights: {run.weights or 'none'}."
    alt = "A panel a model with a line a precision from the first block to the last; higher is closer to FP32."
    ratios, looks = estimators.block_ratios(run.records), figure.looks(study)
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


def top1(study: Study) -> tuple[Table, ...]:
    """One table a source: the share of images classified correctly, against FP32 on the same images."""
    caption = (
        "Percent of held-out images, with the Wilson interval. SAME as FP32: within the margin; LOWER or HIGHER: by "
        "McNemar's exact test; corrected (Holm) over the table; UNDECIDED: these images don't tell. Calibration error: "
        "expected, ten bins."
    )
    tables = list[Table]()
    for run in study.evaluated or [study.local]:
        scores = tuple(run.accuracy.values())
        where, below = "", "No network was evaluated: `make accuracy`."
        if scores:
            where = f", {machine(run.source)}, {len(scores[0].labels)} images"
            below = f"{scores[0].environment.title}; {TRAINED}, {', '.join(result.network for result in scores)}."
        shown = of_pairs(
            share_column(study, run.source, "top-1, %", "top1"),
            figure_column(study, run.source, "right in FP32 alone", "right_in_fp32_alone", "images"),
            figure_column(study, run.source, "right here alone", "right_here_alone", "images"),
            figure_column(study, run.source, "p", "mcnemar_p", "", 3),
            figure_column(study, run.source, "calibration error, %", "calibration_error", "", 2),
            first="Network",
        )
        rows = [(result.network, precision) for result in scores for precision in result.precisions]
        name = f"accuracy-{run.source.replace(':', '-')}" if tables else "accuracy"
        title, by = f"Top-1 of the trained networks{where}", picks(run.source)
        tables.append(build(name, title, caption, shown, rows, below, "", (), by))
    return tuple(tables)


def pretrained_models(study: Study) -> Table:
    """Models of the study with pretrained weights on the reader's labelled images."""
    caption = (
        "Images of `evaluation.images`. Top-1 and top-5 through the checkpoint's own head, with the verdict against "
        "FP32 as above. Then: the share that neighbours by features classify correctly, how often that is the class "
        "that FP32's features give, and linear CKA with FP32's features."
    )
    labelled, below = study.local.labelled, "data/machines/local/labelled.json."
    judged = labelled.judged if labelled else ()
    not_run = dict.fromkeys(study.params.study.models, "`visionquant evaluate-pretrained` has not run")
    absent = labelled.missing if labelled else not_run
    if judged:
        skipped = "what was passed over is not recorded"
        if judged[0].skipped is not None:
            skipped = f"passed over: {counted(judged[0].skipped) or 'nothing'}"
        below = f"{judged[0].environment.title}; {len(judged[0].labels)} images; {skipped}."

    def of(column: Column) -> Column:
        def item(row: tuple[str, str]) -> Item:
            return missing("not_measured", absent[row[0]]) if row[1] == "all" else column.item(row)

        return Column(column.heading, item, MEASURED)

    columns = (
        share_column(study, LOCAL, "top-1, %", "top1"),
        share_column(study, LOCAL, "top-5, %", "top5"),
        share_column(study, LOCAL, "neighbours, %", "knn_top1"),
        figure_column(study, LOCAL, "same as FP32's, %", "knn_agreement", "", 2, "not available"),
        figure_column(study, LOCAL, "CKA", "cka", "", 4, "not available"),
    )
    rows = [(result.model, precision) for result in judged for precision in result.precisions]
    rows += [(model, "all") for model in absent]
    return build("pretrained", "Models with pretrained weights", caption, of_pairs(*map(of, columns)), rows, below)


def trained_networks(study: Study) -> Table:
    """The networks: family, sizes, images learned from and held out."""
    caption = (
        "Of 1,797 handwritten digits (scikit-learn) in folds, or of Fashion-MNIST's own test images; the network that "
        "classifies one has not learned from it."
    )
    shown = [
        Column("Network", lambda row: row[1].network, "text"),
        Column("Family", lambda row: row[1].spec.family, "text"),
        Column("image, pixels", lambda row: row[1].spec.image_size),
        Column("task", lambda row: row[1].spec.task, "text"),
        Column("epochs", lambda row: row[1].spec.epochs),
        Column("folds", lambda row: f"{len(row[1].folds)} of {row[1].training.fold_count(row[1].spec)}"),
        Column("images classified", lambda row: len(row[1].labels)),
        *texts("Source"),
    ]
    rows = [(run.source, result) for run in study.evaluated for result in run.accuracy.values()]
    return build("trained", "What was trained", caption, shown, rows, "data/machines/*/accuracy.")


def top1_figure(study: Study) -> Figure:
    """The source with the most images."""
    caption = "Wilson intervals, of the same images: overlap is no proof of equality; the table has the exact test."
    alt, run = "A row a network with a mark and an interval a precision.", study.most_evaluated
    rows = [(result.network, precision) for result in run.accuracy.values() for precision in result.precisions]
    names, precisions = (tuple(dict.fromkeys(row[i] for row in rows)) for i in (0, 1))
    shares = {row: study.row(run.source, *row, 0, "top1") for row in rows}
    dots = [Dot(*row, share.value or 0.0, share.low, share.high, size=5) for row, share in shares.items()]
    where = next((result.environment.title for result in run.accuracy.values()), "nothing was evaluated")
    height = 1.2 + 0.6 * max(2, len(names))
    svg = figure.dot_plot(dots, names, precisions, figure.looks(study), "top-1, %", height)
    return Figure("accuracy", "Top-1 in every precision", caption, alt, f"{where}; {TRAINED}.", svg)
