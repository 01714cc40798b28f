"""What a command would take before it starts: rounds, time, disk space and memory of what lacks; torch-free.

Times come from what was measured before on the same hardware: the model itself, else by arithmetic from the others.
Where nothing was measured a time is unknown, and said to be.
"""

from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

from visionquant.bench import schedule
from visionquant.bench.command import Matrix, blank, kept
from visionquant.bench.schedule import Cost
from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment, probe
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.records.cell import BASELINE
from visionquant.records.record import Record
from visionquant.settings.params import Params
from visionquant.settings.precision import FloatPrecision
from visionquant.weights import architectures, sources

GIB = 2**30


class PlannedModel(NamedTuple):
    """One model: rounds to take by batch size, their seconds (None: unknown), and bytes of its converted weights."""

    model: str
    rounds: dict[int, int]
    left_out: dict[int, str]
    seconds: float | None
    weights_bytes: int

    @property
    def text(self) -> str:
        taken = ", ".join(f"batch {size}: {count} rounds" for size, count in self.rounds.items() if count)
        left = "".join(f"; batch {size}: {why}" for size, why in self.left_out.items())
        time = "time unknown" if self.seconds is None else f"about {self.seconds / 60:.1f} min"
        return f"{self.model}: {taken or 'nothing to take'}{left}; {time}"


def foreseen(project: Project, params: Params, matrix: Matrix) -> list[PlannedModel]:
    """The models of which a run here would take samples; StudyError: a record is broken, the device lacks."""
    here = probe(params.study.device)
    own = {model: _kept(project, params, matrix, model, here) for model in matrix.models}
    sets = [one.records for one in archive.recorded(project)]
    earlier = [{pair: one for pair, one in of.items() if one.environment.same_hardware(here)} for of in sets]
    costs = _costs(project, own, earlier)
    known = {model: cost for model, cost in costs.items() if cost is not None}
    wanted = schedule.decide("", matrix.models, matrix.batch_sizes, known, params.protocol, params.study.minutes, 0.0)
    wanted = schedule.extended(schedule.read(project.schedule), wanted)
    planned = []
    for model in matrix.models:
        missing = {}
        for size in matrix.batch_sizes:
            target = wanted.target(model, size)
            there = [_there(own[model].get(name), size, target) for name in matrix.precisions]
            missing[size] = max(0, target - min(there))
        if not any(missing.values()):
            continue
        cost = costs[model]
        seconds = None
        if cost is not None:
            seconds = sum(count * cost.of_round(size, params.protocol) for size, count in missing.items())
        facts = architectures.facts(project, model)
        rows = {name: params.precisions[name] for name in matrix.precisions}
        stored = {BASELINE, *(name for name, row in rows.items() if not isinstance(row, FloatPrecision))}
        weights = sum(facts.model_bytes.get(name, 0) for name in stored) if facts else 0
        planned.append(PlannedModel(model, missing, wanted.reasons.get(model, {}), seconds, weights))
    return planned


def _kept(project: Project, params: Params, matrix: Matrix, model: str, here: Environment) -> Mapping[str, Record]:
    try:
        manifest = sources.manifest_of(project, params, model)
    except StudyError:  # without its weights nothing of a model is kept
        return {}
    return {
        name: kept(project, blank(project, params, (model, name), manifest, here), matrix) for name in matrix.precisions
    }


def _there(record: Record | None, batch_size: int, target: int) -> int:
    """Rounds that need not be taken any more."""
    cell = record.cell(batch_size) if record else None
    if cell is None or cell.status in ("over_budget", "failed"):
        return 0
    return len(cell.rounds) if cell.status == "ok" else target


def _costs(
    project: Project, own: Mapping[str, Mapping[str, Record]], earlier: list[dict[tuple[str, str], Record]]
) -> dict[str, Cost | None]:
    """What a round of each model costs; by arithmetic from other models where it was never measured here."""
    found: dict[str, Cost | None] = {}
    for model, records in own.items():
        of_sets = [{name: one for (m, name), one in of.items() if m == model} for of in earlier]
        tried = (schedule.cost_of(one) for one in (records, *of_sets))
        found[model] = next((cost for cost in tried if cost), None)
    facts = {model: architectures.facts(project, model) for model in own}
    known = [(cost, facts[model]) for model, cost in found.items() if cost]
    rates = [(cost.apart_s, sum(cost.passes_s) / about.macs) for cost, about in known if about]
    for model, cost in found.items():
        about = facts[model]
        if cost is None and rates and about:
            apart_s, per_mac = (median(column) for column in zip(*rates, strict=True))
            found[model] = Cost(apart_s, (per_mac * about.macs,))
    return found


def summary(planned: list[PlannedModel]) -> str:
    """A plan in one line."""
    if not planned:
        return "nothing to measure"
    known = [one.seconds for one in planned if one.seconds is not None]
    unknown, disk = len(planned) - len(known), sum(one.weights_bytes for one in planned)
    largest = max(one.weights_bytes for one in planned)
    parts = (
        f"{sum(sum(one.rounds.values()) for one in planned)} rounds of {len(planned)} models",
        f"about {sum(known) / 60:.1f} min" if known else "",
        f"{unknown} models were never measured on this hardware: time unknown" if unknown else "",
        f"converted weights take {disk / GIB:.1f} GiB of disk meanwhile" if disk else "",
        f"largest model about {largest / GIB:.1f} GiB of memory" if largest else "",
    )
    return "; ".join(filter(None, parts))
