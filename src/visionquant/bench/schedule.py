"""How many rounds of which model and batch size fit into ``study.minutes``, foreseen from the first round.

Batch size 1 comes first: three rounds whatever they take, then as many as fit into its share of the time. Larger batch
sizes get all their rounds or none, the cheapest first; what does not fit is over budget, and says what it would take.
A forward pass grows at least linearly with the batch, so a larger one is foreseen in proportion. What was decided is
kept, so that a command that goes on, or an edit, does not move the goal.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pydantic import Field

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Frozen
from visionquant.records.cell import BASELINE, PLACEBO, Cell
from visionquant.records.record import Record, sha256_of
from visionquant.settings.params import Protocol

FEWEST = 3  # rounds of the smallest batch size, whatever they take
FIRST_SHARE = 0.6  # of the time, for it


class Cost(NamedTuple):
    """Of a round of a model: seconds that are not passes, and seconds of one pass of one image of each arm."""

    apart_s: float
    passes_s: tuple[float, ...]

    def of_round(self, batch_size: int, protocol: Protocol) -> float:
        """Seconds foreseen for a round at ``batch_size``."""
        each = [pass_s * batch_size for pass_s in self.passes_s]
        slots = [pass_s + max(pass_s * protocol.slot_passes, protocol.slot_ms / 1e3) for pass_s in each]
        blocks = max(1, min(protocol.blocks, int(protocol.round_s / max(sum(slots), 1e-6))))
        return self.apart_s + sum(each) * min(2, protocol.warmup_passes) + blocks * sum(slots)


class Schedule(Frozen):
    """Rounds by model and batch size, and why some are left out.

    ``key`` says for which settings; what has the same ``basis``, the minutes and the protocol, may be extended.
    """

    key: str
    basis: str
    rounds: dict[str, dict[int, int]]
    reasons: dict[str, dict[int, str]] = Field(default_factory=dict)

    def target(self, model: str, batch_size: int) -> int:
        """Rounds that are asked for, 0 for one that is left out or unknown."""
        return self.rounds.get(model, {}).get(batch_size, 0)


def cost_of(records: Mapping[str, Record], spent_s: float | None = None) -> Cost | None:
    """What a round of a model costs, from the records of its precisions; None where no round tells.

    ``spent_s``: of its last round with all that belongs to it (processes started and examined), where it is known.
    """
    passes: dict[str, float] = {}
    apart_s = 0.0
    for precision, record in records.items():
        cells = [cell for cell in record.cells if cell.rounds]
        if not cells:
            continue
        cell = min(cells, key=lambda one: one.batch_size)
        last = cell.rounds[-1]
        apart_s = max(apart_s, (last.spent_s if spent_s is None else spent_s) - last.passes_s)
        for arm in {precision, BASELINE, PLACEBO}:
            if times := [ms for slot in last.of(arm) for ms in slot.wall_ms]:
                passes.setdefault(arm, median(times) / 1e3 / cell.batch_size)
    return Cost(apart_s, tuple(passes.values())) if passes else None


def decide(
    key: str,
    models: Sequence[str],
    batch_sizes: Sequence[int],
    costs: Mapping[str, Cost],
    protocol: Protocol,
    minutes: float | None,
    spent_s: float,
) -> Schedule:
    """What fits. ``spent_s`` seconds of the minutes are gone, of which one round of the smallest batch size is part.

    A model without a cost (nothing of it could be measured) is asked for everything, which takes no time.
    """
    smallest, *larger = sorted(batch_sizes)
    basis = basis_of(protocol, minutes)
    rounds = {model: {smallest: protocol.rounds_at(smallest)} for model in models}
    reasons: dict[str, dict[int, str]] = {}
    if minutes is None:
        every = {model: {size: protocol.rounds_at(size) for size in batch_sizes} for model in models}
        return Schedule(key=key, basis=basis, rounds=every)
    left_s = 60 * minutes - spent_s
    one_s = sum(costs[model].of_round(smallest, protocol) for model in models if model in costs)
    share = FIRST_SHARE if larger else 1.0
    more = int(share * left_s / one_s) if one_s else protocol.rounds
    first = min(protocol.rounds_at(smallest), max(FEWEST, 1 + more))
    left_s -= (first - 1) * one_s
    items = []
    for model in models:
        for size in larger:
            each_s = costs[model].of_round(size, protocol) if model in costs else 0.0
            items.append((each_s, model, size, protocol.rounds_at(size)))
    for each_s, model, size, count in sorted(items):
        if count * each_s <= left_s:
            rounds[model][size] = count
            left_s -= count * each_s
        else:
            why = f"{count} rounds of about {each_s:.0f} s don't fit into study.minutes {minutes:g}"
            reasons.setdefault(model, {})[size] = why
    if one_s and left_s > 0:
        first = min(protocol.rounds_at(smallest), first + int(left_s / one_s))
    for model in models:
        rounds[model][smallest] = first
    return Schedule(key=key, basis=basis, rounds=rounds, reasons=reasons)


def basis_of(protocol: Protocol, minutes: float | None) -> str:
    """What a schedule rests on."""
    return sha256_of([minutes, protocol.model_dump(mode="json")])


def extended(before: Schedule | None, now: Schedule) -> Schedule:
    """``now`` with what ``before``, where it has the same basis, had decided of the same models and batch sizes."""
    if before is None or before.basis != now.basis:
        return now
    rounds = {
        model: {size: before.rounds.get(model, {}).get(size, count) for size, count in sizes.items()}
        for model, sizes in now.rounds.items()
    }
    for model, sizes in before.rounds.items():
        if model in rounds:
            asked = now.reasons.get(model, {})
            rounds[model] |= {size: count for size, count in sizes.items() if size in asked}
    reasons = {
        model: {size: why for size, why in sizes.items() if size not in rounds.get(model, {})}
        for model, sizes in now.reasons.items()
    }
    reasons = {model: sizes for model, sizes in reasons.items() if sizes}
    return now.model_copy(update={"rounds": rounds, "reasons": reasons})


def read(path: Path) -> Schedule | None:
    """What was decided before, None where nothing was, or nothing that can be read: it is decided again."""
    try:
        return files.load(path, Schedule)
    except StudyError:
        return None


def over_budget(batch_size: int, reason: str) -> Cell:
    """The cell that does not fit."""
    return Cell(batch_size=batch_size, status="over_budget", reason=reason)
