"""ONNX Runtime's session options beside torch and bitsandbytes: times, both ratios, and agreement with FP32."""

from visionquant import recipes
from visionquant.analysis import table
from visionquant.analysis.evidence import Evidence
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.recipes import Recipe, Value

RECIPE = "onnxruntime"
NO_SESSION = "torch has no such option"


def options(evidence: Evidence) -> tuple[Table, ...]:
    """One table a source, a row a contestant and batch size."""
    found = recipes.read_all(evidence.project, RECIPE)
    if not found:
        return (_table("onnxruntime", "ONNX Runtime's options", (), f"Nothing ran: `visionquant recipe {RECIPE}`."),)
    return tuple(
        _table(
            "onnxruntime" if i == 0 else f"onnxruntime-{source.replace(':', '-')}",
            f"ONNX Runtime's options, {'this machine' if source == 'local' else source}",
            tuple(_row(row) for row in recipe.rows),
            _source(recipe),
        )
        for i, (source, recipe) in enumerate(found.items())
    )


def contestant(row: dict[str, Value]) -> str:
    """What ran, in words: precision, engine, threads, and the options that are not the default."""
    threads = f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"
    engine = "" if "onnxruntime" in str(row["precision"]) else f", {row['engine']}"
    changed = [f"{row['branches']} branches"] if _number(row["branches"]) not in (None, 1.0) else []
    changed += [f"{row['graph_optimization']} fusion"] if row["graph_optimization"] not in (None, "all") else []
    changed += ["no spinning"] if row["spinning"] == "off" else []
    return ", ".join([f"{blocks.precision_label(str(row['precision']))}{engine}", threads, *changed])


def _row(row: dict[str, Value]) -> tuple[Item, ...]:
    fastest = "the fastest FP32 of this batch size" if row["is_fastest_fp32"] else ""
    latency = _measured(row["latency_ms"], 1)
    return (
        table.number(_number(row["batch_size"]), 0),
        table.text(blocks.precision_label(str(row["precision"])), note=fastest),
        table.text(str(row["engine"])),
        table.number(_number(row["threads"]), 0),
        table.number(_number(row["branches"]), 0, why=NO_SESSION),
        _word(row["graph_optimization"]),
        _word(row["spinning"]),
        table.Item(
            latency.text,
            latency.key,
            f"{_number(row['latency_lowest_ms']):.1f}–{_number(row['latency_highest_ms']):.1f}",  # noqa: RUF001
            latency.css,
            f"{row['rounds']} rounds, lowest to highest",
        ),
        _measured(row["speedup_over_torch_fp32"], 2),
        _measured(row["speedup_over_fastest_fp32"], 2),
        _measured(row["cosine"], 5),
    )


def _word(value: Value) -> Item:
    return table.missing("not_available", NO_SESSION) if value is None else table.text(str(value))


def _measured(value: Value, decimals: int) -> Item:
    return table.number(_number(value), decimals, "number measured", why="the outputs hold NaN or infinity")


def _number(value: Value) -> float | None:
    return None if value is None or isinstance(value, str) else float(value)


def _table(name: str, title: str, rows: tuple[tuple[Item, ...], ...], source: str) -> Table:
    return Table(
        name,
        title,
        "Contestants take turns; a time is the median over rounds with the lowest and the highest, a ratio the median "
        "of each round's. Branches: nodes of the graph that may run at a time. Cosine: similarity to FP32 in torch, "
        "mean over eight crops of photographs.",
        (
            Column("batch"),
            Column("Precision", css="text"),
            Column("Engine", css="text"),
            Column("threads", "Options"),
            Column("branches", "Options"),
            Column("fusion", "Options", "text"),
            Column("spinning", "Options", "text"),
            Column("latency, ms", css="number measured"),
            Column("torch FP32", "Speedup over", "number measured"),
            Column("fastest FP32", "Speedup over", "number measured"),
            Column("cosine to FP32", css="number measured"),
        ),
        rows,
        source,
        filters=("batch", "Precision"),
    )


def _source(recipe: Recipe) -> str:
    return f"{recipe.environment.title}; vit-base-224-production, {recipe.weights} weights; `{recipe.command}`."
