"""The cost model: list prices beside the implied ones, the bill of every model and precision, and what it rests on."""

from visionquant.analysis import cost, prices, table
from visionquant.analysis.cost import Capacity
from visionquant.analysis.study import BASELINE, Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.settings.costs import CostAssumptions

MISFIT = "cost.instance is of another kind than the measured machine: one has a GPU, the other has none"


def listed(evidence: Evidence) -> Table:
    """What an hour costs by list, beside what the published savings imply."""
    found = prices.load(evidence.project)
    implied = {
        row.instance: row.monthly_usd / (row.fp32_instances - row.fp16_instances) / 730
        for row in evidence.published.costs
    }
    rows = [
        (
            table.text(one.instance),
            table.number(implied.get(one.instance), 2, "number published", why="not in the published table"),
            table.number(one.before, 4),
            table.number(one.now, 4),
            table.text(one.date),
            table.text(f"{one.gpus} x {one.gpu}" if one.gpus else "none"),
            table.text(f"{one.region}, {one.terms}"),
            table.text(one.source),
        )
        for one in found.values()
    ]
    return Table(
        "prices",
        "An hour of each instance",
        "US dollars. Implied: the printed monthly saving over the instances that fall away, in a month of 730 hours.",
        (
            Column("Instance", css="text"),
            Column("implied", css="number published"),
            Column("list, until mid-2025"),
            Column("list, since"),
            Column("as of", css="text"),
            Column("GPUs", css="text"),
            Column("region and terms", css="text"),
            Column("source", css="text"),
        ),
        tuple(rows),
        "data/supplement/prices.csv.",
    )


def models(evidence: Evidence, records_: RecordSet) -> Table:
    """Instances and money for the assumed load, a row a model, from measured throughput."""

    assumed = evidence.params.cost
    price = prices.of(prices.load(evidence.project), assumed.instance)
    others = blocks.compared(evidence)
    fits = cost.fits(records_, price)
    rows = []
    for model in evidence.models:
        rates = {one: cost.measured(evidence, records_, model, one) for one in (BASELINE, *others)}
        base = rates[BASELINE]
        items: list[Item] = [table.text(model), _count(assumed, base)]
        for precision in others:
            mine = rates[precision]
            items.append(_count(assumed, mine))
            if base.images_per_s is None or mine.images_per_s is None:
                why = mine.why or base.why or "no FP32 to compare with"
                items += [table.missing("not_available", why)] * 2
                continue
            if not fits:
                items += [table.missing("not_available", MISFIT)] * 2
                continue
            found = cost.bill(base.images_per_s, mine.images_per_s, price.now, assumed)
            items.append(Item(f"{found.saved_monthly:,.0f}", found.saved_monthly, css="number"))
            months = found.break_even_months
            items.append(table.number(months, 0, why="nothing is saved"))
        rows.append(tuple(items))
    return Table(
        "bills",
        "The bill of the measured machine",
        f"{_assumed(evidence)} An instance is taken to do what the measured machine did, at {price.now:g} dollars an "
        f"hour ({price.instance}).",
        (
            Column("Model", css="text"),
            Column("instances", "FP32"),
            *(
                Column(heading, blocks.precision_label(precision))
                for precision in others
                for heading in ("instances", "saved a month, USD", "break-even, months")
            ),
        ),
        tuple(rows),
        blocks.source(records_),
    )


def as_published(evidence: Evidence) -> Table:
    """Instances from the published latencies at batch size 1; the published card is for hire nowhere, so no money."""
    rows = []
    for model in evidence.models:
        found = [cost.published(evidence, model, precision) for precision in evidence.precisions]
        rows.append((table.text(model), *(_count(evidence.params.cost, one) for one in found)))
    return Table(
        "bills-published",
        "Cards needed by the published latencies",
        f"{_assumed(evidence)} Throughput is one over the published latency.",
        (
            Column("Model", css="text"),
            *(Column(blocks.precision_label(name), "cards for the load") for name in evidence.precisions),
        ),
        tuple(rows),
        blocks.source(evidence.measured, evidence),
    )


def _count(assumed: CostAssumptions, capacity: Capacity) -> Item:
    if capacity.images_per_s is None:
        return table.missing("not_available", capacity.why)
    count = cost.instances(assumed, capacity.images_per_s)
    note = f"{capacity.images_per_s:.2f} images/s at batch {capacity.batch_size}"
    return Item(f"{count:,}", count, css="number", note=note)


def _assumed(evidence: Evidence) -> str:
    found = evidence.params.cost
    return (
        f"Assumed: {found.load_images_per_s:g} images/s, a batch within {found.latency_limit_ms:g} ms, "
        f"{100 * found.utilisation:g} % utilisation, {found.hours_per_month:g} hours a month, {found.years:g} years, "
        f"{found.development_usd:,.0f} dollars of development for a precision other than FP32."
    )


def totals(evidence: Evidence, records_: RecordSet) -> Table:
    """Total cost of ownership over the years for the model of the sensitivity figure, a row a precision."""
    assumed = evidence.params.cost
    price = prices.of(prices.load(evidence.project), assumed.instance)
    base = cost.measured(evidence, records_, assumed.model, BASELINE)
    rows = []
    for precision in evidence.precisions:
        mine = cost.measured(evidence, records_, assumed.model, precision)
        label = table.text(blocks.precision_label(precision))
        if not cost.fits(records_, price):
            rows.append((label, *[table.missing("not_available", MISFIT)] * 5))
            continue
        if base.images_per_s is None or mine.images_per_s is None:
            rows.append((label, *[table.missing("not_available", mine.why or base.why)] * 5))
            continue
        found = cost.bill(base.images_per_s, mine.images_per_s, price.now, assumed, base=precision == BASELINE)
        rows.append(
            (
                label,
                Item(f"{found.instances:,}", found.instances, css="number"),
                Item(f"{found.total:,.0f}", found.total, css="number"),
                Item(f"{found.saved:,.0f}", found.saved, css="number"),
                table.number(found.roi_percent, 0, unit="%", why="nothing was spent"),
                table.number(found.break_even_months, 0, why="nothing is saved"),
            )
        )
    return Table(
        "ownership-model",
        f"Total cost of ownership over {assumed.years:g} years, {assumed.model}",
        f"{_assumed(evidence)} Return: what is saved less what was spent, over what was spent.",
        (
            Column("Precision", css="text"),
            Column("instances"),
            Column("total, USD"),
            Column("saved, USD"),
            Column("return"),
            Column("break-even, months"),
        ),
        tuple(rows),
        blocks.source(records_),
    )
