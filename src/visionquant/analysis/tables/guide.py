"""The implementation guide's parts as measured: half precision, stored models, checkpoints, compilation."""

import re

from visionquant.analysis import kept, table
from visionquant.analysis.kept import Row
from visionquant.analysis.study import Evidence
from visionquant.analysis.table import Column, Item, Table
from visionquant.records.recipe import Value

MEASURED = "number measured"
SPELLED = {"bfloat16": "BF16", "float16": "FP16"}


def trained(evidence: Evidence) -> tuple[Table, ...]:
    """A table a source: digits learnt in FP32 and in mixed precision."""
    return kept.tables(
        evidence,
        "half",
        "half",
        "FP32 and half precision",
        "Training: a small network on scikit-learn's digits, weights in FP32, one fold held out, fewer epochs than on "
        "the accuracy page, so it is not fully trained; the seconds were not taken in turns. Inference: medians and "
        "paired speedups over FP32 of runs in turns; FP32 is eager, the only FP32 of this run (a compiled one is in "
        "the table of torch.compile). Half weights convert the model; autocast converts within each operation and "
        "keeps weights in FP32.",
        (
            Column("Part", css="text"),
            Column("Weights", css="text"),
            Column("Model", css="text"),
            Column("Way", css="text"),
            Column("batch"),
            Column("seconds", "training", MEASURED),
            Column("right", "training", MEASURED),
            Column("held out", "training", MEASURED),
            Column("ms", "inference", MEASURED),
            Column("speedup, x", "inference", MEASURED),
            Column("cosine to FP32", "inference", MEASURED),
        ),
        kept.each(
            lambda row: (
                *_texts(row, "part", "weights", "model"),
                _way(row["way"]),
                *_figures(row, ("batch_size", 0), ("seconds", 1), ("right", 0), ("held_out", 0)),
                *_figures(row, ("median_ms", 1), ("speedup", 2), ("cosine", 5)),
            )
        ),
    )


def storage(evidence: Evidence) -> tuple[Table, ...]:
    """A table a source: exported folders on disk, and back."""
    return kept.tables(
        evidence,
        "storage",
        "storage",
        "Stored models",
        "Folders of `visionquant export`. To the first answer: from folder to one image's features, all precisions in "
        "turns, files in the page cache and hashes checked before. Identical: features equal the converted model's to "
        "the last bit.",
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            Column("MiB on disk", css=MEASURED),
            Column("share of FP32, %", css=MEASURED),
            Column("to convert, s", css=MEASURED),
            Column("to first answer, s", css=MEASURED),
            Column("faster than FP32, x", css=MEASURED),
            Column("identical", css="text"),
        ),
        kept.each(
            lambda row: (
                *_texts(row, "model"),
                _way(row["precision"]),
                _scaled(row, "file_bytes", 1 / 2**20, 2),
                _scaled(row, "share_of_fp32", 100, 1),
                *_figures(row, ("convert_s", 2), ("ready_s", 2), ("ready_speedup", 2)),
                *_texts(row, "identical"),
            )
        ),
    )


def checkpointing(evidence: Evidence) -> tuple[Table, ...]:
    """A table a source: what checkpoints save and cost."""
    return kept.tables(
        evidence,
        "checkpointing",
        "checkpointing",
        "Gradient checkpointing",
        "A forward and a backward pass in FP32. Kept: bytes that the forward pass holds for the backward one, weights "
        "apart, each storage once. Time is the median of paired ratios, in turns.",
        (
            Column("Model", css="text"),
            Column("batch"),
            Column("Way", css="text"),
            Column("kept, MiB", css=MEASURED),
            Column("share of plain, %", css=MEASURED),
            Column("ms", css=MEASURED),
            Column("time over plain, x", css=MEASURED),
            Column("same gradients", css="text"),
        ),
        kept.each(
            lambda row: (
                *_texts(row, "model"),
                *_figures(row, ("batch_size", 0)),
                *_texts(row, "way"),
                *_figures(row, ("kept_mib", 1)),
                _scaled(row, "share", 100, 1),
                *_figures(row, ("median_ms", 0), ("time_ratio", 2)),
                *_texts(row, "same_gradients"),
            )
        ),
    )


def compilation(evidence: Evidence) -> tuple[Table, ...]:
    """A table a source: eager and compiled."""
    return kept.tables(
        evidence,
        "compile",
        "compile",
        "torch.compile",
        "Medians and paired speedups of runs in turns. The fastest FP32 is whichever of eager and compiled was quicker "
        "in the same run: what a half precision has to beat. Compiling is the time of the first pass.",
        (
            Column("Model", css="text"),
            Column("batch"),
            Column("Way", css="text"),
            Column("ms", css=MEASURED),
            Column("over FP32 eager, x", css=MEASURED),
            Column("over the fastest FP32, x", css=MEASURED),
            Column("cosine to FP32", css=MEASURED),
            Column("to compile, s", css=MEASURED),
        ),
        kept.each(
            lambda row: (
                *_texts(row, "model"),
                *_figures(row, ("batch_size", 0)),
                _way(row["way"]),
                *_figures(
                    row, ("median_ms", 2), ("speedup", 2), ("to_fastest_fp32", 2), ("cosine", 5), ("compile_s", 1)
                ),
            )
        ),
    )


def _texts(row: Row, *keys: str) -> tuple[Item, ...]:
    return tuple(table.text(str(row[key])) for key in keys)


def _way(way: Value) -> Item:
    """What ran, with its number format in the spelling of all pages."""
    return table.text(re.sub(r"^\w+", lambda name: SPELLED.get(name[0], name[0].upper()), str(way)))


def _figures(row: Row, *columns: tuple[str, int]) -> tuple[Item, ...]:
    why = str(row.get("why_missing", "not measured"))
    return tuple(kept.figure(row, key, decimals, why) for key, decimals in columns)


def _scaled(row: Row, key: str, factor: float, decimals: int) -> Item:
    value = row[key]
    assert isinstance(value, int | float)
    return table.number(factor * value, decimals, MEASURED)
