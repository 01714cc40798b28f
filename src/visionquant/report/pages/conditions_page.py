"""Was the machine quiet, does FP32 equal itself, did the timed passes do the work, what did the libraries say?"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from itertools import product
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from visionquant.analysis import gates, provenance
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.core import processors
from visionquant.core.machine import LABELS
from visionquant.records.cell import BUSY_OTHERS, BUSY_PRESSURE, BUSY_STEAL, KERNELS
from visionquant.report import figure
from visionquant.report.columns import estimate, of_models, of_pairs, source
from visionquant.report.figure import Dot, Figure
from visionquant.report.items import MEASURED, TEXT, Item, fixed, joined, key_of, number, precision_label, text
from visionquant.report.table import Column, Table, build, texts
from visionquant.settings.precision import GRAPHS

NOT_RECORDED, SPREAD = "not recorded", "middle, lowest to highest"


def machine_conditions(study: Study, run: MachineSet) -> Table:
    """The conditions of a set, counted over its cells, rounds and slots, each round and slot once."""
    machine, rounds = run.environment, run.rounds
    caption = f"Recorded with every slot. Limits of the instruction set: {processors.DEAF}."
    if run.before_rounds:
        caption += " Before rounds: a round is one process of one pair here, and nothing took turns."
    if machine and machine.unrecorded:
        names = ", ".join(LABELS[name] for name in machine.unrecorded)
        caption += f" Not recorded by the version that measured, and so equal to no other set's: {names}."
    cells = [cell for record in run.records.values() for cell in record.cells if cell.rounds]
    slots = [slot for each in rounds for slot in each.slots]
    gpus = [each.gpu for each in rounds if each.gpu]
    again = sum(len({slot.block for slot in each.slots if slot.attempt}) for each in rounds)
    waits = [each.waited_s for each in rounds if each.waited_s > 0]
    share = provenance.timed_share(run)
    throttled = _counted(reason for gpu in gpus for reason in gpu.throttle_reasons or ("none",))
    sampler = [None if gpu.sampler_share is None else 100 * gpu.sampler_share for gpu in gpus]
    reasons, measured = [cell.energy_reason or None for cell in cells], sum(cell.energy is not None for cell in cells)
    energy = f"{measured} cells" + (f"; not available: {_plain(reasons)}" if measured < len(cells) else "")
    limits = (
        f"others took over {100 * BUSY_OTHERS:g} % of its cores, the hypervisor over {100 * BUSY_STEAL:g} %, or tasks "
        f"waited for a core in over {100 * BUSY_PRESSURE:g} % of the time"
    )

    def percent(name: str) -> str:
        return _span(None if getattr(slot, name) is None else 100 * getattr(slot, name) for slot in slots)

    rows = [
        ("Cells measured", str(len(cells)), "with at least one timed pass"),
        ("Busy cells", str(sum(cell.status == "busy" for cell in cells)), "others disturbed them; out of every figure"),
        ("Rounds a cell", _span((len(cell.rounds) for cell in cells), 0), SPREAD),
        ("Blocks a round", _span((len({slot.block for slot in each.slots}) for each in rounds), 0), SPREAD),
        ("Passes a slot", _span((len(slot.wall_ms) for slot in slots), 0), SPREAD),
        ("Busy slots", f"{sum(slot.busy for slot in slots)} of {len(slots)}", limits),
        ("Blocks repeated", str(again), "because a slot was busy; both attempts are kept"),
        ("Waited for others", f"{sum(waits) / 60:.1f} min before {len(waits)} of {len(rounds)} rounds", ""),
        (
            "Time in passes of arms, %",
            NOT_RECORDED if share is None else f"{100 * share:.0f}",
            "of all the time, preparing included",
        ),
        ("Others' share of the cores, %", percent("others"), SPREAD),
        ("Stolen by the hypervisor, %", percent("steal"), SPREAD),
        ("Time in which a task waited, %", percent("pressure"), SPREAD),
        ("Load, 1 minute", _span(each.load_1m for each in rounds), SPREAD),
        ("CPU clock, MHz", _span((each.frequency_mhz for each in rounds), 0), "as the kernel tells it"),
        ("CPU threads", _plain(str(each.threads) for each in rounds), "of every timed process"),
        ("What sets the speed", machine.speed if machine else "nothing measured", "beside the hardware"),
        ("OMP_WAIT_POLICY", _plain(each.omp_wait_policy for each in rounds), ""),
        ("GPU clock, MHz", _span((gpu.sm_mhz_median for gpu in gpus), 0), "NVML"),
        ("GPU temperature, C", _span((gpu.temperature_c_high for gpu in gpus), 0), "NVML"),
        ("GPU power, W", _span((gpu.power_w_median for gpu in gpus), 0), "NVML"),
        ("Throttling", throttled if gpus else "not available", "reasons that NVML gave"),
        ("Sampler's own cost, % of a core", _span(sampler), "it may be 0.5 at most"),
        ("Energy", energy, "windows of at least 5 s"),
    ]
    return build("quiet", "Was the machine quiet?", caption, texts("What", run.label, "meaning"), rows, source(run))


def kernels(study: Study, run: MachineSet) -> Table:
    """What the reference kernels took, over rounds."""
    caption = (
        "The same work in every round, whatever the model: a matrix product, a stream through memory, an INT8 product. "
        "Spread: the standard deviation of the rounds' medians; what of it is common to all arms a ratio does not see."
    )
    medians = {name: [ms for _, ms in seen] for name, seen in _kernel_rounds(run).items()}

    def taken(name: str) -> Item:
        values = medians[name]
        low, middle, high = (fixed(of(values), 3) for of in (min, median, max))
        return Item(middle, key_of(median(values)), f"{low} to {high}")

    shown = [
        Column("Kernel", lambda name: name.removeprefix("kernel-"), TEXT),
        Column("rounds", lambda name: len(medians[name])),
        Column("median, ms", taken, MEASURED),
        Column("spread, %", lambda name: _spread(medians[name]), MEASURED, "", 1, "one round"),
    ]
    return build("kernels", "Reference kernels by round", caption, shown, medians, source(run))


def audit(study: Study, run: MachineSet) -> Table:
    """By pair: the worst of its cells' audits."""
    caption = (
        "Some timed passes keep their outputs: relative distance of an image's features from the fidelity pass's, at "
        "most what the precision itself costs. Batch: an image alone and in the largest measured batch. Repeat: time "
        "of a batch just passed over that of a new one, the lowest of the cells: surely below 0.9, it remembers."
    )
    names = dict.fromkeys((*study.precisions, *study.bracket))
    rows = [(model, name) for model in study.models for name in names if (model, name) in run.records]
    audits = {pair: {cell.batch_size: cell.audit for cell in run.records[pair].cells if cell.audit} for pair in rows}

    def values(pair: tuple[str, str], name: str) -> dict[int, Any]:
        by_size = {size: getattr(audited, name) for size, audited in audits[pair].items()}
        return {size: value for size, value in by_size.items() if value is not None}

    def largest(name: str, heading: str, why: str) -> Column:
        def of(pair: tuple[str, str]) -> Item | None:
            worst = max(values(pair, name).values(), default=None)
            return None if worst is None else Item(f"{worst:.1e}", key_of(worst))

        return Column(heading, of, why=why)

    lowest = lambda pair: min(values(pair, "repeat_ratio").values(), default=None)  # noqa: E731
    shown = of_pairs(
        Column("passes kept", lambda pair: sum(values(pair, "kept").values())),
        Column("images compared", lambda pair: sum(values(pair, "images").values())),
        largest("deviation", "largest distance", "no fidelity pass to compare with"),
        largest("limit", "allowed", "not audited"),
        largest("batch_deviation", "alone or in a batch", "no batch of several images was measured"),
        Column("of images", lambda pair: max(values(pair, "batch_deviation"), default=None)),
        Column("repeat / new", lowest, decimals=2, why="passes too long to repeat"),
        Column("verdict", lambda pair: "; ".join(filter(None, values(pair, "fault").values())) or "passed", TEXT),
    )
    return build("audit", "Audit inside the run", caption, shown, rows, source(run))


def placebo(study: Study, run: MachineSet) -> Table:
    """FP32 over itself, by model and batch size."""
    caption = (
        f"{gates.placebo_gate(study, run).text} Each figure: FP32 over FP32 once more, in the blocks of FP32's cell."
    )

    def at(batch_size: int) -> Column:
        of = lambda model: estimate(study.row(run.source, model, BASELINE, batch_size, "placebo"))  # noqa: E731
        return Column(f"batch {batch_size}", of, MEASURED)

    shown = of_models(map(at, study.batch_sizes))
    return build("placebo", "FP32 against itself", caption, shown, study.models, source(run))


def halves(study: Study, run: MachineSet) -> Table:
    """Absolute times of the first half of the rounds over those of the second, cell by cell."""
    outcome = gates.halves(study, run)
    css = {"agrees": "good", "differs": "bad"}

    def ratio(cell: Any) -> Item:
        return number(cell.ratio, 3, cell.why, low=cell.low, high=cell.high, status="not_measured")

    shown = [
        *texts(model="Model"),
        Column("Precision", lambda cell: precision_label(cell.precision), TEXT),
        Column("batch", lambda cell: cell.batch_size),
        Column("first / second", ratio, MEASURED),
        Column("verdict", lambda cell: text(cell.word, css.get(cell.word, "")), TEXT),
    ]
    title, filters = "First rounds against last rounds", ("Model", "Precision", "batch")
    return build("halves", title, outcome.text, shown, outcome.cells, source(run), filters=filters)


def library_kernels(study: Study, run: MachineSet) -> Table:
    """By precision: each kernel that ran in a quantised layer, in how many layers of how many models."""
    caption = "As layers called them in the fidelity pass, at one image and at several; one that ran two counts twice."
    models, layers = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for (_, precision), record in run.records.items():
        proven = record.conversion
        of_graph = isinstance(record.settings.precision, GRAPHS)
        if proven is None or not proven.quantized_modules or (of_graph and not proven.kernels):
            continue
        seen = {NOT_RECORDED: proven.quantized_modules} if proven.kernels is None else proven.kernels
        for name, count in seen.items():
            models[precision, name] += 1
            layers[precision, name] += count
    shown = [
        Column("Precision", lambda row: precision_label(row[0]), TEXT),
        Column("kernel", 1, TEXT),
        Column("models", models.get),
        Column("layers", layers.get),
    ]
    return build("library-kernels", "Kernels of quantised layers", caption, shown, sorted(models), source(run))


def library_messages(study: Study, run: MachineSet) -> Table:
    """Each text that a library warned of or logged while pairs were prepared, with how often and for which."""
    caption = "Warnings and log records of torch, transformers and bitsandbytes while a pair was prepared."
    times, pairs, precisions = Counter[str](), Counter[str](), dict[str, dict[str, None]]()
    for (_, precision), record in run.records.items():
        logged = record.conversion.messages if record.conversion else None
        for message, count in ({NOT_RECORDED: 0} if logged is None else logged or {"nothing": 0}).items():
            times[message] += count
            pairs[message] += 1
            precisions.setdefault(message, {})[precision_label(precision)] = None
    shown = [
        Column("Message", str, TEXT),
        Column("times", lambda message: times[message] or None, why="none"),
        Column("pairs", pairs.get),
        Column("precisions", lambda message: joined(precisions[message]), TEXT),
    ]
    rows = [message for message, _ in pairs.most_common()]
    return build("messages", "What the libraries said", caption, shown, rows, source(run))


def placebo_figure(study: Study, run: MachineSet) -> Figure:
    """FP32 over itself, a mark a batch size."""
    bound, sizes, dots = gates.PLACEBO_BOUND, [f"batch {size}" for size in study.batch_sizes], []
    caption = f"With the interval over rounds; the band is what the gate allows over all models ({100 * bound:g} %)."
    alt = "A row a model with a mark and an interval a batch size, around the line of no difference."
    for model, size in product(study.models, study.batch_sizes):
        row = study.row(run.source, model, BASELINE, size, "placebo")
        if row.value is not None:
            dots.append(Dot(model, f"batch {size}", row.value, row.low, row.high))
    look: Any = {"line": 1.0, "band": (1 / (1 + bound), 1 + bound)}
    svg = figure.dot_plot(dots, study.models, sizes, figure.Looks(sizes), "FP32 over its placebo", 6.2, **look)
    return Figure("placebo", "FP32 against itself", caption, alt, source(run), svg)


def kernels_figure(study: Study, run: MachineSet) -> Figure:
    """Each reference kernel over the time of the measurement, a mark a round."""
    caption = "Median of a round over the median of all rounds: what the machine did meanwhile."
    alt = "Marks of three kernels around one, over the minutes of the measurement."
    seen = {name: [(at, ms) for at, ms in found if at] for name, found in _kernel_rounds(run).items()}
    times = {name: [datetime.fromisoformat(at) for at, _ in found] for name, found in seen.items() if found}
    first = min((at for found in times.values() for at in found), default=None)
    looks = dict(zip(KERNELS, (figure.LOOKS[name] for name in ("fp16", "nf4", "int8")), strict=True))

    def on(axes: Axes) -> None:
        for name, found in times.items():
            minutes = [(at - first).total_seconds() / 60 for at in found if first]
            taken = np.asarray([ms for _, ms in seen[name]])
            look: Any = {"color": looks[name].colour, "markersize": 3}
            axes.plot(minutes, taken / np.median(taken), looks[name].marker, **look)
        if not times:
            figure.empty(axes)
        axes.set(xlabel="minutes since the first round", ylabel="kernel / its median")

    svg = figure.draw(
        (9.0, 3.2), on, keys=[figure.key(look, name.removeprefix("kernel-")) for name, look in looks.items()]
    )
    return Figure("kernels", "The machine over time", caption, alt, source(run), svg)


def _kernel_rounds(run: MachineSet) -> dict[str, list[tuple[str | None, float]]]:
    """Of each reference kernel that ran the start of every round with its median, in milliseconds."""
    found: dict[str, list[tuple[str | None, float]]] = {}
    for each in run.rounds:
        for name in KERNELS:
            if taken := [ms for slot in each.of(name, quiet=True) for ms in slot.wall_ms]:
                found.setdefault(name, []).append((each.started_at, median(taken)))
    return found


def _spread(values: list[float]) -> float | None:
    """Standard deviation of the logarithms, in percent."""
    return 100 * float(np.std(np.log(values), ddof=1)) if len(values) > 1 else None


def _counted(words: Iterable[str | None]) -> str:
    counts = Counter(word for word in words if word is not None)
    return ", ".join(f"{word} {count}" for word, count in counts.most_common()) or "nothing measured"


def _plain(words: Iterable[str | None]) -> str:
    """The one word that all say, or each with how often."""
    known = [word for word in words if word is not None]
    return known[0] if len({*known}) == 1 else _counted(known)


def _span(numbers: Iterable[float | None], decimals: int = 2) -> str:
    """The middle with the lowest and the highest."""
    values = [value for value in numbers if value is not None]
    if not values:
        return "not available"
    middle, low, high = (fixed(value, decimals) for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"
