"""Mixed-precision policies beside the precisions that they are made of."""

from collections import Counter

from visionquant.analysis import table
from visionquant.analysis.evidence import Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.precision import MixedPrecision


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


def cost(evidence: Evidence, records_: RecordSet, batch_size: int = 1) -> Table:
    """Speed, bytes and agreement of each policy, between those of FP16 and INT8; a row a model and precision."""
    names = tuple(name for name in ("fp16", "int8") if name in evidence.params.precisions) + tuple(_policies(evidence))
    verdicts = evidence.verdicts(records_, batch_size, precisions=names)
    rows = []
    for model in evidence.models:
        for name in names:
            record = records_.records.get((model, name))
            if record is None and name not in evidence.precisions:
                continue
            items: list[Item] = [table.text(model), table.text(blocks.precision_label(name))]
            found = evidence.estimate(records_, "speedup", model, name, batch_size)
            items.append(table.judged(found, verdicts.get((model, name))))
            for quantity in ("memory_stored_weights", "cosine", "sqnr"):
                items.append(table.estimate(evidence.estimate(records_, quantity, model, name, batch_size)))
            modules = record.conversion.modules if record and record.conversion else None
            counted = Counter((modules or {}).values())
            items.append(table.text(table.joined(f"{kind} {count}" for kind, count in sorted(counted.items()))))
            rows.append(tuple(items))
    return Table(
        f"policies-{batch_size}",
        f"Mixed policies, batch size {batch_size}",
        "Speedup over FP32 with the verdict, Holm-corrected over this table. Modules: as the record proves them, by "
        "their type. A policy pays for the conversions where types meet. "
        + ("Seeded weights: agreement shows that the conversion is right." if "seeded" in records_.weights else ""),
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            Column("speedup over FP32, x", css="number measured"),
            Column("stored weights, MiB", css="number measured"),
            Column("cosine", css="number measured"),
            Column("SQNR, dB", css="number measured"),
            Column("modules", css="text"),
        ),
        tuple(rows),
        blocks.source(records_),
        filters=("Model", "Precision"),
    )


def _policies(evidence: Evidence) -> dict[str, MixedPrecision]:
    return {name: row for name, row in evidence.params.precisions.items() if isinstance(row, MixedPrecision)}
