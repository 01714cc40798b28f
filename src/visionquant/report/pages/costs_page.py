"""The published cost and edge figures, what they imply, and a cost model over measured throughput in their place."""

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes

from visionquant.analysis import cost, estimators, subjects
from visionquant.analysis.cost import Bill, Capacity, Swing
from visionquant.analysis.published import CostRow
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.report import figure
from visionquant.report.columns import block, of_models, source
from visionquant.report.figure import Figure
from visionquant.report.items import (
    MEASURED,
    PUBLISHED,
    TEXT,
    Item,
    grouped,
    missing,
    number,
    precision_label,
    printed,
    yes,
)
from visionquant.report.table import Column, Table, build, numbers, words

MISFIT = "cost.instance is of another kind than the measured machine: one has a GPU, the other has none"
MONTH_HOURS = 730


def instances(study: Study) -> Table:
    """The instance table and the price that it implies."""
    caption = (
        "US dollars. The last columns are what the printed figures imply: the throughput ratio that lets so "
        f"many fall away at the least, and the price of the instances that fall away (a month of {MONTH_HOURS} hours)."
    )
    given, implied = "published", "implied"
    shown = [
        *words(instance="Instance"),
        *numbers(0, PUBLISHED, given, fp32_instances="FP32 instances", fp16_instances="FP16 instances"),
        Column("saved a month", lambda row: grouped(row.monthly_usd), PUBLISHED, given),
        Column("saved a year", lambda row: grouped(row.annual_usd), PUBLISHED, given),
        Column("year = 12 months", lambda row: yes(row.annual_usd == 12 * row.monthly_usd), TEXT, implied),
        Column(
            "throughput ratio, above", lambda row: (row.fp32_instances - 1) / row.fp16_instances, "number", implied, 2
        ),
        Column("a month, each", lambda row: grouped(_monthly(row)), group=implied),
        Column("an hour, each", lambda row: _monthly(row) / MONTH_HOURS, group=implied, decimals=2),
    ]
    below = "Published figures and arithmetic on them; list prices stand below."
    return build("costs", "Instances and savings, as published", caption, shown, study.published.costs, below)


def _least_ratio(row: CostRow) -> float:
    return (row.fp32_instances - 1) / row.fp16_instances


def _monthly(row: CostRow) -> float:
    return row.monthly_usd / (row.fp32_instances - row.fp16_instances)


def ownership(study: Study) -> Table:
    """The three-year figures, and the return that they imply."""
    figures = {row.item: row.printed.value for row in study.published.ownership}
    saved, spent = figures["years"] * figures["deployment_reduction_per_year"], figures["development_cost"]
    implied = {"roi": (100 * (saved - spent) / spent, "(saved - spent) / spent")}

    def computed(row: Any) -> Item | str:
        return grouped(implied[row.item][0], row.unit) if row.item in implied else "an input"

    shown = [
        *words(statement="Statement"),
        Column("published", lambda row: grouped(row.printed.value, row.unit), PUBLISHED),
        Column("implied by the inputs", computed),
        Column("formula", lambda row: implied.get(row.item, (0, ""))[1], TEXT),
    ]
    caption, below = (
        "What the printed inputs imply for the printed result.",
        "Published figures and arithmetic on them.",
    )
    return build("ownership", "Total cost of ownership, as published", caption, shown, study.published.ownership, below)


def edge(study: Study, run: MachineSet) -> Table:
    """The edge claims, with the measured figure where there is one."""
    models = study.published.group("edge")
    speedups = subjects.measured_values(study, run, "fp16_speedup", models)
    reductions = subjects.measured_values(study, run, "int8_memory_reduction", models)
    cuts = [100 * (1 - 1 / value) for value in speedups.values()]
    measured = {
        "memory_reduction_int8": ([*reductions.values()], "median memory reduction of the edge models"),
        "compute_reduction_fp16": (cuts, "median cut of the edge models' latency in FP16 (below zero: longer)"),
    }

    def middle(row: Any) -> Item:
        if row.item not in measured:
            return missing("not_available", "nothing here measures it")
        return number(estimators.summary(measured[row.item][0]).get("median"), 1, "no model has a figure", "%")

    shown = [
        *words(statement="Statement"),
        Column("published", lambda row: printed(row.printed, row.unit), PUBLISHED),
        Column("measured", middle, MEASURED),
        Column("what was measured", lambda row: measured.get(row.item, ("", "not measured by this study"))[1], TEXT),
    ]
    caption = "Beside each claim the nearest figure that was measured, where there is one."
    return build("edge", "Edge deployment, as published", caption, shown, study.published.edge, source(run))


def listed(study: Study) -> Table:
    """What an hour costs by list, beside what the published savings imply."""
    implied = {row.instance: _monthly(row) / MONTH_HOURS for row in study.published.costs}
    caption = (
        "US dollars. Implied: the printed monthly saving over the instances that fall away, in a month of "
        f"{MONTH_HOURS} hours."
    )
    shown = [
        *words(instance="Instance"),
        Column("implied", lambda row: implied.get(row.instance), PUBLISHED, "", 2, "not in the published table"),
        *numbers(4, before="list, until mid-2025", now="list, since"),
        *words(date="as of"),
        Column("GPUs", lambda row: f"{row.gpus} x {row.gpu}" if row.gpus else "none", TEXT),
        Column("region and terms", lambda row: f"{row.region}, {row.terms}", TEXT),
        *words(source="source"),
    ]
    rows = study.published.prices.values()
    return build("prices", "An hour of each instance", caption, shown, rows, "data/supplement/prices.csv.")


def cards(study: Study) -> Table:
    """Instances from the published latencies at batch size 1; the published card is for hire nowhere, so no money."""

    def count(model: str, precision: str) -> Item:
        return _count(study, cost.published(study, model, precision))

    caption = f"{_assumed(study)} Throughput is one over the published latency."
    shown = of_models(block("cards for the load", study.precisions, count))
    title = "Cards needed by the published latencies"
    return build("bills-published", title, caption, shown, study.models, source(study.measured, study))


def bills(study: Study, run: MachineSet) -> Table:
    """Instances and money for the assumed load, a row a model, from measured throughput."""
    price = study.published.price(study.params.cost.instance)
    caption = (
        f"{_assumed(study)} An instance is taken to do what the measured machine did, at {price.now:g} dollars an "
        f"hour ({price.instance})."
    )

    def count(precision: str) -> Column:
        def of(model: str) -> Item:
            return _count(study, cost.measured(study, run, model, precision))

        return Column("instances", of, group=precision_label(precision))

    def money(heading: str, precision: str, of: Callable[[Bill], Item]) -> Column:
        return Column(heading, lambda model: _money(study, run, model, precision, of), group=precision_label(precision))

    shown = [count(BASELINE)]
    for name in study.compared:
        shown += [
            count(name),
            money("saved a month, USD", name, lambda bill: grouped(bill.saved_monthly)),
            money("break-even, months", name, _break_even),
        ]
    return build("bills", "The bill of the measured machine", caption, of_models(shown), study.models, source(run))


def totals(study: Study, run: MachineSet) -> Table:
    """Total cost of ownership over the years for the model of the sensitivity figure, a row a precision."""
    assumed = study.params.cost

    def money(heading: str, of: Callable[[Bill], Item]) -> Column:
        return Column(heading, lambda precision: _money(study, run, assumed.model, precision, of))

    shown = [
        Column("Precision", precision_label, TEXT),
        money("instances", lambda bill: grouped(bill.instances)),
        money("total, USD", lambda bill: grouped(bill.total)),
        money("saved, USD", lambda bill: grouped(bill.saved)),
        money("return", lambda bill: number(bill.roi_percent, 0, "nothing was spent", "%")),
        money("break-even, months", _break_even),
    ]
    caption = f"{_assumed(study)} Return: what is saved less what was spent, over what was spent."
    title = f"Total cost of ownership over {assumed.years:g} years, {assumed.model}"
    return build("ownership-model", title, caption, shown, study.precisions, source(run))


def tornado(study: Study, run: MachineSet) -> Figure:
    """What all years save, net of development, when one assumption moves by the spread."""
    assumed = study.params.cost
    price = study.published.price(assumed.instance)
    base, other = (cost.measured(study, run, assumed.model, name) for name in (BASELINE, assumed.precision))
    result = "no measured throughput of both precisions within the limits, or a price of another kind of machine"
    middle, swings = 0.0, tuple[Swing, ...]()
    if base.images_per_s is not None and other.images_per_s is not None and cost.fits(run, price):
        middle, swings = cost.swings(assumed, price.now, base, other)
        result = f"in the middle {middle:,.0f} dollars"
    caption = (
        f"Blue: the assumption {100 * assumed.spread:g} % lower; red: higher, its value at the end of each bar; "
        f"{result}. Utilisation is cut at 100 %."
    )

    def on(axes: Axes) -> None:
        for row, swing in enumerate(swings):
            ends = ((swing.low, swing.at_low, "fp16"), (swing.high, swing.at_high, "int8"))
            for _, at, name in ends:
                axes.barh([row], [at - middle], left=middle, height=0.55, color=figure.LOOKS[name].colour)
            for value, at, _ in ends:
                side, away = ("left", 3) if at > middle else ("right", -3)
                look: Any = {"ha": side, "va": "center", "textcoords": "offset points", "fontsize": 7}
                axes.annotate(f"{value:,.4g}", (at, row), (away, 0), **look)
        if swings:
            axes.margins(x=0.12)
            figure.line_at(axes, middle)
            figure.rows_of(axes, [swing.name.replace("_", " ") for swing in swings])
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        else:
            figure.empty(axes)
        axes.set_xlabel("saved over all years less development, US dollars")

    title = f"What the saving rests on: {assumed.model}, {precision_label(assumed.precision)} against FP32"
    alt = "Horizontal bars around the saving, the widest on top."
    return Figure("tornado", title, caption, alt, source(run), figure.draw((9.0, 3.6), on))


def _money(study: Study, run: MachineSet, model: str, precision: str, of: Callable[[Bill], Item]) -> Item:
    """A figure of the bill of a model in a precision beside FP32's, or why there is none."""
    assumed = study.params.cost
    price = study.published.price(assumed.instance)
    base, own = (cost.measured(study, run, model, name) for name in (BASELINE, precision))
    if not cost.fits(run, price):
        return missing("not_available", MISFIT)
    if base.images_per_s is None or own.images_per_s is None:
        return missing("not_available", own.why or base.why or "no FP32 to compare with")
    return of(cost.bill(base.images_per_s, own.images_per_s, price.now, assumed, base=precision == BASELINE))


def _break_even(bill: Bill) -> Item:
    return number(bill.break_even_months, 0, "nothing is saved")


def _count(study: Study, capacity: Capacity) -> Item:
    if capacity.images_per_s is None:
        return missing("not_available", capacity.why)
    count = cost.instances(study.params.cost, capacity.images_per_s)
    return Item(f"{count:,}", count, note=f"{capacity.images_per_s:.2f} images/s at batch {capacity.batch_size}")


def _assumed(study: Study) -> str:
    assumed = study.params.cost
    return (
        f"Assumed: {assumed.load_images_per_s:g} images/s, a batch within {assumed.latency_limit_ms:g} ms, "
        f"{100 * assumed.utilisation:g} % utilisation, {assumed.hours_per_month:g} hours a month, {assumed.years:g} "
        f"years, {assumed.development_usd:,.0f} dollars of development for a precision other than FP32."
    )
