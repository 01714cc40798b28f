"""INT8 with and without its outlier path, on weights that meet no outliers and on weights that do."""

from visionquant.analysis import table
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.settings.precision import Int8Precision


def latency(evidence: Evidence, records_: RecordSet, batch_size: int = 1) -> Table:
    """Speedup over FP32 of every INT8 row of params.yaml, with verdicts over this family, and where outliers were "
    "met."""
    names = evidence.bracket
    verdicts = evidence.verdicts(records_, batch_size, precisions=names)
    rows = []
    for model in evidence.models:
        items: list[Item] = [table.text(model)]
        for name in names:
            found = evidence.estimate(records_, "speedup", model, name, batch_size)
            items.append(table.judged(found, verdicts.get((model, name))))
        for name in names:
            record = records_.records.get((model, name))
            layers = record.conversion.quantized_modules if record and record.conversion else 0
            met = record.outlier_layers if record else None
            why = "the outlier path is off" if record else "not measured"
            items.append(table.missing("not_available", why) if met is None else table.text(f"{met} of {layers}"))
        rows.append(tuple(items))
    return Table(
        f"bracket-{batch_size}",
        f"INT8 as a bracket, batch size {batch_size}",
        "LLM.int8() treats input columns beyond its threshold apart, in 16 bit; threshold 0 switches that off. Seeded "
        "weights meet no such columns, trained ones do: planted outlier channels in front of Linear layers stand in "
        "for "
        "them (scaled up there and down in the next weights, so the function stays). A trained model is expected "
        "between "
        "the columns. Speedup over FP32 with the verdict, Holm-corrected over this table; then the layers that "
        "met outliers in a pass of one image.",
        (
            Column("Model", css="text"),
            *(Column(_label(evidence, name), "speedup over FP32, x", "number measured") for name in names),
            *(Column(_label(evidence, name), "layers that met outliers", "text") for name in names),
        ),
        tuple(rows),
        blocks.source(records_),
    )


def _label(evidence: Evidence, name: str) -> str:
    row = evidence.params.precisions[name]
    assert isinstance(row, Int8Precision)
    planted = f", {row.outliers} planted" if row.outliers else ""
    return f"threshold {row.threshold:g}{planted}"
