"""What the libraries did with quantised layers, and what they said about it."""

from collections import Counter

from visionquant.analysis import table
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import Column, Table
from visionquant.analysis.tables import blocks

NOT_RECORDED = "not recorded"


def kernels(evidence: Evidence, records_: RecordSet) -> Table:
    """By precision: each kernel that ran in a quantised layer, in how many layers of how many models."""
    pairs, layers = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for (_, precision), record in records_.records.items():
        found = record.conversion
        if found is None or not found.quantized_modules or record.settings.precision.method == "onnxruntime":
            continue
        seen = {NOT_RECORDED: found.quantized_modules} if found.kernels is None else found.kernels
        for name, count in seen.items():
            pairs[precision, name] += 1
            layers[precision, name] += count
    return Table(
        "kernels",
        "Kernels of quantised layers",
        "Seen in the fidelity pass, not derived: native functions of bitsandbytes and products of torch that each "
        "layer called. A layer that ran two kernels, at one image and at several, counts in both rows.",
        (
            Column("Precision", css="text"),
            Column("kernel", css="text"),
            Column("models"),
            Column("layers"),
        ),
        tuple(
            (
                table.text(blocks.precision_label(precision)),
                table.text(name),
                table.number(count, 0),
                table.number(layers[precision, name], 0),
            )
            for (precision, name), count in sorted(pairs.items())
        ),
        blocks.source(records_),
    )


def messages(evidence: Evidence, records_: RecordSet) -> Table:
    """Each text that a library warned of or logged while pairs were prepared, with how often and for which."""
    times, pairs, precisions = Counter[str](), Counter[str](), dict[str, list[str]]()
    for (_, precision), record in records_.records.items():
        said = record.conversion.messages if record.conversion else None
        for text, count in ({NOT_RECORDED: 0} if said is None else said or {"nothing": 0}).items():
            times[text] += count
            pairs[text] += 1
            precisions.setdefault(text, []).append(blocks.precision_label(precision))
    return Table(
        "messages",
        "What the libraries said",
        "Warnings and log records of torch, transformers and bitsandbytes while a pair was prepared; timed passes are "
        "silent. A slower way that a library falls back to is told here.",
        (
            Column("Message", css="text"),
            Column("times"),
            Column("pairs"),
            Column("precisions", css="text"),
        ),
        tuple(
            (
                table.text(text),
                table.number(times[text] or None, 0, why="none"),
                table.number(count, 0),
                table.text(table.joined(dict.fromkeys(precisions[text]))),
            )
            for text, count in pairs.most_common()
        ),
        blocks.source(records_),
    )
