"""All evidence of one machine, and of each cell that has no figure why not."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from visionquant.core.machine import Environment
from visionquant.core.paths import LOCAL
from visionquant.records import outcomes
from visionquant.records.cell import Cell
from visionquant.records.outcomes import Labelled, Recipe, Scores
from visionquant.records.record import MadeUnder, Record
from visionquant.settings.params import Params, changed

BASELINE, AA_SIDES = "fp32", ("aa/first", "aa/second")
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

    ``aa`` are the two passes of its A/A run, over the same pairs, None without one; ``stale`` says by file what else of
    this machine belongs to other settings, code or weights and is left out.
    """

    name: str
    records: Records
    aa: tuple[Records, Records] | None = None
    accuracy: dict[str, Scores] = field(default_factory=dict)
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
        sides = zip(("latency", *AA_SIDES), (self.records, *(self.aa or ())), strict=False)
        return {
            **{f"{kind}/{'-'.join(pair)}.json": record for kind, side in sides for pair, record in side.items()},
            **{f"accuracy/{name}.json": scores for name, scores in self.accuracy.items()},
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
        """seeded, pretrained, "seeded and pretrained", or "" for an empty set."""
        return " and ".join(sorted({record.settings.weights.kind for record in self.records.values()}, reverse=True))

    @property
    def code(self) -> str:
        """The first eight digits of the measuring code's hash, more than one joined by a comma."""
        return ", ".join(sorted({record.code.measuring_sha256[:8] for record in self.records.values()}))

    @cached_property
    def shift(self) -> float:
        """How far (log) the set's A/A run moved between its passes: the 95th percentile over cells; 0 without a run.

        Cells that were not interleaved are as far apart as its passes were.
        """
        first, second = self.aa or ({}, {})
        both = [(cell, second[pair].cell(cell.batch_size)) for pair, record in first.items() for cell in record.cells]
        timed = [(a, b) for a, b in both if a.status == "ok" and b is not None and b.status == "ok"]
        logs = [[np.log(np.median(np.hstack([run.wall_ms for run in c.replicates]))) for c in pair] for pair in timed]
        return float(np.percentile(np.abs(np.diff(logs)), 95)) if logs else 0.0

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


def unlike(cell: Cell, base: Cell | None) -> str:
    """Empty where the processes of a cell ran as FP32's did, else in what not: CPU threads and how they wait."""
    sides = [side.replicates if side else () for side in (cell, base)]
    threads = [{str(run.threads) for run in side} for side in sides]
    policies = [{run.conditions.omp_wait_policy for run in side} for side in sides]
    for what, (own, others) in {"CPU threads": threads, "OMP_WAIT_POLICY": policies}.items():
        if len(own | others) > 1:
            shown = " and ".join(sorted(others)) or "not timed"
            return f"{what}: {' and '.join(sorted(own))} here, {shown} in FP32's cell; measure both alike"
    return ""
