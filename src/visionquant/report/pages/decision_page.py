"""Which precision to take for which model, every precision's place beside the answer, and the Pareto fronts."""

from collections.abc import Callable

from matplotlib.axes import Axes

from visionquant.analysis import decision
from visionquant.analysis.decision import Advice, Candidate
from visionquant.analysis.study import MachineSet, Study
from visionquant.report import figure
from visionquant.report.columns import estimate, of_pairs, source
from visionquant.report.figure import Figure
from visionquant.report.items import MEASURED, TEXT, Item, missing, precision_label, text
from visionquant.report.table import Column, Table, build, words


def advice(study: Study, run: MachineSet) -> tuple[Advice, ...]:
    """The answers under the limits of params.yaml."""
    return decision.recommend(study, run, study.models, study.params.decision)


def answers(study: Study, run: MachineSet, advised: tuple[Advice, ...]) -> Table:
    """One row a model: the precision to take, with its figures and the record behind them."""

    def chosen(heading: str, of: Callable[[Candidate], Item], css: str = MEASURED) -> Column:
        return Column(heading, lambda row: of(row.chosen) if row.chosen else missing("not_available", row.why), css)

    shown = [
        *words(model="Model"),
        chosen("take", lambda candidate: text(precision_label(candidate.precision), "text strong"), TEXT),
        chosen("latency, ms", lambda candidate: estimate(candidate.latency)),
        chosen(f"{_memory(run)}, MiB", lambda candidate: estimate(candidate.memory)),
        chosen("cosine to FP32", lambda candidate: estimate(candidate.cosine)),
        *words(why="because"),
        Column("record", lambda row: row.chosen.record if row.chosen else "", TEXT),
    ]
    limits = study.params.decision
    caption = f"Batch size {limits.batch_size}"
    caption += "" if limits.latency_limit_ms is None else f", at most {limits.latency_limit_ms:g} ms"
    caption += "" if limits.memory_limit_mib is None else f", at most {limits.memory_limit_mib:g} MiB"
    caption += "" if limits.fidelity_floor is None else f", cosine to FP32 at least {limits.fidelity_floor:g}"
    caption += ". The fastest within the limits by its median."
    return build("recommend", "Which precision for which model", caption, shown, advised, source(run))


def candidates(study: Study, run: MachineSet, advised: tuple[Advice, ...]) -> Table:
    """Every precision of every model, with its place: taken, on the front, beaten, or outside the limits."""
    caption = "On the front: no other precision of the model is better in latency, memory and fidelity at once."
    shown = of_pairs(
        Column("latency, ms", lambda row: estimate(row[2].latency), MEASURED),
        Column(f"{_memory(run)}, MiB", lambda row: estimate(row[2].memory), MEASURED),
        Column("cosine to FP32", lambda row: estimate(row[2].cosine), MEASURED),
        Column("Place", lambda row: _place(row[2], row[2] is row[3]), TEXT),
    )
    rows = [(row.model, candidate.precision, candidate, row.chosen) for row in advised for candidate in row.candidates]
    return build("candidates", "Every precision", caption, shown, rows, source(run), filters=("Model", "Precision"))


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


def _place(candidate: Candidate, taken: bool) -> Item:
    if taken:
        return text("taken", "good")
    if not candidate.known:
        return text("not measured")
    if candidate.misses:
        return text("; ".join(candidate.misses), "text bad")
    return text("on the front" if candidate.front else "beaten by another")
