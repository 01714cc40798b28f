"""Top-1 of the trained networks in every precision, what was trained, and models with pretrained weights."""

from visionquant.analysis.estimators import Estimate
from visionquant.analysis.study import LOCAL, MachineSet, Study
from visionquant.records.labelled import counted
from visionquant.report import figure
from visionquant.report.columns import of_pairs
from visionquant.report.figure import Dot, Figure
from visionquant.report.items import MEASURED, Item, missing, number
from visionquant.report.table import Column, Table, build

TRAINED = "weights trained here"


def top1(study: Study) -> tuple[Table, ...]:
    """One table a source: the share of images named rightly, against FP32 on the same images."""
    caption = (
        "Percent of held-out images, with the Wilson interval. LOWER or HIGHER than FP32 by McNemar's exact test, "
        "corrected (Holm) over the table; UNDECIDED: these images don't tell the two apart. Calibration: expected "
        "calibration error over ten bins."
    )
    title, tables = "Top-1 of the trained networks", list[Table]()
    for run in _evaluated(study) or [study.local]:
        scores = tuple(run.accuracy.values())
        where, below = "", "No network was evaluated: `make accuracy`."
        if scores:
            where = f", {'this machine' if run.source == LOCAL else run.source}, {len(scores[0].labels)} images"
            below = f"{scores[0].environment.title}; {TRAINED}, {', '.join(result.network for result in scores)}."

        def of(heading: str, name: str, group: str = "", decimals: int = 0, source: str = run.source) -> Column:
            def value(pair: tuple[str, str]) -> float | None:
                return study.value(source, *pair, 0, name)

            return Column(heading, value, MEASURED, group, decimals, "FP32 itself")

        shown = of_pairs(
            _share(study, run.source, "top-1, %", "top1"),
            of("right in FP32 alone", "right_in_fp32_alone", "images"),
            of("right here alone", "right_here_alone", "images"),
            of("p", "mcnemar_p", "", 3),
            of("calibration error, %", "calibration_error", "", 2),
            first="Network",
        )
        rows = [(result.network, precision) for result in scores for precision in result.precisions]
        name = f"accuracy-{run.source.replace(':', '-')}" if tables else "accuracy"
        tables.append(build(name, f"{title}{where}", caption, shown, rows, below))
    return tuple(tables)


def pretrained(study: Study) -> Table:
    """Models of the study with pretrained weights on the reader's labelled images."""
    caption = (
        "Images of `evaluation.images` in params.yaml. Top-1 and top-5 through the checkpoint's own head; LOWER or "
        "HIGHER than FP32 by McNemar's exact test, corrected (Holm) over the table. Also the "
        "share of images that their nearest neighbours by features name rightly, how often that is the class that "
        "FP32's features give, and linear CKA with FP32's features."
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

    def plain(heading: str, name: str, decimals: int) -> Column:
        return Column(heading, lambda row: study.value(LOCAL, row[0], row[1], 0, name), MEASURED, decimals=decimals)

    shown = of_pairs(
        of(_share(study, LOCAL, "top-1, %", "top1")),
        of(_share(study, LOCAL, "top-5, %", "top5")),
        of(_share(study, LOCAL, "neighbours, %", "knn_top1")),
        of(plain("same as FP32's, %", "knn_agreement", 2)),
        of(plain("CKA", "cka", 4)),
    )
    rows = [(result.model, precision) for result in judged for precision in result.precisions]
    rows += [(model, "all") for model in absent]
    return build("pretrained", "Models with pretrained weights", caption, shown, rows, below)


def trained(study: Study) -> Table:
    """The networks: family, sizes, images learned from and held out."""
    caption = (
        "Small networks on a small task: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels scaled up. An image is "
        "named by the network that has not learned from it."
    )
    shown = [
        Column("Network", lambda row: row[1].network, "text"),
        Column("Family", lambda row: row[1].spec.family, "text"),
        Column("image, pixels", lambda row: row[1].spec.image_size),
        Column("epochs", lambda row: row[1].spec.epochs),
        Column("folds", lambda row: f"{len(row[1].folds)} of {row[1].training.folds}"),
        Column("images named", lambda row: len(row[1].labels)),
        Column("Source", 0, "text"),
    ]
    rows = [(run.source, result) for run in _evaluated(study) for result in run.accuracy.values()]
    return build("trained", "What was trained", caption, shown, rows, "data/machines/*/accuracy.")


def top1_figure(study: Study) -> Figure:
    """The source with the most images."""
    caption = (
        "Wilson intervals; the precisions name the same images, so overlapping intervals are no proof of equality: "
        "the table has the exact test."
    )
    alt = "A row a network with a mark and an interval a precision."
    runs = _evaluated(study)
    run = max(runs, key=lambda result: len(next(iter(result.accuracy.values())).labels)) if runs else study.local
    rows = [(result.network, precision) for result in run.accuracy.values() for precision in result.precisions]
    names, precisions = (tuple(dict.fromkeys(row[i] for row in rows)) for i in (0, 1))
    shares = {row: study.row(run.source, *row, 0, "top1") for row in rows}
    dots = [Dot(*row, share.value or 0.0, share.low, share.high, size=5) for row, share in shares.items()]
    machine = next((result.environment.title for result in run.accuracy.values()), "nothing was evaluated")
    height = 1.2 + 0.6 * max(2, len(names))
    svg = figure.dot_plot(dots, names, precisions, figure.looks(study), "top-1, %", height)
    return Figure("accuracy", "Top-1 in every precision", caption, alt, f"{machine}; {TRAINED}.", svg)


def _evaluated(study: Study) -> list[MachineSet]:
    """The sets that evaluated a trained network, this machine's first."""
    return sorted((run for run in study.sets if run.accuracy), key=lambda run: run.source != LOCAL)


def _share(study: Study, source: str, heading: str, name: str) -> Column:
    """A share of images in percent, with its interval, how many they are, and the verdict on it."""

    def of(pair: tuple[str, str]) -> Item:
        found: Estimate = study.row(source, *pair, 0, name)
        note = f"{round((found.value or 0.0) * found.n / 100)} of {found.n}"
        return number(found.value, 2, "it has no head", "", found.low, found.high, note, found.verdict)

    return Column(heading, of, MEASURED)
