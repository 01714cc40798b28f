"""Top-1 of the trained networks in every precision, and what was trained."""

from collections.abc import Sequence

from visionquant.analysis import accuracy, table
from visionquant.analysis.accuracy import Measured, Share
from visionquant.analysis.study import Evidence
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.records import labelled
from visionquant.records.labelled import Judged
from visionquant.records.predictions import Scores


def top1(evidence: Evidence) -> tuple[Table, ...]:
    """One table a source: the share of images named rightly, against FP32 on the same images."""
    found = accuracy.sets(evidence)
    if not found:
        return (_table("accuracy", "Top-1 of the trained networks", (), "No network was evaluated: `make accuracy`."),)
    return tuple(
        _table(
            "accuracy" if i == 0 else f"accuracy-{source.replace(':', '-')}",
            f"Top-1 of the trained networks, {_label(source, each)}",
            tuple(_row(one) for one in accuracy.measured(each, evidence.params.statistics.confidence)),
            _source(each),
        )
        for i, (source, each) in enumerate(found.items())
    )


def pretrained(evidence: Evidence) -> Table:
    """Models of the study with pretrained weights on the reader's labelled images."""
    found = labelled.read(evidence.project)
    judged = found.judged if found else ()
    not_run = dict.fromkeys(evidence.params.study.models, "`visionquant evaluate-pretrained` has not run")
    reasons = not_run if found is None else found.missing
    rows: list[tuple[Item, ...]] = []
    for one in accuracy.named(judged, evidence.params.statistics.confidence):
        rows.append(
            (
                table.text(one.model),
                table.text(blocks.precision_label(one.precision)),
                _share(one.top1, one.word),
                _share(one.top5, ""),
                _share(one.neighbours, ""),
                table.number(one.agreement, 2, "number measured"),
                table.number(one.cka, 4, "number measured"),
            )
        )
    for model, why in reasons.items():
        rows.append((table.text(model), table.text("all"), *[table.missing("not_measured", why)] * 5))
    return Table(
        "pretrained",
        "Models with pretrained weights",
        "Images of `evaluation.images` in params.yaml. Top-1 and top-5 through the checkpoint's own head; LOWER or "
        "HIGHER than FP32 by McNemar's exact test, corrected (Holm) over the table. Also the "
        "share of images that their nearest neighbours by features name rightly, how often that is the class that "
        "FP32's features give, and linear CKA with FP32's features.",
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            Column("top-1, %", css="number measured"),
            Column("top-5, %", css="number measured"),
            Column("neighbours, %", css="number measured"),
            Column("same as FP32's, %", css="number measured"),
            Column("CKA", css="number measured"),
        ),
        tuple(rows),
        _images(judged[0]) if judged else "data/labelled.json.",
    )


def _images(one: Judged) -> str:
    beside = labelled.counted(one.skipped or {}) or "nothing"
    skipped = f"passed over: {beside}" if one.skipped is not None else "what was passed over is not recorded"
    return f"{one.environment.title}; {len(one.labels)} images; {skipped}."


def trained(evidence: Evidence) -> Table:
    """The networks: family, sizes, images learned from and held out."""
    rows = []
    for source, found in accuracy.sets(evidence).items():
        for each in found:
            spec = each.spec
            rows.append(
                (
                    table.text(each.network),
                    table.text(spec.family),
                    table.number(spec.image_size, 0),
                    table.number(spec.epochs, 0),
                    table.text(f"{len(each.folds)} of {each.training.folds}", css="number"),
                    table.number(len(each.labels), 0),
                    table.text(source),
                )
            )
    return Table(
        "trained",
        "What was trained",
        "Small networks on a small task: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels scaled up. An image is "
        "named by the network that has not learned from it.",
        (
            Column("Network", css="text"),
            Column("Family", css="text"),
            Column("image, pixels"),
            Column("epochs"),
            Column("folds"),
            Column("images named"),
            Column("Source", css="text"),
        ),
        tuple(rows),
        "data/evaluated and data/accuracy.",
    )


def _row(one: Measured) -> tuple[Item, ...]:
    top = one.top1
    against = one.contrast
    return (
        table.text(one.network),
        table.text(blocks.precision_label(one.precision)),
        _share(top, one.word),
        table.number(against.only_base if against else None, 0, "number measured", why="FP32 itself"),
        table.number(against.only_other if against else None, 0, "number measured", why="FP32 itself"),
        table.number(against.p if against else None, 3, "number measured", why="FP32 itself"),
        table.number(one.calibration, 2, "number measured"),
    )


def _share(found: Share | None, word: str) -> Item:
    if found is None:
        return table.missing("not_available", "it has no head")
    bounds = f"{found.low:.2f}–{found.high:.2f}"  # noqa: RUF001
    note = f"{found.count} of {found.n}"
    return Item(f"{found.value:.2f}", found.value, bounds, "number measured", note, word=word)


def _table(name: str, title: str, rows: tuple[tuple[Item, ...], ...], source: str) -> Table:
    return Table(
        name,
        title,
        "Percent of held-out images, with the Wilson interval. LOWER or HIGHER than FP32 by McNemar's exact test, "
        "corrected (Holm) over the table; UNDECIDED: these images don't tell the two apart. Calibration: expected "
        "calibration error over ten bins.",
        (
            Column("Network", css="text"),
            Column("Precision", css="text"),
            Column("top-1, %", css="number measured"),
            Column("right in FP32 alone", "images", "number measured"),
            Column("right here alone", "images", "number measured"),
            Column("p", css="number measured"),
            Column("calibration error, %", css="number measured"),
        ),
        rows,
        source,
    )


def _label(source: str, found: Sequence[Scores]) -> str:
    images = len(found[0].labels)
    return f"{'this machine' if source == 'local' else source}, {images} images"


def _source(found: Sequence[Scores]) -> str:
    return f"{found[0].environment.title}; weights trained here, {', '.join(one.network for one in found)}."
