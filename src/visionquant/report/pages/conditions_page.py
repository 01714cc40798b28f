"""Was the machine quiet, did the timed passes do the work, does the same cell measured twice agree, what was said?"""

import math
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from visionquant.analysis import comparison
from visionquant.analysis.study import MachineSet, Study
from visionquant.core import processors
from visionquant.core.machine import LABELS
from visionquant.records import drift
from visionquant.report import figure
from visionquant.report.columns import of_pairs, source
from visionquant.report.figure import Dot, Figure
from visionquant.report.items import MEASURED, TEXT, Item, fixed, joined, key_of, number, precision_label, text
from visionquant.report.table import Column, Table, build, texts

NOT_RECORDED = "not recorded"


def machine_conditions(study: Study, run: MachineSet) -> Table:
    """The conditions of a set, counted over its replicates and cells."""
    machine = run.environment
    caption = f"Recorded beside every replicate. Limits of the instruction set: {processors.DEAF}."
    if machine and machine.unrecorded:
        names = ", ".join(LABELS[name] for name in machine.unrecorded)
        caption += f" Not recorded by the version that measured, and so equal to no other set's: {names}."
    cells = [cell for record in run.records.values() for cell in record.cells if cell.replicates]
    replicates = [replicate for cell in cells for replicate in cell.replicates]
    loads = [replicate.conditions for replicate in replicates]
    gpus = [load.gpu for load in loads if load.gpu]
    moved = [cell for cell in cells if cell.earlier]
    again = "nothing measured"
    if cells:
        again = f"{len(moved)} of {len(cells)}, {sum(len(cell.earlier) for cell in moved)} attempts given up"
    tell = {True: "yes", False: "no", None: "too short to tell"}
    settled = _counted(tell[replicate.settled] for replicate in replicates)
    throttled = _counted(reason for gpu in gpus for reason in gpu.throttle_reasons or ("none",))
    sampler = [None if gpu.sampler_share is None else 100 * gpu.sampler_share for gpu in gpus]
    order = _counted("in turns" if cell.interleaved_with else "one pair at a time" for cell in cells)
    noise = [100 * drift.noise(cell.calibration_ms, floor=0.0) for cell in cells if cell.calibration_ms]
    noisy = f"{_span(noise, 1)} %" if noise else "not measured"
    reasons, measured = [cell.energy_reason or None for cell in cells], sum(cell.energy is not None for cell in cells)
    energy = f"{measured} cells" + (f"; not available: {_plain(reasons)}" if measured < len(cells) else "")
    rows = [
        ("Cells measured", str(len(cells)), "with at least one timed pass"),
        ("Isolation", _counted(cell.isolation for cell in cells), "by cell: clean, busy (others at work), unknown"),
        ("Others' share of all cores", _span(load.others_share for load in loads), "middle, lowest to highest"),
        ("Load, 1 minute", _span(load.load_1m for load in loads), "middle, lowest to highest"),
        ("CPU clock, MHz", _span((load.frequency_mhz for load in loads), 0), "as the kernel tells it"),
        ("CPU threads", _plain(str(replicate.threads) for replicate in replicates), "of every timed process"),
        ("What sets the speed", machine.speed if machine else "nothing measured", "beside the hardware"),
        ("OMP_WAIT_POLICY", _plain(load.omp_wait_policy for load in loads), ""),
        ("GPU clock, MHz", _span((gpu.sm_mhz_median for gpu in gpus), 0), "NVML"),
        ("GPU temperature, C", _span((gpu.temperature_c_high for gpu in gpus), 0), "NVML"),
        ("GPU power, W", _span((gpu.power_w_median for gpu in gpus), 0), "NVML"),
        ("Throttling", throttled if gpus else "not available", "reasons that NVML gave"),
        ("Sampler's own cost, % of a core", _span(sampler), "it may be 0.5 at most"),
        ("Order", order, "turns: replicates of a model's precisions alternate, in seeded order"),
        ("Noise of the reference kernel", noisy, "how far single readings lie off by chance"),
        ("Cells measured again", again, "because a reference kernel moved by more than its noise"),
        ("Unsteady cells", str(sum(cell.status == "unsteady" for cell in cells)), "it moved in every attempt"),
        ("Warm-up settled", settled, "two halves of the warm-up agree; at least four passes to tell"),
        ("Timing ended by", _counted(cell.stopped_by for cell in cells), "count, budget of seconds, or goal"),
        ("Energy", energy, "windows of at least 5 s"),
    ]
    return build("quiet", "Was the machine quiet?", caption, texts("What", run.label, "meaning"), rows, source(run))


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


def repeated(study: Study, run: MachineSet) -> Table:
    """The A/A run of a set, cell by cell."""
    caption, outcome = "This set has no A/A run; `visionquant aa-test` makes one.", None
    if run.aa:
        outcome = comparison.repeated_run(study, run)
        counts = " to ".join(map(str, sorted({outcome.processes[0], outcome.processes[-1]})))
        caption = (
            f"Every cell measured twice, a whole pass after the other, protocol {outcome.protocol} ({counts} processes "
            f"a cell): {outcome.text}. {'The gate is passed.' if outcome.passed else 'The gate is NOT passed.'} "
            f"Between the passes the machine moved by up to {100 * math.expm1(run.shift):.1f} % (95th percentile over "
            "cells); so much counts against every verdict between cells that were not measured in turns."
        )
    css = {"agrees": "good", "differs": "bad"}

    def ratio(cell: Any) -> Item:
        return number(cell.ratio, 3, cell.why, low=cell.low, high=cell.high, status="not_measured")

    shown = [
        *texts(model="Model"),
        Column("Precision", lambda cell: precision_label(cell.precision), TEXT),
        Column("first / second", ratio, MEASURED),
        Column("verdict", lambda cell: text(cell.word, css.get(cell.word, "")), TEXT),
    ]
    return build("aa", "The same cell twice", caption, shown, outcome.cells if outcome else (), source(run))


def library_kernels(study: Study, run: MachineSet) -> Table:
    """By precision: each kernel that ran in a quantised layer, in how many layers of how many models."""
    caption = "As layers called them in the fidelity pass, at one image and at several; one that ran two counts twice."
    models, layers = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for (_, precision), record in run.records.items():
        proven = record.conversion
        if proven is None or not proven.quantized_modules or record.settings.precision.method == "onnxruntime":
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
    return build("kernels", "Kernels of quantised layers", caption, shown, sorted(models), source(run))


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


def repeated_figure(study: Study, run: MachineSet) -> Figure:
    """The A/A run: first pass over second, with intervals, a mark a cell."""
    margin = study.params.statistics.equivalence_margin
    caption = f"With intervals over processes; the band is the margin of what is called the same ({100 * margin:g} %)."
    alt = "A row a model with a mark and an interval a precision, around the line of no difference."
    cells = comparison.repeated_run(study, run).cells if run.aa else ()
    known = [cell for cell in cells if cell.ratio is not None]
    dots = [Dot(cell.model, cell.precision, cell.ratio or 0.0, cell.low, cell.high) for cell in known]
    models, precisions = (tuple(dict.fromkeys(getattr(dot, name) for dot in dots)) for name in ("row", "by"))
    label, height = "latency of the first pass over that of the second", 1.0 + 0.5 * max(3, len(models))
    look: Any = {"line": 1.0, "band": (1 / (1 + margin), 1 + margin), "scale": figure.log_scale}
    svg = figure.dot_plot(dots, models, precisions, figure.looks(study), label, height, **look)
    return Figure("aa", "The same cell twice", caption, alt, source(run), svg)


def machine_figure(study: Study, run: MachineSet) -> Figure:
    """Every reading of the reference kernel over the time of the measurement, as a share of the set's median."""
    caption = "Two readings beside every replicate; the band is chance; cells beyond it were measured again."
    alt = "Points around one over the minutes of the measurement, most of them inside a grey band."
    cells = [cell for record in run.records.values() for cell in record.cells]
    points = sorted(
        (datetime.fromisoformat(replicate.started_at), ms)
        for cell in cells
        for replicate in cell.replicates
        if replicate.sentinel and replicate.started_at
        for ms in (replicate.sentinel.before_ms, replicate.sentinel.after_ms)
    )
    noise = [drift.noise(cell.calibration_ms, floor=0.0) for cell in cells if cell.calibration_ms]

    def on(axes: Axes) -> None:
        if points:
            minutes = [(at - points[0][0]).total_seconds() / 60 for at, _ in points]
            readings = np.asarray([ms for _, ms in points])
            if noise:
                band = float(np.exp(np.median(noise)))
                axes.axhspan(1 / band, band, color=figure.INK, alpha=0.08, linewidth=0)
            axes.plot(minutes, readings / np.median(readings), ".", color=figure.LOOKS["fp16"].colour, markersize=2.5)
            axes.axhline(1.0, color=figure.INK, linewidth=0.8)
        else:
            figure.empty(axes)
        axes.set(xlabel="minutes since the first replicate", ylabel="reference kernel / its median")

    return Figure("machine", "The machine over time", caption, alt, source(run), figure.draw((9.0, 3.2), on))


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
    return f"{middle} ({low} to {high})"
