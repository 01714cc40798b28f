"""A model behind HTTP: throughput and latency with batching on and off, and what a killed worker did to requests."""

from collections.abc import Callable

from visionquant import recipes
from visionquant.analysis import table
from visionquant.analysis.evidence import Evidence
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.recipes import Value

Row = dict[str, Value]


def throughput(evidence: Evidence) -> tuple[Table, ...]:
    """One table a source: the forward pass alone, then the server by clients, batching on and off."""
    return _tables(
        evidence,
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
            Column("errors"),
        ),
        ("direct", "load"),
        _loaded,
    )


def killed(evidence: Evidence) -> tuple[Table, ...]:
    """One table a source: the worker killed under load, and the end of every request."""
    return _tables(
        evidence,
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
        ("worker killed",),
        _kill,
    )


def _tables(
    evidence: Evidence,
    name: str,
    title: str,
    caption: str,
    columns: tuple[Column, ...],
    cases: tuple[str, ...],
    items: Callable[[Row], tuple[Item, ...]],
) -> tuple[Table, ...]:
    found = recipes.read_all(evidence.project, "serving")
    if not found:
        return (Table(name, title, caption, columns, (), "Nothing was served yet: `visionquant recipe serving`."),)
    return tuple(
        Table(
            name if i == 0 else f"{name}-{source.replace(':', '-')}",
            f"{title}, {'this machine' if source == recipes.LOCAL else source}",
            caption,
            columns,
            tuple(items(row) for row in one.rows if row["case"] in cases),
            f"{one.environment.title}; {one.rows[0]['model']}, {one.weights} weights; `{one.command}`.",
        )
        for i, (source, one) in enumerate(found.items())
    )


def _loaded(row: Row) -> tuple[Item, ...]:
    direct = row["case"] == "direct"
    batching = str(row["batching"])
    return (
        table.text(blocks.precision_label(str(row["precision"]))),
        table.text(f"forward pass, {batching}" if direct else f"server, batching {batching}"),
        *(
            _number(row, key, decimals, "the forward pass alone" if direct else "stands with batching on")
            for key, decimals in (
                ("clients", 0),
                ("images_per_s", 1),
                ("of_direct", 2),
                ("of_batching_off", 2),
                ("p50_ms", 1),
                ("p99_ms", 1),
                ("mean_batch", 1),
                ("requests", 0),
                ("explicit_errors", 0),
            )
        ),
    )


def _kill(row: Row) -> tuple[Item, ...]:
    keys = ("clients", "accepted", "right", "explicit_errors", "wrong", "hung", "refused")
    return (
        table.text(blocks.precision_label(str(row["precision"]))),
        *(_number(row, key, 0, "not counted") for key in keys),
        _number(row, "recovered_s", 1, "not recovered"),
    )


def _number(row: Row, key: str, decimals: int, why: str) -> Item:
    value = row[key]
    css = "number" if key in ("clients", "requests") else "number measured"
    return table.number(None if value is None else float(value), decimals, css, why=why)
