"""What precision costs on trained weights: Fashion-MNIST through heads that were fitted on FP32's features."""

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes

from visionquant.analysis.accuracy import probe_name
from visionquant.analysis.study import BASELINE, LOCAL, MachineSet, Study
from visionquant.analysis.trained_evidence import SAME_BYTES, TrainedEvidence, against_uniform
from visionquant.records.outcomes import Probe
from visionquant.report import figure
from visionquant.report.columns import estimate, figure_column, machine, of_pairs, picks, share_column
from visionquant.report.figure import Figure
from visionquant.report.items import MEASURED, TEXT, Item, missing, number, precision_label
from visionquant.report.table import Column, Table, build, texts

# Of Fashion-MNIST, by number.
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NOT_RUN = "No model was probed: `make accuracy`."


def probes(study: Study) -> tuple[Table, ...]:
    """One table a source: accuracy through the linear head, the change against FP32, and the features behind it."""
    margin = study.params.statistics.accuracy_margin
    defined = (
        "Percent of test images classified correctly by a linear head that was fitted once, on FP32's features, with "
        "the Wilson interval. Change: paired with FP32 on the same images (Tango's score interval). SAME: within "
        f"{margin:g} point; LOWER or HIGHER: by McNemar's exact test; both corrected (Holm) over the table. "
        "Changed: predictions that are others than FP32's, right or wrong. Own head: the change where the linear head "
        "was fitted again, on this precision's features of the training images, paired and corrected likewise. "
        "Neighbours: the vote of the nearest FP32 features of training images."
    )
    tables = list[Table]()
    for run in _probed(study):
        source = run.source
        absent = {(probe_name(one), name): why for one in run.probes.values() for name, why in one.missing.items()}

        def known(column: Column, absent: dict[tuple[str, str], str] = absent) -> Column:
            of = lambda row: missing("unsupported", absent[row]) if row in absent else column.item(row)  # noqa: E731
            return replace(column, of=of)

        columns = (
            share_column(study, source, "top-1, %", "top1"),
            Column("change, points", lambda row, source=source: _change(study, source, row), MEASURED),
            figure_column(study, source, "lost", "right_in_fp32_alone", "images"),
            figure_column(study, source, "won", "right_here_alone", "images"),
            figure_column(study, source, "changed, %", "churn", "", 2),
            figure_column(study, source, "calibration error, %", "calibration_error", "", 2),
            Column("own head, points", lambda row, source=source: _own_head(study, source, row), MEASURED),
            share_column(study, source, "neighbours, %", "knn_top1"),
            figure_column(study, source, "mean", "cosine", "cosine of features", 4),
            figure_column(study, source, "least", "least_cosine", "cosine of features", 4),
            figure_column(study, source, "weights, MiB", "memory_stored_weights", "", 1),
        )
        shown = of_pairs(*map(known, columns), first="Model")
        rows = [(probe_name(one), name) for one in run.probes.values() for name in (*one.precisions, *one.missing)]
        title, by = f"Accuracy on trained weights, {machine(source)}", picks(source)
        name = f"probes-{source.replace(':', '-')}" if tables else "probes"
        caption = " ".join([defined, *_refitted(study, run)])
        below = "; ".join(_behind(one) for one in run.probes.values())
        tables.append(build(name, title, caption, shown, rows, f"{below}.", "", (), by))
    return tuple(tables) or (build("probes", "Accuracy on trained weights", defined, texts("Model"), (), NOT_RUN),)


def by_class(study: Study) -> Table:
    """Of each class the images that a precision loses against FP32 or wins: their balance in points."""
    caption = "Change of the share of a class that is classified correctly, in points against FP32."

    def change(row: tuple[Probe, str], label: int) -> Item:
        probe, name = row
        base, here = probe.precisions[BASELINE].classes, probe.precisions[name].classes
        of = [i for i, known in enumerate(probe.labels) if known == label]
        right = [sum(classes[i] == label for i in of) for classes in (base, here)]
        note = f"FP32 {right[0]}, here {right[1]} of {len(of)}"
        return number(100 * (right[1] - right[0]) / len(of), 1, note=note) if of else missing("not_measured", "none")

    rows = [
        (one, name)
        for run in _probed(study)[:1]
        for one in run.probes.values()
        if BASELINE in one.precisions
        for name in one.precisions
        if name != BASELINE
    ]
    shown = [
        Column("Model", lambda row: row[0].model, "text"),
        Column("Precision", lambda row: precision_label(row[1]), "text"),
        *(Column(name, lambda row, i=i: change(row, i), MEASURED) for i, name in enumerate(CLASSES)),
    ]
    below = "; ".join(dict.fromkeys(_behind(row[0]) for row in rows))
    return build("probes-by-class", "Change by class", caption, shown, rows, f"{below}." if rows else NOT_RUN)


def policies(study: Study) -> Table:
    """Each policy against the uniform precisions that store as much or more: what was found, and the figures."""
    held = [one for run in _probed(study)[:1] for one in run.probes.values()]
    of = [row for one in held for row in against_uniform(study, one)]
    said = [
        f"{row.policy} against {precision_label(row.uniform)} at {row.share:.1%} of its bytes: "
        f"{row.change.verdict}, {row.change.value:+.2f} points ({row.change.low:.2f} to {row.change.high:.2f})."
        for row in of
    ]
    caption = (
        "On the same images, paired: Tango's interval; SAME within the margin, LOWER or HIGHER by McNemar's exact "
        "test, corrected (Holm) over the table. A policy meets the precisions that store as much, "
        f"{SAME_BYTES:.0%} either way, or more."
    )
    shown = [
        *texts(model="Model", policy="Policy"),
        Column("against", lambda row: precision_label(row.uniform), TEXT),
        Column("of its bytes, %", "share", MEASURED, decimals=1, factor=100),
        Column("difference, points", lambda row: estimate(row.change), MEASURED),
    ]
    none = "No such policy was evaluated: name one of `visionquant allocate` in `evaluation.probe.also`."
    below = f"{'; '.join(map(_behind, held))}." if of else none
    return build("probes-policies", "Policies against uniform precisions", " ".join([*said, caption]), shown, of, below)


def probe_figure(study: Study) -> Figure:
    """A panel a model: bytes of the weights against the change of accuracy, a mark and an interval a precision."""
    margin = study.params.statistics.accuracy_margin
    runs = _probed(study)[:1]
    held = {probe_name(one): (run.source, one) for run in runs for one in run.probes.values()}
    looks, names = figure.looks(study), dict.fromkeys(name for _, one in held.values() for name in one.precisions)

    def panel(axes: Axes, network: str) -> None:
        source, one = held[network]
        axes.axhspan(-margin, margin, alpha=0.08, color=looks[BASELINE].colour, linewidth=0)
        points = list[tuple[float, float]]()
        for name in one.precisions:
            size = study.value(source, network, name, 0, "memory_stored_weights") or 0.0
            change, look = study.row(source, network, name, 0, "accuracy_change"), looks[name]
            points.append((size, change.value or 0.0))
            if change.low is not None and change.high is not None:
                axes.plot([size, size], [change.low, change.high], color=look.colour, linewidth=1.2)
            axes.plot(*points[-1], look.marker, color=look.colour, markersize=6)
        if points:
            sizes, changes = zip(*sorted(points), strict=True)
            best = np.maximum.accumulate(changes)
            axes.step(sizes, best, where="post", color=figure.INK, linewidth=0.6, linestyle=":")
        figure.symlog_scale(axes, "y")
        axes.set_title(f"{network}, n = {len(one.labels):,}")

    caption = (
        "Above and left is better; the dotted line is the best that so many bytes or fewer give. The band is "
        f"{margin:g} point either way; beyond a point the scale is logarithmic. With the 95 % interval of the paired "
        "difference; FP32 is zero."
    )
    alt = "A mark a precision: bytes of the weights along, change of top-1 in points against FP32 up."
    labels = ("stored weights, MiB", "change of top-1, points")
    below = "; ".join(_behind(one) for _, one in held.values()) or NOT_RUN
    columns = max(1, min(2, len(held)))
    svg = figure.grid(
        tuple(held),
        panel,
        (9.0, 3.2),
        figure.keys_of(looks, names),
        labels,
        0.5,
        columns,
        4,
        stacked=(len(held) or 1, 1),
    )
    return Figure("probes", "What a byte buys: accuracy against size", caption, alt, below, svg)


def _probed(study: Study) -> list[MachineSet]:
    """The sets with probes, this machine's first."""
    return sorted((run for run in study.sets if run.probes), key=lambda run: run.source != LOCAL)


def _change(study: Study, source: str, row: tuple[str, str]) -> Item:
    return estimate(TrainedEvidence(source, row[0]).change(study, row[1]))


def _own_head(study: Study, source: str, row: tuple[str, str]) -> Item:
    found = study.row(source, *row, 0, "own_head_accuracy_change")
    return missing("not_measured", "no head was fitted on its own features") if found.value is None else estimate(found)


def _refitted(study: Study, run: MachineSet) -> list[str]:
    """What heads of the precisions' own make of their changes, a sentence each."""
    said = []
    for one, name in [(probe, name) for probe in run.probes.values() for name in probe.precisions]:
        fixed = TrainedEvidence(run.source, probe_name(one)).change(study, name)
        own = study.row(run.source, probe_name(one), name, 0, "own_head_accuracy_change")
        if fixed.value is not None and own.value is not None:
            said.append(
                f"{one.model} in {precision_label(name)}: {fixed.value:+.2f} points through FP32's head "
                f"({fixed.verdict}), {own.value:+.2f} through its own ({own.verdict})."
            )
    return said


def _behind(one: Probe) -> str:
    return f"{one.model}: {one.weights}; {len(one.labels)} test images of {one.task}; {one.environment.title}"
