"""A model behind HTTP: throughput and latency with batching on and off, and what a killed worker did to requests."""

from visionquant.analysis import kept, table
from visionquant.analysis.kept import Row
from visionquant.analysis.study import Evidence
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks

CSS = "number measured"


def throughput(evidence: Evidence) -> tuple[Table, ...]:
    """One table a source: the forward pass alone, then the server by clients, batching on and off."""
    return kept.tables(
        evidence,
        "serving",
        "serving",
        "The server under load",
        "Clients on the same machine post JPEG files and wait for each answer. Over the forward pass: images a second "
        "by those of one image at a time without HTTP. Over batching off: on by off. Both are medians of ratios within "
        "a round.",
        (
            Column("Precision", css="text"),
            Column("What", css="text"),
            Column("clients"),
            Column("images/s", css="number measured"),
            Column("over the forward pass", css="number measured"),
            Column("over batching off", css="number measured"),
            Column("p50, ms", css="number measured"),
            Column("p99, ms", css="number measured"),
            Column("images a pass", css="number measured"),
            Column("requests"),
            Column("errors", css=CSS),
            Column("hung", css=CSS),
        ),
        lambda found: [_loaded(row) for row in found.rows if row["case"] in ("direct", "load")],
    )


def killed(evidence: Evidence) -> tuple[Table, ...]:
    """One table a source: the worker killed under load, and the end of every request."""
    return kept.tables(
        evidence,
        "serving",
        "serving-killed",
        "The worker killed under load",
        "The inference process gets SIGKILL in the middle of the load. Accepted requests must end in a right answer or "
        "an explicit error (503 or 504); refused ones were told at once that the server was cold or full. Recovered: "
        "from the kill until a new worker was warm.",
        (
            Column("Precision", css="text"),
            Column("clients"),
            Column("accepted", css="number measured"),
            Column("right", css="number measured"),
            Column("explicit errors", css="number measured"),
            Column("wrong", css="number measured"),
            Column("hung", css="number measured"),
            Column("refused", css="number measured"),
            Column("recovered after, s", css="number measured"),
        ),
        lambda found: [_kill(row) for row in found.rows if row["case"] == "worker killed"],
    )


def _loaded(row: Row) -> tuple[Item, ...]:
    direct = row["case"] == "direct"
    batching = str(row["batching"])
    return (
        table.text(blocks.precision_label(str(row["precision"]))),
        table.text(f"forward pass, {batching}" if direct else f"server, batching {batching}"),
        *(
            kept.figure(row, key, decimals, "the forward pass alone" if direct else "stands with batching on", css)
            for key, decimals, css in (
                ("clients", 0, "number"),
                ("images_per_s", 1, CSS),
                ("of_direct", 2, CSS),
                ("of_batching_off", 2, CSS),
                ("p50_ms", 1, CSS),
                ("p99_ms", 1, CSS),
                ("mean_batch", 1, CSS),
                ("requests", 0, "number"),
                ("explicit_errors", 0, CSS),
                ("hung", 0, CSS),
            )
        ),
    )


def _kill(row: Row) -> tuple[Item, ...]:
    keys = ("clients", "accepted", "right", "explicit_errors", "wrong", "hung", "refused")
    return (
        table.text(blocks.precision_label(str(row["precision"]))),
        *(kept.figure(row, key, 0, "not counted") for key in keys),
        kept.figure(row, "recovered_s", 1, "not recovered"),
    )
