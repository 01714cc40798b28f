"""Was the machine quiet, did the timed passes do the work, and does the same cell measured twice agree?"""

import math
from collections import Counter
from collections.abc import Iterable
from statistics import median

from visionquant.analysis import aa_shift, table
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.analysis.table import Column, Item, Table
from visionquant.analysis.tables import blocks
from visionquant.core import processors
from visionquant.core.machine import LABELS, Environment
from visionquant.records import drift
from visionquant.records.cell import Cell, Replicate


def quiet(evidence: Evidence, records_: RecordSet) -> Table:
    """The conditions of a set, counted over its replicates and cells."""
    cells = _cells(records_)
    replicates = [one for cell in cells for one in cell.replicates]
    machine = records_.environment
    rows = [
        ("Cells measured", str(len(cells)), "with at least one timed pass"),
        ("Isolation", _counted([cell.isolation for cell in cells]), "by cell: clean, busy (others at work), unknown"),
        ("Others' share of all cores", _span([_share(one) for one in replicates]), "middle, lowest to highest"),
        ("Load, 1 minute", _span([one.conditions.load_1m for one in replicates]), "middle, lowest to highest"),
        ("CPU clock, MHz", _span([one.conditions.frequency_mhz for one in replicates], 0), "as the kernel tells it"),
        ("CPU threads", _counted([str(one.threads) for one in replicates], plain=True), "of every timed process"),
        ("What sets the speed", machine.speed if machine else "nothing measured", "beside the hardware"),
        ("OMP_WAIT_POLICY", _counted([one.conditions.omp_wait_policy for one in replicates], plain=True), ""),
        ("GPU clock, MHz", _span([_gpu(one, "sm_mhz_median") for one in replicates], 0), "NVML"),
        ("GPU temperature, C", _span([_gpu(one, "temperature_c_high") for one in replicates], 0), "NVML"),
        ("GPU power, W", _span([_gpu(one, "power_w_median") for one in replicates], 0), "NVML"),
        ("Throttling", _throttled(replicates), "reasons that NVML gave"),
        ("Sampler's own cost, % of a core", _span([_cost(one) for one in replicates], 2), "it may be 0.5 at most"),
        ("Order", _order(cells), "turns: replicates of a model's precisions alternate, in seeded order"),
        ("Noise of the reference kernel", _noise(records_), "how far single readings lie off by chance"),
        ("Cells measured again", _again(cells), "because a reference kernel moved by more than its noise"),
        ("Unsteady cells", str(sum(cell.status == "unsteady" for cell in cells)), "it moved in every attempt"),
        ("Warm-up settled", _settled(replicates), "two halves of the warm-up agree; at least four passes to tell"),
        ("Timing ended by", _counted([cell.stopped_by for cell in cells]), "count, budget of seconds, or goal"),
        ("Energy", _energy(cells), "windows of at least 5 s"),
    ]
    return Table(
        "quiet",
        "Was the machine quiet?",
        f"Recorded beside every replicate. Limits of the instruction set: {processors.DEAF}.{_unrecorded(machine)}",
        (Column("What", css="text"), Column(records_.label, css="text"), Column("meaning", css="text")),
        tuple(tuple(table.text(part) for part in row) for row in rows),
        blocks.source(records_),
    )


def _unrecorded(machine: Environment | None) -> str:
    """What the records of a machine do not say, in a sentence; empty where they say all."""
    names = ", ".join(LABELS[name] for name in machine.unrecorded) if machine else ""
    return f" Not recorded by the version that measured, and so equal to no other set's: {names}." if names else ""


def audit(evidence: Evidence, records_: RecordSet) -> Table:
    """By pair: the worst of its cells' audits."""
    rows = []
    for model in evidence.models:
        for precision in dict.fromkeys((*evidence.precisions, *evidence.bracket)):
            record = records_.records.get((model, precision))
            if record is None:
                continue
            seen = [(cell.batch_size, cell.audit) for cell in record.cells if cell.audit]
            rows.append(
                (
                    table.text(model),
                    table.text(blocks.precision_label(precision)),
                    table.number(sum(one.kept for _, one in seen), 0),
                    table.number(sum(one.images for _, one in seen), 0),
                    _exponent([one.deviation for _, one in seen], "no fidelity pass to compare with"),
                    _exponent([one.limit for _, one in seen], "not audited"),
                    _exponent([one.batch_deviation for _, one in seen], "no batch of several images was measured"),
                    table.number(max((size for size, one in seen if one.batch_deviation is not None), default=None), 0),
                    table.number(_lowest([one.repeat_ratio for _, one in seen]), 2, why="passes too long to repeat"),
                    table.text("; ".join(filter(None, (one.fault for _, one in seen))) or "passed"),
                )
            )
    return Table(
        "audit",
        "Audit inside the run",
        "Some timed passes keep their outputs, which must be those of the fidelity pass: relative distance of an "
        "image's features, at most what the precision itself costs. Batch: the same image alone and in the largest "
        "measured batch. Repeat: time of a batch just passed over that of a new one (the lowest of the pair's "
        "cells); a "
        "ratio surely below 0.9 would mean that something was remembered.",
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            Column("passes kept"),
            Column("images compared"),
            Column("largest distance"),
            Column("allowed"),
            Column("alone or in a batch"),
            Column("of images"),
            Column("repeat / new"),
            Column("verdict", css="text"),
        ),
        tuple(rows),
        blocks.source(records_),
    )


def repeated(evidence: Evidence, records_: RecordSet) -> Table:
    """The A/A run of a set, cell by cell."""
    outcome = aa_shift.judge(evidence, records_) if records_.aa else None
    rows = []
    for one in outcome.cells if outcome else ():
        ratio = (
            Item(
                table.fixed(one.ratio, 3),
                table.key_of(one.ratio),
                f"{one.low:.3f}–{one.high:.3f}",  # noqa: RUF001
                "number measured",
            )
            if one.ratio is not None
            else table.missing("not_measured", one.why)
        )
        css = {"agrees": "good", "differs": "bad"}.get(one.word, "text")
        label = blocks.precision_label(one.precision)
        rows.append((table.text(one.model), table.text(label), ratio, Item(one.word, one.word, css=css)))
    said = "This set has no A/A run; `visionquant aa-test` makes one."
    if outcome:
        counts = " to ".join(map(str, sorted({outcome.processes[0], outcome.processes[-1]})))
        said = (
            f"Every cell measured twice, a whole pass after the other, protocol {outcome.protocol} ({counts} "
            "processes a "
            f"cell): {outcome.text}. {'The gate is passed.' if outcome.passed else 'The gate is NOT passed.'} "
            f"Between the passes the machine moved by up to {100 * math.expm1(records_.shift):.1f} % (95th "
            "percentile over "
            "cells); so much counts against every verdict between cells that were not measured in turns."
        )
    return Table(
        "aa",
        "The same cell twice",
        said,
        (
            Column("Model", css="text"),
            Column("Precision", css="text"),
            Column("first / second", css="number measured"),
            Column("verdict", css="text"),
        ),
        tuple(rows),
        blocks.source(records_),
    )


def energy(evidence: Evidence, records_: RecordSet, batch_size: int = 1) -> Table:
    """Joules an image above idle."""
    return blocks.by_model(
        f"energy-{batch_size}",
        f"Energy, batch size {batch_size}",
        "Joules an image, the idle machine's draw subtracted, over a window of at least 5 s on an energy counter.",
        evidence.models,
        [blocks.measured(evidence, records_, "J an image", "energy_per_image", evidence.precisions, batch_size)],
        blocks.source(records_),
    )


def _cells(records_: RecordSet) -> list[Cell]:
    return [cell for record in records_.records.values() for cell in record.cells if cell.replicates]


def _share(one: Replicate) -> float | None:
    return one.conditions.others_share


def _gpu(one: Replicate, name: str) -> float | None:
    return getattr(one.conditions.gpu, name) if one.conditions.gpu else None


def _cost(one: Replicate) -> float | None:
    share = _gpu(one, "sampler_share")
    return None if share is None else 100 * share


def _counted(words: Iterable[str | None], plain: bool = False) -> str:
    found = Counter(word for word in words if word is not None)
    if plain and len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{word} {count}" for word, count in found.most_common()) or "nothing measured"


def _span(values: list[float | None], decimals: int = 2) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return "not available"
    low, high = table.fixed(min(found), decimals), table.fixed(max(found), decimals)
    return f"{table.fixed(median(found), decimals)} ({low} to {high})"


def _throttled(replicates: list[Replicate]) -> str:
    seen = [one.conditions.gpu for one in replicates if one.conditions.gpu]
    return _counted(reason for one in seen for reason in one.throttle_reasons or ("none",)) if seen else "not available"


def _order(cells: list[Cell]) -> str:
    return _counted("in turns" if cell.interleaved_with else "one pair at a time" for cell in cells)


def _noise(records_: RecordSet) -> str:
    found = [100 * drift.noise(cell.calibration_ms, floor=0.0) for cell in _cells(records_) if cell.calibration_ms]
    return f"{_span([*found], 1)} %" if found else "not measured"


def _again(cells: list[Cell]) -> str:
    again = [cell for cell in cells if cell.earlier]
    attempts = sum(len(cell.earlier) for cell in again)
    return f"{len(again)} of {len(cells)}, {attempts} attempts given up" if cells else "nothing measured"


def _settled(replicates: list[Replicate]) -> str:
    words = {True: "yes", False: "no", None: "too short to tell"}
    return _counted(words[one.settled] for one in replicates)


def _energy(cells: list[Cell]) -> str:
    measured = sum(cell.energy is not None for cell in cells)
    reasons = _counted([cell.energy_reason or None for cell in cells], plain=True)
    return f"{measured} cells" + (f"; not available: {reasons}" if measured < len(cells) else "")


def _exponent(values: list[float | None], why: str) -> Item:
    found = [value for value in values if value is not None]
    if not found:
        return table.missing("not_available", why)
    return Item(f"{max(found):.1e}", table.key_of(max(found)), css="number")


def _lowest(values: list[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
