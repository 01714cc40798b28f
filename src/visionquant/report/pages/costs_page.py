"""Which precision to take for which model, the published cost figures, and a cost model over measured throughput."""

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes

from visionquant.analysis import decision
from visionquant.analysis.decision import Advice, Bill, Candidate, Capacity, Swing
from visionquant.analysis.published import Row
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.report import columns, figure, items
from visionquant.report.columns import estimate, of_models, source
from visionquant.report.figure import Figure
from visionquant.report.items import MEASURED, PUBLISHED, TEXT, Item, grouped, missing, number, precision_label, text
from visionquant.report.table import Column, Table, build, numbers, texts

MISFIT = "cost.instance is of another kind than the measured machine: one has a GPU, the other has none"
MONTH_HOURS = 730
ARITHMETIC = "Published figures and arithmetic on them"


def advice(study: Study, run: MachineSet) -> tuple[Advice, ...]:
    """The answers under the limits of params.yaml."""
    return decision.recommend(study, run, study.models, study.params.decision)


def recommended(study: Study, run: MachineSet, advised: tuple[Advice, ...]) -> Table:
    """One row a model: the precision to take on a set's machine, with its figures and the record behind them."""

    def chosen(heading: str, of: Callable[[Candidate], Item], css: str = MEASURED) -> Column:
        return Column(heading, lambda row: of(row.chosen) if row.chosen else missing("not_available", row.why), css)

    shown = [
        *texts(model="Model"),
        chosen("take", lambda candidate: text(precision_label(candidate.precision), "text strong"), TEXT),
        chosen("latency, ms", lambda candidate: estimate(candidate.latency)),
        chosen(f"{_memory(run)}, MiB", lambda candidate: estimate(candidate.memory)),
        chosen("accuracy, points", lambda candidate: estimate(candidate.accuracy)),
        chosen("cosine to FP32", lambda candidate: estimate(candidate.cosine)),
        Column("accuracy of", lambda row: row.evidence or missing("not_available", row.why), TEXT),
        Column("because", "why", items.FOLDED),
        Column("record", lambda row: row.chosen.record if row.chosen else "", items.FOLDED),
    ]
    limits = study.params.decision
    caption = f"Batch size {limits.batch_size}"
    caption += "" if limits.latency_limit_ms is None else f", at most {limits.latency_limit_ms:g} ms"
    caption += "" if limits.memory_limit_mib is None else f", at most {limits.memory_limit_mib:g} MiB"
    lost = limits.accuracy_loss_limit
    caption += "" if lost is None else f", points of top-1 lost on trained weights at most {lost:g}"
    floor = limits.fidelity_floor
    caption += "" if floor is None else f", cosine to FP32 at least {floor:g} on trained weights"
    caption += (
        ". The fastest within the limits by its median. Accuracy is that of trained weights of the model or of its "
        "family, and where there is none, nothing is taken. Limits of your own: `visionquant recommend --device "
        f"{columns.machine(run.source).replace('this machine', 'local')} --model NAME --latency-limit-ms 150`."
    )
    title = f"Which precision for which model, {columns.machine(run.source)}"
    name, label = columns.named("recommend", columns.machine(run.source), study, run)
    return build(name, title, caption, shown, advised, source(run), label, (), columns.picks(run.source))


def recommendations(study: Study) -> tuple[Table, ...]:
    """The same of every machine that a set was measured on."""
    return tuple(recommended(study, run, advice(study, run)) for run in study.shown)


def pareto(study: Study, run: MachineSet, advised: tuple[Advice, ...]) -> Figure:
    """Latency against memory, a panel a model; filled marks keep within the limits."""
    caption = (
        "Large mark: taken. Hollow: outside the limits. The small figure is the cosine to FP32; beaten: another "
        "precision is better in latency, memory and fidelity at once. Bars are 95 % intervals of latency."
    )
    alt = "A panel a model with a mark a precision; lower left is better."
    looks, by_model = figure.looks(study), {row.model: row for row in advised}

    def panel(axes: Axes, model: str) -> None:
        known = [candidate for candidate in by_model[model].candidates if candidate.known]
        for candidate in known:
            time, size, look = candidate.latency.value or 0.0, candidate.memory.value or 0.0, looks[candidate.precision]
            large, interval = candidate is by_model[model].chosen, (candidate.latency.low, candidate.latency.high)
            figure.mark(axes, time, size, look, 9 if large else 5, bool(candidate.misses), interval)
            if candidate.cosine.value is not None:
                label = f"{candidate.cosine.value:.4f}" + ("" if candidate.front else " beaten")
                axes.annotate(label, (time, size), (0, 7), textcoords="offset points", fontsize=6.5, ha="center")
        figure.log_scale(axes, "x", "y")
        axes.margins(0.16)
        if known:
            for name, ticks in (("latency", axes.set_xticks), ("memory", axes.set_yticks)):
                values = [getattr(candidate, name).value for candidate in known]
                ends = [min(values), max(values)]
                ticks(ends, [f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in ends])
            axes.minorticks_off()
        axes.set_title(model)

    keys = figure.keys_of(looks, dict.fromkeys(candidate.precision for row in advised for candidate in row.candidates))
    labels = ("latency, ms (log scale)", f"{_memory(run)}, MiB (log scale)")
    svg = figure.grid(tuple(by_model), panel, (10.0, 2.3), keys, labels)
    return Figure("pareto", "Latency against memory", caption, alt, source(run), svg)


def _memory(run: MachineSet) -> str:
    """What stands for memory: on a GPU its peak, elsewhere the stored weights."""
    return "peak memory" if run.on_cuda else "stored weights"


def published_instances(study: Study) -> Table:
    """The instance table and the price that it implies."""
    caption = (
        "US dollars. Implied: the throughput ratio that lets so many instances fall away at the least, and the price "
        f"of those that do (a month of {MONTH_HOURS} hours)."
    )
    given, implied = "published", "implied"
    least = lambda row: (row.fp32_instances - 1) / row.fp16_instances  # noqa: E731
    shown = [
        *texts(instance="Instance"),
        *numbers(0, PUBLISHED, given, fp32_instances="FP32 instances", fp16_instances="FP16 instances"),
        Column("saved a month", lambda row: grouped(row.monthly_usd), PUBLISHED, given),
        Column("saved a year", lambda row: grouped(row.annual_usd), PUBLISHED, given),
        Column("year = 12 months", lambda row: items.yes(row.annual_usd == 12 * row.monthly_usd), TEXT, implied),
        Column("throughput ratio, above", least, group=implied, decimals=2),
        Column("a month, each", lambda row: grouped(_monthly(row)), group=implied),
        Column("an hour, each", lambda row: _monthly(row) / MONTH_HOURS, group=implied, decimals=2),
    ]
    below = f"{ARITHMETIC}; list prices stand below."
    return build("costs", "Instances and savings, as published", caption, shown, study.published.costs, below)


def _monthly(row: Row) -> float:
    return row.monthly_usd / (row.fp32_instances - row.fp16_instances)


def ownership(study: Study) -> Table:
    """The three-year figures, and the return that they imply."""
    figures = {row.subject: row.printed.value for row in study.published.ownership}
    saved, spent = figures["years"] * figures["deployment_reduction_per_year"], figures["development_cost"]
    implied, formula = 100 * (saved - spent) / spent, "(saved - spent) / spent"
    shown = [
        *texts(statement="Statement"),
        Column("published", lambda row: grouped(row.printed.value, row.unit), PUBLISHED),
        Column("implied by the inputs", lambda row: grouped(implied, row.unit) if row.subject == "roi" else "an input"),
        Column("formula", lambda row: formula if row.subject == "roi" else "", TEXT),
    ]
    caption, title = "What the printed inputs imply for the printed result.", "Total cost of ownership, as published"
    return build("ownership", title, caption, shown, study.published.ownership, f"{ARITHMETIC}.")


def listed(study: Study) -> Table:
    """What an hour costs by list, beside what the published savings imply."""
    implied = {row.instance: _monthly(row) / MONTH_HOURS for row in study.published.costs}
    caption = "US dollars. Implied: the printed monthly saving over the instances that fall away, as above."
    shown = [
        *texts(instance="Instance"),
        Column("implied", lambda row: implied.get(row.instance), PUBLISHED, "", 2, "not in the published table"),
        *numbers(4, before="list, until mid-2025", now="list, since"),
        *texts(date="as of"),
        Column("GPUs", lambda row: f"{row.gpus} x {row.gpu}" if row.gpus else "none", TEXT),
        Column("region and terms", lambda row: f"{row.region}, {row.terms}", items.FOLDED),
        Column("source", "source", items.FOLDED),
    ]
    prices = study.published.prices.values()
    return build("prices", "An hour of each instance", caption, shown, prices, "data/supplement/prices.csv.")


def bills(study: Study, run: MachineSet) -> Table:
    """Instances and money for the assumed load, a row a model, from measured throughput."""
    price = study.published.price(study.params.cost.instance)
    caption = (
        f"{_assumed(study)} An instance is taken to do what the measured machine did, at {price.now:g} dollars an "
        f"hour ({price.instance})."
    )

    def count(precision: str) -> Column:
        of = lambda model: _count(study, decision.measured_capacity(study, run, model, precision))  # noqa: E731
        return Column("instances", of, group=precision_label(precision))

    def money(heading: str, precision: str, of: Callable[[Bill], Item]) -> Column:
        return Column(heading, lambda model: _money(study, run, model, precision, of), group=precision_label(precision))

    shown = [count(BASELINE)]
    for name in study.compared:
        saved = money("saved a month, USD", name, lambda bill: grouped(bill.saved_monthly))
        shown += [count(name), saved, money("break-even, months", name, _break_even)]
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
    base, other = (
        decision.measured_capacity(study, run, assumed.model, name) for name in (BASELINE, assumed.precision)
    )
    result = "no measured throughput of both precisions within the limits, or a price of another kind of machine"
    middle, swings = 0.0, tuple[Swing, ...]()
    if base.images_per_s is not None and other.images_per_s is not None and decision.fits(run, price):
        middle, swings = decision.swings(assumed, price.now, base, other)
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
    price = study.published.price(study.params.cost.instance)
    base, own = (decision.measured_capacity(study, run, model, name) for name in (BASELINE, precision))
    if not decision.fits(run, price):
        return missing("not_available", MISFIT)
    if base.images_per_s is None or own.images_per_s is None:
        return missing("not_available", own.why or base.why or "no FP32 to compare with")
    is_base = precision == BASELINE
    return of(decision.bill(base.images_per_s, own.images_per_s, price.now, study.params.cost, base=is_base))


def _break_even(bill: Bill) -> Item:
    return number(bill.break_even_months, 0, "nothing is saved")


def _count(study: Study, capacity: Capacity) -> Item:
    if capacity.images_per_s is None:
        return missing("not_available", capacity.why)
    count = decision.instances(study.params.cost, capacity.images_per_s)
    return Item(f"{count:,}", count, note=f"{capacity.images_per_s:.2f} images/s at batch {capacity.batch_size}")


def _assumed(study: Study) -> str:
    assumed = study.params.cost
    return (
        f"Assumed: {assumed.load_images_per_s:g} images/s, a batch within {assumed.latency_limit_ms:g} ms, "
        f"{100 * assumed.utilisation:g} % utilisation, {assumed.hours_per_month:g} hours a month, {assumed.years:g} "
        f"years, {assumed.development_usd:,.0f} dollars of development for a precision other than FP32."
    )
