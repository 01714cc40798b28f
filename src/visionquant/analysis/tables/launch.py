"""Where published time goes that is no arithmetic: operations, the host's time for each, and the GPU's share."""

from visionquant.analysis import launch_bound, table
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks


def published(evidence: Evidence, records_: RecordSet) -> Table:
    """Each model's published FP32 and FP16 times beside the two floors, and which one explains it."""
    found = launch_bound.by_model(launch_bound.issues(evidence))
    host = launch_bound.host_us(evidence)
    rows = []
    for row in evidence.published.models:
        cells = found.get(row.name, {})
        facts = evidence.facts(row.name)
        counted = facts.operations["fp16"] if facts else None
        items: list[Item] = [table.text(row.name), table.number(counted, 0, why="no operations counted")]
        for precision in launch_bound.FLOATS:
            one = cells.get(precision)
            items += [
                table.printed(evidence.published.cells.get(("latency_median", row.name, precision))),
                table.number(one.work_ms if one else None, 2, why="no operations counted"),
                table.number(one.us_per_operation if one else None, 1, why="no operations counted"),
                table.text(one.reading, css="text strong" if one.reading == "launch-bound" else "text")
                if one
                else table.missing("not_available", "no operations counted"),
            ]
        ratio = evidence.published.value("speedup", row.name, "fp16")
        items.append(table.number(ratio, 2, "number published", why="not printed"))
        rows.append(tuple(items))
    peaks = evidence.published.peaks
    said = f"about {host:.1f} microseconds an operation" if host else "not known without counts"
    return Table(
        "launch-published",
        "Which published cells wait for the host",
        "Operations: what one pass issues (views apart, attention as one), counted on the same networks with another "
        "version of the library than the published one, which recomputes BEiT's relative positions in every pass. "
        "Work: "
        f"the least the GPU needs for arithmetic and weights at its peak ({peaks.fp32_tflops:g} and "
        f"{peaks.fp16_tflops:g} TFLOP/s, {peaks.bandwidth_gb_per_s:g} GB/s). The published host: {said}, read off the "
        f"{len(launch_bound.idle(evidence))} models whose work takes at most a tenth of their published FP32 time. "
        f"Launch-bound: within {launch_bound.NEAR:g} times what the host alone needs, and the work is at most half of "
        "it. "
        "Beyond the host: longer than the host explains.",
        (
            Column("Model", css="text"),
            Column("operations"),
            *(
                Column(heading, name.upper(), css)
                for name in launch_bound.FLOATS
                for heading, css in (
                    ("published, ms", "number published"),
                    ("work, ms", "number"),
                    ("us an operation", "number"),
                    ("reading", "text"),
                )
            ),
            Column("published FP16 speedup", css="number published"),
        ),
        tuple(rows),
        blocks.source(records_, evidence),
    )


def measured(evidence: Evidence, records_: RecordSet) -> Table:
    """Operations of every pair and, on a GPU, the share of the time in which it waits for the host."""
    rows = []
    for model in evidence.models:
        items = [table.text(model)]
        for precision in evidence.precisions:
            record = records_.records.get((model, precision))
            count = record.operations if record else None
            items.append(table.number(count, 0, "number measured", why="not counted"))
        items += [
            table.estimate(evidence.estimate(records_, "launch_share", model, precision, 1))
            for precision in evidence.precisions
        ]
        rows.append(tuple(items))
    labels = [blocks.precision_label(name) for name in evidence.precisions]
    return Table(
        "launch-measured",
        "Operations, and the GPU's wait",
        "Operations that torch dispatches in a pass of one image, views apart, as the set's own code counted them; a "
        "bitsandbytes call counts as one, whatever it starts inside. Wait: the share of a pass in which no kernel "
        "ran, by torch's profiler; a CPU has "
        "no such figure.",
        (
            Column("Model", css="text"),
            *(Column(label, "operations a pass", "number measured") for label in labels),
            *(Column(label, "GPU waits, % of the pass", "number measured") for label in labels),
        ),
        tuple(rows),
        blocks.source(records_),
    )
