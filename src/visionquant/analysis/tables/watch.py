"""The accuracy monitor: what it says of the trained networks, and how often it is wrong and how late on streams."""

from visionquant.analysis import kept, table
from visionquant.analysis.kept import Row
from visionquant.analysis.study import Evidence
from visionquant.analysis.table import Column, Item, Table


def validation(evidence: Evidence) -> tuple[Table, ...]:
    """A table a source: the verdict on each precision of each network."""

    def row(one: Row) -> tuple[Item, ...]:
        bounds = f"{one['low']:.4f}–{one['high']:.4f}"  # noqa: RUF001
        retained = Item(f"{one['retention']:.4f}", one["retention"], bounds, "number measured")
        return (
            table.text(str(one["network"])),
            table.text(str(one["precision"])),
            table.text(f"{one['right']} of {one['n']}", css="number measured"),
            retained,
            table.text(str(one["decision"])),
            kept.figure(one, "samples_needed", 0, "more than a billion"),
        )

    return kept.tables(
        evidence,
        "validation",
        "validation",
        "What the monitor says of a fold",
        "FP32 on the same held-out images is the baseline, with its own uncertainty; at least 0.95 of it must be "
        "retained. The decision needs the whole 95 % interval on one side; needed: so many samples decide at this "
        "accuracy.",
        (
            Column("Network", css="text"),
            Column("Precision", css="text"),
            Column("right", css="number measured"),
            Column("retained", css="number measured"),
            Column("decision", css="text"),
            Column("samples needed", css="number measured"),
        ),
        kept.each(row),
    )


def streams(evidence: Evidence) -> tuple[Table, ...]:
    """A table a source: false alarms at the limit, and the delay after a fall."""

    def row(one: Row) -> tuple[Item, ...]:
        return (
            table.text(str(one["case"])),
            kept.figure(one, "alpha", 2),
            kept.figure(one, "accuracy", 4),
            table.text(f"{one['streams']} of {one['answers']}", css="number"),
            table.text(f"{one['alarms_before']}" if one["answers_before"] else "none there", css="number measured"),
            table.text(f"{one['alarms']}", css="number measured"),
            kept.figure(one, "median_delay", 0, "no fall in these streams"),
        )

    return kept.tables(
        evidence,
        "monitor",
        "monitor",
        "The monitor on simulated streams",
        "Baseline 0.97, threshold 0.95. At the limit accuracy is just what is allowed, so every alarm is false, and at "
        "most a share alpha of the streams may raise one. Others fall after 1,000 answers.",
        (
            Column("Case", css="text"),
            Column("alpha"),
            Column("accuracy"),
            Column("streams", "of answers"),
            Column("alarms before the fall", css="number measured"),
            Column("alarms", css="number measured"),
            Column("median delay, answers", css="number measured"),
        ),
        kept.each(row),
    )
