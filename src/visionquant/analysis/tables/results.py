"""The supplement's three result tables for every model and batch size, and the spread behind each latency."""

from visionquant.analysis import table
from visionquant.analysis.published import PRECISIONS
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.subjects import counterpart, why_counted
from visionquant.analysis.table import Column, Table
from visionquant.analysis.tables import blocks

PRINTED_SPEEDUPS = ("fp16", "int8")
ONLY_BATCH_1 = "The supplement prints batch size 1 only."


def latency(evidence: Evidence, records_: RecordSet, batch_size: int) -> Table:
    """Median milliseconds and speedup over FP32."""
    columns = [
        blocks.measured(evidence, records_, "measured, ms", "latency_median", evidence.precisions, batch_size),
        blocks.speedups(evidence, records_, "measured speedup", blocks.compared(evidence), batch_size),
    ]
    if batch_size == 1:
        columns = [
            blocks.printed(evidence, "published, ms", "latency_median", PRECISIONS.values()),
            columns[0],
            blocks.printed(evidence, "published speedup", "speedup", PRINTED_SPEEDUPS),
            columns[1],
        ]
    margin = 100 * evidence.params.statistics.equivalence_margin
    confidence = f"{100 * evidence.params.statistics.confidence:g} %"
    name, label = blocks.named(f"latency-{batch_size}", f"Batch size {batch_size}", evidence, records_)
    return blocks.by_model(
        name,
        f"Latency, batch size {batch_size}",
        f"Median of all timed forward passes; below it the {confidence} interval over replicate processes. A speedup "
        "above 1 is faster than FP32; the word below it is the verdict over processes (Holm-corrected over the table; "
        f"SAME within {margin:g} %; between cells that were not measured in turns, what the machine moves by counts "
        f"against it). {'' if batch_size == 1 else ONLY_BATCH_1}".rstrip(),
        evidence.models,
        columns,
        blocks.source(records_, evidence if batch_size == 1 else None),
        label,
    )


def throughput(evidence: Evidence, records_: RecordSet, batch_size: int) -> Table:
    """Images per second, and the change against FP32."""
    columns = [
        blocks.measured(evidence, records_, "measured, images/s", "throughput", evidence.precisions, batch_size),
        blocks.changes(evidence, records_, "measured change, %", blocks.compared(evidence), batch_size),
    ]
    if batch_size == 1:
        columns = [
            blocks.printed(evidence, "published, samples/s", "throughput", PRECISIONS.values()),
            columns[0],
            blocks.printed(evidence, "published change, %", "throughput_change", PRINTED_SPEEDUPS),
            columns[1],
        ]
    name, label = blocks.named(f"throughput-{batch_size}", f"Batch size {batch_size}", evidence, records_)
    return blocks.by_model(
        name,
        f"Throughput, batch size {batch_size}",
        "Images over seconds of windows of their own, one in each process, without waiting between batches; below it "
        "the interval over processes, and the verdict on the change. "
        + ("Ten of the sixteen rows are not printed." if batch_size == 1 else ONLY_BATCH_1),
        evidence.models,
        columns,
        blocks.source(records_, evidence if batch_size == 1 else None),
        label,
    )


def memory(evidence: Evidence, records_: RecordSet) -> Table:
    """The published memory table, its arithmetic, and the set's counterpart."""
    quantity = counterpart(evidence, records_, "memory_published")
    reduction = counterpart(evidence, records_, "memory_reduction")
    heading = "allocated after the run" if quantity == "memory_allocated_after" else "stored weights + workspace"
    workspace = evidence.params.report.workspace_mib
    name, label = blocks.named("memory", "Memory", evidence, records_)
    return blocks.by_model(
        name,
        "Memory, batch size 1",
        f"MiB. By arithmetic: bytes of the weights in each precision plus {workspace:g} MiB of cuBLAS workspace, from "
        f"parameter counts alone. Measured: {heading}"
        + (
            f" (the workspace, {workspace:g} MiB, is added, for {why_counted(evidence, records_)})"
            if "stored" in heading
            else ""
        )
        + ". Six of the sixteen rows are not printed.",
        evidence.models,
        [
            blocks.printed(evidence, "published", "memory_published", PRECISIONS.values()),
            blocks.arithmetic(evidence, "by arithmetic", "memory_with_workspace", evidence.precisions, 2),
            blocks.measured(evidence, records_, "measured", quantity, evidence.precisions, 1),
            blocks.printed(evidence, "published reduction, %", "memory_reduction", PRINTED_SPEEDUPS),
            blocks.measured(evidence, records_, "measured reduction, %", reduction, blocks.compared(evidence), 1),
        ],
        blocks.source(records_, evidence),
        label,
    )


def memory_in_use(evidence: Evidence, records_: RecordSet, batch_size: int) -> Table:
    """What a run holds at most: device memory on a GPU, the process on a CPU."""
    cuda = records_.environment is not None and records_.environment.device == "cuda"
    kinds = (
        {"memory_allocated_after": "allocated after", "memory_peak_allocated": "peak allocated"}
        if cuda
        else {"memory_host_peak": "peak of the process"}
    )
    return blocks.by_model(
        f"memory-in-use-{batch_size}",
        f"Memory in use, batch size {batch_size}",
        "MiB. "
        + (
            "Bytes that torch's allocator held on the device."
            if cuda
            else "Resident memory of a replicate process at its highest, libraries and weights included. On a CPU "
            "there is no separate device memory."
        ),
        evidence.models,
        [
            blocks.measured(evidence, records_, heading, name, evidence.precisions, batch_size)
            for name, heading in kinds.items()
        ],
        blocks.source(records_),
        f"Batch size {batch_size}",
    )


def model_size(evidence: Evidence, records_: RecordSet) -> Table:
    """Stored bytes and file size of each pair."""
    return blocks.by_model(
        "model-size",
        "Model size",
        "MiB. Stored weights: parameters, buffers and quantisation state. File: the same as one safetensors file.",
        evidence.models,
        [
            blocks.measured(evidence, records_, "stored weights", "memory_stored_weights", evidence.precisions, 1),
            blocks.measured(evidence, records_, "file", "model_size", evidence.precisions, 1),
            blocks.measured(
                evidence, records_, "stored, reduction %", "memory_reduction_stored", blocks.compared(evidence), 1
            ),
        ],
        blocks.source(records_),
    )


def distribution(evidence: Evidence, records_: RecordSet, batch_size: int) -> Table:
    """Mean, standard deviation and percentiles of each cell."""
    names = (
        "latency_outliers",
        "latency_mean",
        "latency_std",
        *(f"latency_p{p}" for p in evidence.params.statistics.percentiles),
    )
    headings = ("outliers", "mean", "std (n-1)", *(f"p{p}" for p in evidence.params.statistics.percentiles))
    rows = []
    for model in evidence.models:
        for precision in evidence.precisions:
            cell = records_.state(model, precision, batch_size).cell
            timed = sum(len(one.wall_ms) for one in cell.replicates) if cell else 0
            rows.append(
                (
                    table.text(model),
                    table.text(blocks.precision_label(precision)),
                    table.number(timed or None, 0, why="nothing was timed"),
                    table.number(len(cell.replicates) or None if cell else None, 0, why="nothing was timed"),
                    *(
                        table.estimate(evidence.estimate(records_, name, model, precision, batch_size))
                        for name in names
                    ),
                )
            )
    return Table(
        f"distribution-{batch_size}",
        f"Latency of every cell, batch size {batch_size}",
        "Milliseconds over all timed passes. Outliers lie more than three interquartile ranges outside the quartiles "
        "of "
        "their own process; they are counted and stay in every figure. A percentile carries an interval between two "
        "order statistics, and is "
        "refused where the sample is too small for one.",
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            Column("passes"),
            Column("processes"),
            *(Column(heading) for heading in headings),
        ),
        tuple(rows),
        blocks.source(records_),
        f"Batch size {batch_size}",
    )
