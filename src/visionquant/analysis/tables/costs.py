"""The supplement's cost and edge figures, with what their own numbers imply and what was measured of their inputs."""

from visionquant.analysis import statistics, subjects, table
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks


def instances(evidence: Evidence) -> Table:
    """The instance table and the price that it implies."""
    rows = []
    for row in evidence.published.costs:
        spared = row.fp32_instances - row.fp16_instances
        fits = row.annual_usd == 12 * row.monthly_usd
        rows.append(
            (
                table.text(row.instance),
                table.number(row.fp32_instances, 0, "number published"),
                table.number(row.fp16_instances, 0, "number published"),
                Item(f"{row.monthly_usd:,}", row.monthly_usd, css="number published"),
                Item(f"{row.annual_usd:,}", row.annual_usd, css="number published"),
                Item("yes" if fits else "no", int(fits), css="good" if fits else "bad"),
                table.number((row.fp32_instances - 1) / row.fp16_instances, 2),
                Item(f"{row.monthly_usd / spared:,.0f}", row.monthly_usd / spared, css="number"),
                table.number(row.monthly_usd / spared / 730, 2),
            )
        )
    return Table(
        "costs",
        "Instances and savings, as published",
        "US dollars. The last columns are what the printed figures imply: the throughput ratio that lets so "
        "many fall away at the least, and the price of the instances that fall away (a month of 730 hours).",
        (
            Column("Instance", css="text"),
            Column("FP32 instances", "published", "number published"),
            Column("FP16 instances", "published", "number published"),
            Column("saved a month", "published", "number published"),
            Column("saved a year", "published", "number published"),
            Column("year = 12 months", "implied", "text"),
            Column("throughput ratio, above", "implied"),
            Column("a month, each", "implied"),
            Column("an hour, each", "implied"),
        ),
        tuple(rows),
        "Published figures and arithmetic on them; list prices stand below.",
    )


def ownership(evidence: Evidence) -> Table:
    """The three-year figures, and the return that they imply."""
    figures = {row.item: row.printed.value for row in evidence.published.ownership}
    years = figures["years"]
    saved, spent = years * figures["deployment_reduction_per_year"], figures["development_cost"]
    implied = {
        "roi": (100 * (saved - spent) / spent, "(saved - spent) / spent"),
    }
    rows = []
    for row in evidence.published.ownership:
        value, formula = implied.get(row.item, (None, ""))
        rows.append(
            (
                table.text(row.statement),
                Item(f"{row.printed.value:,.0f} {row.unit}", row.printed.value, css="number published"),
                Item(f"{value:,.0f} {row.unit}", value, css="number") if value is not None else table.text("an input"),
                table.text(formula),
            )
        )
    return Table(
        "ownership",
        "Total cost of ownership, as published",
        "What the printed inputs imply for the printed result.",
        (
            Column("Statement", css="text"),
            Column("published", css="number published"),
            Column("implied by the inputs"),
            Column("formula", css="text"),
        ),
        tuple(rows),
        "Published figures and arithmetic on them.",
    )


def edge(evidence: Evidence, records_: RecordSet) -> Table:
    """The edge claims, with the measured figure where there is one."""
    models = evidence.published.group("edge")
    reductions = subjects.measured_values(evidence, records_, "int8_memory_reduction", models)
    speedups = subjects.measured_values(evidence, records_, "fp16_speedup", models)

    def middle(values: dict[str, float], decimals: int, unit: str) -> Item:
        return table.number(
            statistics.summary(list(values.values())).get("median"),
            decimals,
            "number measured",
            unit,
            why="no model has a figure",
        )

    counterparts = {
        "memory_reduction_int8": (middle(reductions, 1, "%"), "median memory reduction of the edge models"),
        "compute_reduction_fp16": (
            middle({name: 100 * (1 - 1 / value) for name, value in speedups.items()}, 1, "%"),
            "median cut of the edge models' latency in FP16 (below zero: longer)",
        ),
    }
    rows = []
    for row in evidence.published.edge:
        found, what = counterparts.get(
            row.item, (table.missing("not_available", "nothing here measures it"), "not measured by this study")
        )
        rows.append(
            (
                table.text(row.statement),
                Item(f"{row.printed.text} {row.unit}", row.printed.value, css="number published"),
                found,
                table.text(what),
            )
        )
    return Table(
        "edge",
        "Edge deployment, as published",
        "Beside each claim the nearest figure that was measured, where there is one.",
        (
            Column("Statement", css="text"),
            Column("published", css="number published"),
            Column("measured", css="number measured"),
            Column("what was measured", css="text"),
        ),
        tuple(rows),
        blocks.source(records_),
    )
