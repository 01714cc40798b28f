"""ONNX Runtime's session options beside torch and bitsandbytes: times, both ratios, and agreement with FP32."""

from visionquant.analysis import kept, table
from visionquant.analysis.study import Evidence
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.records.recipe import Value

NO_SESSION = "torch has no such option"
NOT_FINITE = "the outputs hold NaN or infinity"


def options(evidence: Evidence) -> tuple[Table, ...]:
    """One table a source, a row a contestant and batch size."""
    return kept.tables(
        evidence,
        "onnxruntime",
        "onnxruntime",
        "ONNX Runtime's options on vit-base-224-production",
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
        kept.each(_row),
        filters=("batch", "Precision", "Engine"),
    )


def _row(row: dict[str, Value]) -> tuple[Item, ...]:
    fastest = "the fastest FP32 of this batch size" if row["is_fastest_fp32"] else ""
    latency = kept.figure(row, "latency_ms", 1)
    return (
        table.number(kept.value(row, "batch_size"), 0),
        table.text(blocks.precision_label(kept.number_format(row)), note=fastest),
        table.text(str(row["engine"])),
        table.number(kept.value(row, "threads"), 0),
        kept.figure(row, "branches", 0, NO_SESSION, "number"),
        _word(row["graph_optimization"]),
        _word(row["spinning"]),
        table.Item(
            latency.text,
            latency.key,
            f"{row['latency_lowest_ms']:.1f}–{row['latency_highest_ms']:.1f}",  # noqa: RUF001
            latency.css,
            f"{row['rounds']} rounds, lowest to highest",
        ),
        kept.figure(row, "speedup_over_torch_fp32", 2, NOT_FINITE),
        kept.figure(row, "speedup_over_fastest_fp32", 2, NOT_FINITE),
        kept.figure(row, "cosine", 5, NOT_FINITE),
    )


def _word(value: Value) -> Item:
    return table.missing("not_available", NO_SESSION) if value is None else table.text(str(value))
