"""All evidence of one machine, and of each cell that has no figure why not."""

from dataclasses import dataclass, field
from functools import cached_property

from visionquant.core.machine import Environment
from visionquant.core.paths import LOCAL
from visionquant.records import outcomes
from visionquant.records.cell import BASELINE as BASELINE
from visionquant.records.cell import Cell, Round
from visionquant.records.outcomes import Labelled, Probe, Recipe, Scores
from visionquant.records.record import TRAINED, MadeUnder, Record
from visionquant.settings.params import Params, changed

Records = dict[tuple[str, str], Record]


@dataclass(frozen=True)
class State:
    """What is known of one cell: its record and cell, or a status and a reason."""

    record: Record | None
    cell: Cell | None
    status: str
    reason: str

    @property
    def measured(self) -> tuple[Record, Cell]:
        """Record and cell of a state that is ok."""
        assert self.record is not None
        assert self.cell is not None
        return self.record, self.cell


@dataclass(frozen=True)
class MachineSet:
    """All evidence of one machine. ``missing`` says by pair of the study why it has no record.

    ``stale`` says by file what else of this machine belongs to other settings and is left out.
    """

    name: str
    records: Records
    accuracy: dict[str, Scores] = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)
    labelled: Labelled | None = None
    recipes: dict[str, Recipe] = field(default_factory=dict)
    missing: dict[tuple[str, str], str] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """What tables call it: "local", or "recorded:NAME"."""
        return self.name if self.name == LOCAL else f"recorded:{self.name}"

    @property
    def evidence(self) -> dict[str, MadeUnder]:
        """Everything by the file that it is in; of labelled images a part a model."""
        return {
            **{f"latency/{'-'.join(pair)}.json": record for pair, record in self.records.items()},
            **{f"accuracy/{name}.json": scores for name, scores in self.accuracy.items()},
            **{f"probes/{name}.json": probe for name, probe in self.probes.items()},
            **{f"recipes/{name}.json": run for name, run in self.recipes.items()},
            **{
                f"{outcomes.LABELLED}: {model.model}": model
                for model in (self.labelled.judged if self.labelled else ())
            },
        }

    def recorded_under(self, params: Params) -> tuple[str, ...]:
        """Keys of params.yaml that have other values now than those under which any of this was recorded."""
        return tuple(sorted({key for evidence in self.evidence.values() for key in changed(evidence.under, params)}))

    @property
    def environment(self) -> Environment | None:
        return next((record.environment for record in self.records.values()), None)

    @property
    def on_cuda(self) -> bool:
        return self.environment is not None and self.environment.device == "cuda"

    @property
    def memory(self) -> str:
        """The quantity by which memory is limited: peak device memory on a GPU, stored weights else."""
        return "memory_peak_allocated" if self.on_cuda else "memory_stored_weights"

    @property
    def weights(self) -> str:
        """seeded, pretrained, packaged, more than one joined by "and", or "" where there are none."""
        kinds = {record.settings.weights.kind for record in self.records.values()} - {"missing"}
        return " and ".join(sorted(kinds, reverse=True))

    @cached_property
    def trained_models(self) -> set[str]:
        """Those that were measured with trained weights."""
        return {model for (model, _), record in self.records.items() if record.settings.weights.kind in TRAINED}

    @property
    def code(self) -> str:
        """The first eight digits of the measuring code's hash, more than one joined by a comma."""
        return ", ".join(sorted({record.code.measuring_sha256[:8] for record in self.records.values()}))

    @property
    def before_rounds(self) -> bool:
        """Whether cells were timed, and none of them in turns with FP32."""
        timed = [cell for record in self.records.values() for cell in record.cells if cell.rounds]
        return bool(timed) and not any(cell.paired for cell in timed)

    @cached_property
    def rounds(self) -> list[Round]:
        """The rounds of all models, each once and with all its slots; of a pair before rounds each is its own."""
        found: dict[tuple[object, ...], list[Round]] = {}
        for (model, precision), record in self.records.items():
            for cell in record.cells:
                for each in cell.rounds:
                    key = (model, cell.batch_size, each.number, each.started_at, "" if cell.paired else precision)
                    found.setdefault(key, []).append(each)
        return [_whole(parts) for parts in found.values()]

    @property
    def spent_s(self) -> float:
        """Seconds that preparing and measuring took."""
        return sum(record.elapsed_s for record in self.records.values()) + sum(each.spent_s for each in self.rounds)

    @property
    def folder(self) -> str:
        """Where its records lie, from the root of the checkout."""
        return f"data/machines/{self.name}/latency"

    @property
    def label(self) -> str:
        return "measured" if self.name == LOCAL else f"recorded ({self.name})"

    def state(self, model: str, precision: str, batch_size: int) -> State:
        """The cell, or why there is none."""
        record = self.records.get((model, precision))
        if record is None:
            outside = "not part of the study" if self.name == LOCAL else "not part of this set"
            reason = self.missing.get((model, precision), outside)
            return State(None, None, "not_measured" if reason in ("not measured", outside) else "stale", reason)
        cell = record.cell(batch_size)
        if cell is None:
            return State(record, None, "not_measured", f"batch size {batch_size} not measured")
        base = self.records.get((model, BASELINE))
        if why := unlike(cell, base.cell(batch_size) if base else None):
            return State(record, cell, "not_available", why)
        return State(record, cell, cell.status, cell.reason or cell.status.replace("_", " "))


def _whole(parts: list[Round]) -> Round:
    """A round of a model as all its pairs see it."""
    slots = {(slot.order, slot.arm): slot for part in parts for slot in part.slots}
    return parts[0].model_copy(update={"slots": tuple(slots[place] for place in sorted(slots))})


def unlike(cell: Cell, base: Cell | None) -> str:
    """Empty where the processes of a cell ran as FP32's did, else in what not: CPU threads and how they wait."""
    sides = [side.rounds if side else () for side in (cell, base)]
    threads = [{str(each.threads) for each in side} for side in sides]
    policies = [{each.omp_wait_policy for each in side} for side in sides]
    for what, (own, others) in {"CPU threads": threads, "OMP_WAIT_POLICY": policies}.items():
        if len(own | others) > 1:
            shown = " and ".join(sorted(others)) or "not timed"
            return f"{what}: {' and '.join(sorted(own))} here, {shown} in FP32's cell; measure both alike"
    return ""
