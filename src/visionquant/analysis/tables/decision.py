"""The answer for each model, and every precision's place beside it."""

from visionquant.analysis import cost, table
from visionquant.analysis.decision import Advice, Candidate
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.settings.costs import DecisionLimits


def answers(evidence: Evidence, records_: RecordSet, found: tuple[Advice, ...]) -> Table:
    """One row a model: the precision to take, with its figures and the record behind them."""
    rows = []
    for advice in found:
        chosen = advice.chosen
        if chosen is None:
            items = [table.missing("not_available", advice.why)] * 4
            rows.append((table.text(advice.model), *items, table.text(advice.why), table.text("")))
            continue
        rows.append(
            (
                table.text(advice.model),
                table.text(blocks.precision_label(chosen.precision), css="text strong"),
                table.estimate(chosen.latency),
                table.estimate(chosen.memory),
                table.estimate(chosen.cosine),
                table.text(advice.why),
                table.text(chosen.record),
            )
        )
    return Table(
        "recommend",
        "Which precision for which model",
        f"{_said(evidence.params.decision)} The fastest within the limits by its median.",
        (
            Column("Model", css="text"),
            Column("take", css="text"),
            Column("latency, ms", css="number measured"),
            Column(_memory_heading(records_), css="number measured"),
            Column("cosine to FP32", css="number measured"),
            Column("because", css="text"),
            Column("record", css="text"),
        ),
        tuple(rows),
        blocks.source(records_),
    )


def candidates(evidence: Evidence, records_: RecordSet, found: tuple[Advice, ...]) -> Table:
    """Every precision of every model, with its place: taken, on the front, beaten, or outside the limits."""
    rows = [
        (
            table.text(advice.model),
            table.text(blocks.precision_label(one.precision)),
            table.estimate(one.latency),
            table.estimate(one.memory),
            table.estimate(one.cosine),
            _place(advice, one),
        )
        for advice in found
        for one in advice.candidates
    ]
    return Table(
        "candidates",
        "Every precision",
        "On the front: no other precision of the model is better in latency, memory and fidelity at once.",
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            Column("latency, ms", css="number measured"),
            Column(_memory_heading(records_), css="number measured"),
            Column("cosine to FP32", css="number measured"),
            Column("Place", css="text"),
        ),
        tuple(rows),
        blocks.source(records_),
        filters=("Model", "Precision"),
    )


def _memory_heading(records_: RecordSet) -> str:
    """What stands for memory: on a GPU its peak, elsewhere the stored weights."""
    return "peak memory, MiB" if cost.on_cuda(records_) else "stored weights, MiB"


def _said(limits: DecisionLimits) -> str:
    """The limits in words."""
    parts = [f"Batch size {limits.batch_size}"]
    if limits.latency_limit_ms is not None:
        parts.append(f"at most {limits.latency_limit_ms:g} ms")
    if limits.memory_limit_mib is not None:
        parts.append(f"at most {limits.memory_limit_mib:g} MiB")
    if limits.fidelity_floor is not None:
        parts.append(f"cosine to FP32 at least {limits.fidelity_floor:g}")
    return ", ".join(parts) + "."


def _place(advice: Advice, one: Candidate) -> Item:
    if one is advice.chosen:
        return table.text("taken", css="good")
    if not one.known:
        return table.text("not measured")
    if one.misses:
        return table.text("; ".join(one.misses), css="text bad")
    return table.text("on the front" if one.front else "beaten by another")
