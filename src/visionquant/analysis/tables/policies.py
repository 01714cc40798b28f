"""Mixed-precision policies beside the precisions that they are made of."""

from collections import Counter

from visionquant.analysis import table
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.settings.precision import MixedPrecision, OnnxRuntimePrecision


def rules(evidence: Evidence) -> Table:
    """What the policies of params.yaml say."""
    rows = []
    for name, row in _policies(evidence).items():
        rest = f"float: {row.dtype}, on a CPU {row.cpu_dtype}"
        for number, rule in enumerate(row.rules):
            rows.append((table.text(name), table.number(number + 1, 0), table.text(rule.modules), table.text(rule.to)))
        rows.append((table.text(name), table.number(len(row.rules) + 1, 0), table.text("the rest"), table.text(rest)))
    return Table(
        "policy-rules",
        "What the policies say",
        "The first rule whose pattern (a regular expression) matches the name of a module, or of one around it, "
        "decides; int8 and nf4 take Linear layers alone.",
        (
            Column("Policy", css="text"),
            Column("rule"),
            Column("modules", css="text"),
            Column("to", css="text"),
        ),
        tuple(rows),
        "params.yaml, precisions.",
    )


def measured(evidence: Evidence) -> RecordSet:
    """The set that was measured under the most policies; the measured one where none was."""
    policies = _policies(evidence)

    def count(one: RecordSet) -> int:
        return sum(name in policies for _, name in one.records)

    return max((evidence.measured, *evidence.sets), key=count)


def cost(evidence: Evidence, records_: RecordSet, batch_size: int = 1) -> Table:
    """Speed, bytes and agreement of each policy, between those of FP16 and INT8; a row a model and precision."""
    return _table(
        evidence,
        records_,
        batch_size,
        "policies",
        "Mixed policies",
        "Modules: as the record proves them, by their type. A policy pays for the conversions where types meet.",
        tuple(_policies(evidence)),
        ("fp16", "int8"),
    )


def graphs(evidence: Evidence, records_: RecordSet, batch_size: int = 1) -> Table:
    """The same of ONNX Runtime's precisions, beside bitsandbytes' INT8."""
    rows = evidence.params.precisions.items()
    return _table(
        evidence,
        records_,
        batch_size,
        "graphs",
        "ONNX Runtime as a precision",
        "Measured like any precision, in turns with torch's FP32.",
        tuple(name for name, row in rows if isinstance(row, OnnxRuntimePrecision)),
        ("int8",),
    )


def _table(
    evidence: Evidence,
    records_: RecordSet,
    batch_size: int,
    name: str,
    title: str,
    caption: str,
    own: tuple[str, ...],
    beside: tuple[str, ...],
) -> Table:
    names = (*(one for one in beside if one in evidence.params.precisions), *own)
    verdicts = evidence.verdicts(records_, batch_size, precisions=names)
    rows = []
    for model in evidence.models:
        if not any((model, one) in records_.records for one in own):
            continue
        for precision in names:
            record = records_.records.get((model, precision))
            items: list[Item] = [table.text(model), table.text(blocks.precision_label(precision))]
            found = evidence.estimate(records_, "speedup", model, precision, batch_size)
            items.append(table.judged(found, verdicts.get((model, precision))))
            for quantity in ("latency_median", "memory_stored_weights", "cosine", "sqnr"):
                items.append(table.estimate(evidence.estimate(records_, quantity, model, precision, batch_size)))
            modules = record.conversion.modules if record and record.conversion else None
            counted = Counter((modules or {}).values())
            kinds = table.joined((f"{kind} {count}" for kind, count in sorted(counted.items())), "of one kind")
            items.append(table.text(kinds) if record else table.missing("not_measured", "not part of this set"))
            rows.append(tuple(items))
    seeded = " Seeded weights: agreement shows that the conversion is right." if "seeded" in records_.weights else ""
    return Table(
        f"{name}-{batch_size}",
        f"{title}, batch size {batch_size}",
        f"Speedup over torch FP32 with the verdict, Holm-corrected over this table. {caption}{seeded}",
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            Column("speedup over FP32, x", css="number measured"),
            Column("latency, ms", css="number measured"),
            Column("stored weights, MiB", css="number measured"),
            Column("cosine", css="number measured"),
            Column("SQNR, dB", css="number measured"),
            Column("modules", css="text"),
        ),
        tuple(rows),
        blocks.source(records_),
    )


def _policies(evidence: Evidence) -> dict[str, MixedPrecision]:
    return {name: row for name, row in evidence.params.precisions.items() if isinstance(row, MixedPrecision)}
