"""The recipe `calibration` as tables: static INT8 against dynamic, and the number of calibration images swept."""

from collections.abc import Sequence

import numpy as np

from visionquant.analysis import accuracy, kept, table, verdicts
from visionquant.analysis.accuracy import Contrast
from visionquant.analysis.kept import Row
from visionquant.analysis.study import Evidence
from visionquant.analysis.swept import LABELS, NAME, STATISTICS, Rows, drawn, networks, sizes
from visionquant.analysis.table import Column, Item, Table
from visionquant.records.recipe import Recipe

CSS = "number measured"


def contest(study: Evidence) -> tuple[Table, ...]:
    """One table a source: static INT8 by three statistics, dynamic INT8 and FP32 on the same held-out images."""
    return kept.tables(
        study,
        NAME,
        "calibration",
        "Static against dynamic INT8",
        "Percent of held-out images named rightly, with the Wilson interval; LOWER or HIGHER than FP32 by "
        "McNemar's exact test, corrected (Holm) over the table, UNDECIDED where these images don't tell the two "
        "apart. Static: ranges fixed from the first draw, its first image or its largest set; dynamic: "
        "from each batch of 100; bitsandbytes: from each row, other layers in BF16. All three quantise the Linear "
        "layers alone. SQNR of the logits, over all images.",
        (
            Column("Network", css="text"),
            Column("Precision", css="text"),
            Column("calibration images", css=CSS),
            Column("top-1, %", css=CSS),
            Column("right in FP32 alone", "images", CSS),
            Column("right here alone", "images", CSS),
            Column("p", css=CSS),
            Column("SQNR, dB", css=CSS),
            Column("layers in INT8", css=CSS),
        ),
        lambda found: _contest(found, study.params.statistics.confidence),
    )


def sweep(study: Evidence) -> tuple[Table, ...]:
    """One table a source: median over the draws, with the range, for each number of calibration images."""
    return kept.tables(
        study,
        NAME,
        "calibration-sweep",
        "How many calibration images",
        "Median over the draws, with the lowest and the highest. The images of a draw are the first of one seeded "
        "order of the training part.",
        (
            Column("Network", css="text"),
            Column("calibration images"),
            *(Column(LABELS[name].split(", ")[-1], "top-1, %", CSS) for name in STATISTICS),
            *(Column(LABELS[name].split(", ")[-1], "SQNR, dB", CSS) for name in STATISTICS),
        ),
        lambda found: _sweep(found.rows),
    )


def _contest(found: Recipe, confidence: float) -> tuple[tuple[Item, ...], ...]:
    most = {network: sizes(found.rows, network)[-1] for network in networks(found.rows)}
    shown = [
        row
        for row in found.rows
        if row["added"]
        or row["images"] is None
        or (row["draw"] == 0 and row["images"] in (1, most[str(row["network"])]))
    ]
    contrasts = [_contrast(row) if row["statistic"] != "fp32" else None for row in shown]
    adjusted = iter(verdicts.holm([one.p for one in contrasts if one]))
    words = [
        Contrast(one.only_base, one.only_other, next(adjusted)).word(1 - confidence) if one else "" for one in contrasts
    ]
    return tuple(_row(row, one, word, confidence) for row, one, word in zip(shown, contrasts, words, strict=True))


def _row(row: Row, one: Contrast | None, word: str, confidence: float) -> tuple[Item, ...]:
    right, n = int(row["right"] or 0), int(row["n"] or 0)
    top1 = accuracy.share([True] * right + [False] * (n - right), confidence)
    itself = "FP32 itself"
    added = f", with {row['added']}" if row["added"] else ""
    sqnr = row["sqnr_db"]
    return (
        table.text(str(row["network"])),
        table.text(LABELS[str(row["statistic"])] + added),
        table.number(None if row["images"] is None else int(row["images"]), 0, CSS, why="it takes none"),
        Item(
            f"{top1.value:.2f}",
            top1.value,
            f"{top1.low:.2f}–{top1.high:.2f}",  # noqa: RUF001
            CSS,
            f"{right} of {n}",
            word=word,
        ),
        table.number(one.only_base if one else None, 0, CSS, why=itself),
        table.number(one.only_other if one else None, 0, CSS, why=itself),
        table.number(one.p if one else None, 3, CSS, why=itself),
        table.number(None if sqnr is None else float(sqnr), 1, CSS, why=str(row["why"])),
        table.number(int(row["quantised_layers"] or 0), 0, CSS),
    )


def _contrast(row: Row) -> Contrast:
    base, here = int(row["only_fp32"] or 0), int(row["only_here"] or 0)
    return accuracy.contrast([True] * base + [False] * here, [False] * base + [True] * here)


def _sweep(rows: Rows) -> tuple[tuple[Item, ...], ...]:
    return tuple(
        (
            table.text(network),
            table.number(images, 0),
            *(_spread(drawn(rows, network, name, images, "top1"), 2) for name in STATISTICS),
            *(_spread(drawn(rows, network, name, images, "sqnr_db"), 1) for name in STATISTICS),
        )
        for network in networks(rows)
        for images in sizes(rows, network)
    )


def _spread(values: Sequence[float], decimals: int) -> Item:
    if not values:
        return table.missing("not_measured", "no draw has it")
    middle = float(np.median(values))
    bounds = f"{min(values):.{decimals}f}–{max(values):.{decimals}f}"  # noqa: RUF001
    return Item(table.fixed(middle, decimals), table.key_of(middle), bounds, CSS, f"{len(values)} draws")
