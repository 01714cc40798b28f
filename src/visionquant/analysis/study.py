"""All that the analysis looks at, opened once: settings, published figures, and sets of records by source.

A set knows why a cell has no figure: absence is a value with a status and a reason, here and in everything derived.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from visionquant.analysis import estimates, published, verdicts
from visionquant.analysis.estimates import NOT_AVAILABLE, Estimate
from visionquant.analysis.verdicts import Verdict
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.core.quantities import MIB
from visionquant.records import archive, drift
from visionquant.records import record as records
from visionquant.records.cell import Cell, Replicate
from visionquant.records.record import Record
from visionquant.settings import params as parameters
from visionquant.settings.params import Params
from visionquant.settings.precision import Int8Precision, MixedPrecision, OnnxRuntimePrecision
from visionquant.weights import architectures

BASELINE = "fp32"
NOT_MEASURED = "not_measured"
NOT_PUBLISHED = "not_published"


@dataclass(frozen=True)
class State:
    """What is known of one cell: its record and cell, or a status and a reason."""

    record: Record | None
    cell: Cell | None
    status: str
    reason: str


@dataclass(frozen=True)
class RecordSet:
    """The records of one machine. ``source`` is "local" or "recorded:<platform>"; ``missing`` says why by pair.

    ``aa`` are the two passes of its A/A run, if there was one.
    """

    source: str
    records: dict[tuple[str, str], Record]
    missing: dict[tuple[str, str], str]
    aa: tuple[archive.Records, archive.Records] | None = None

    @property
    def environment(self) -> Environment | None:
        """The machine, or None for an empty set."""
        return next((record.environment for record in self.records.values()), None)

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

        Cells that were not measured in turns are as far apart as its passes were.
        """
        if self.aa is None:
            return 0.0
        moves = []
        for pair, record in self.aa[0].items():
            for cell in record.cells:
                other = self.aa[1][pair].cell(cell.batch_size)
                if cell.status == "ok" and other is not None and other.status == "ok":
                    medians = [np.median(estimates.samples(one)) for one in (cell, other)]
                    moves.append(abs(float(np.log(medians[0] / medians[1]))))
        return float(np.percentile(moves, 95)) if moves else 0.0

    @property
    def label(self) -> str:
        """A short column heading."""
        return "measured" if self.source == "local" else f"recorded ({self.source.partition(':')[2]})"

    def state(self, model: str, precision: str, batch_size: int) -> State:
        """The cell, or why there is none."""
        record = self.records.get((model, precision))
        if record is None:
            outside = "not part of the study" if self.source == "local" else "not part of this set"
            reason = self.missing.get((model, precision), outside)
            return State(None, None, NOT_MEASURED if reason in ("not measured", outside) else "stale", reason)
        cell = record.cell(batch_size)
        if cell is None:
            return State(record, None, NOT_MEASURED, f"batch size {batch_size} not measured")
        base = self.records.get((model, BASELINE))
        why = unlike(cell, base.cell(batch_size) if base else None)
        if why:
            return State(record, cell, NOT_AVAILABLE, why)
        return State(record, cell, cell.status, cell.reason or cell.status.replace("_", " "))


@dataclass(frozen=True)
class Evidence:
    """Settings, published figures and record sets: local first where there is any, then the recorded ones."""

    project: Project
    params: Params
    published: published.Published
    sets: tuple[RecordSet, ...]

    @property
    def measured(self) -> RecordSet:
        """The set behind the "measured" columns: local records where there are any, else the first recorded set."""
        return self.sets[0]

    @property
    def local(self) -> RecordSet:
        """This machine's set, empty or not."""
        return next(one for one in self.sets if one.source == "local")

    @property
    def shown(self) -> tuple[RecordSet, ...]:
        """The sets that get a column: those that hold a record; where none does, the empty local one."""
        return tuple(one for one in self.sets if one.records) or self.sets[:1]

    @property
    def models(self) -> tuple[str, ...]:
        """The published models in their order, then those that the study adds."""
        names = [row.name for row in self.published.models]
        return tuple(dict.fromkeys([*names, *self.params.study.models]))

    @property
    def precisions(self) -> tuple[str, ...]:
        """The published precisions, then those that the study or a set adds, without those with tables of their own.

        These are INT8's bracket, mixed policies, and graphs of ONNX Runtime.
        """
        rows = self.params.precisions.items()
        apart = {name for name, row in rows if isinstance(row, MixedPrecision | OnnxRuntimePrecision)}
        added = {pair[1] for records_ in self.sets for pair in records_.records} - set(self.bracket) - apart
        return tuple(dict.fromkeys([*published.PRECISIONS.values(), *self.params.study.precisions, *sorted(added)]))

    @property
    def bracket(self) -> tuple[str, ...]:
        """INT8 as published and INT8 with other thresholds or with planted outliers, as params.yaml has them."""
        rows = self.params.precisions.items()
        return tuple(name for name, row in rows if isinstance(row, Int8Precision))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return tuple(sorted({1, *self.params.study.batch_sizes}))

    def comparable(self, records_: RecordSet) -> str:
        """Empty where the set comes from the published GPU, else why its absolute figures don't compare."""
        wanted, machine = self.params.report.reference_gpu, records_.environment
        if machine is None:
            return "not measured"
        if machine.gpu and wanted in machine.gpu:
            return ""
        return f"the published figures come from a GPU ({wanted}), these from {machine.gpu or f'a CPU ({machine.cpu})'}"

    def estimate(self, records_: RecordSet, quantity: str, model: str, precision: str, batch_size: int) -> Estimate:
        """One quantity of one cell of one set, or why there is none.

        Quantities of the model itself (stored weights, file size) and of fidelity are the pair's, whatever became of
        the cell. "memory_published" is only ever printed.
        """
        if quantity == "memory_published":
            return Estimate(quantity, status=NOT_AVAILABLE, reason="what the supplement measured as memory is not said")
        if quantity in estimates.OF_SIZE or quantity in estimates.OF_FIDELITY:
            return self._of_pair(records_, quantity, model, precision)
        state, base = records_.state(model, precision, batch_size), records_.state(model, BASELINE, batch_size)
        if state.status != "ok" or state.cell is None or state.record is None:
            return Estimate(quantity, status=state.status, reason=state.reason)
        base_cell = base.cell if base.status == "ok" else None
        found = estimates.of_cell(quantity, state.record, state.cell, base_cell, self.params.statistics.confidence)
        if found.value is None and base_cell is None and found.reason.startswith("no FP32"):
            return replace(found, reason=f"no FP32 cell to compare with: {base.reason}")
        return found

    def verdicts(
        self,
        records_: RecordSet,
        batch_size: int,
        of: Callable[[Cell], list[Sequence[float]]] = estimates.processes,
        precisions: Sequence[str] | None = None,
    ) -> dict[tuple[str, str], Verdict]:
        """Each precision against FP32 at one batch size, (model, precision) to verdict, corrected over all of them.

        The family is every model with each of ``precisions`` (those of the tables by default); ``of`` says which times
        of a cell are compared. What was not timed on both sides has no verdict.
        """
        wanted = self.precisions if precisions is None else precisions
        pairs, contrasts = [], []
        for model, precision in records_.records:
            base, other = records_.state(model, BASELINE, batch_size), records_.state(model, precision, batch_size)
            if precision == BASELINE or precision not in wanted or base.cell is None or other.cell is None:
                continue
            if base.status == "ok" and other.status == "ok":
                moved = moved_between(BASELINE, base.cell, precision, other.cell, records_.shift)
                pairs.append((model, precision))
                contrasts.append(verdicts.contrast(of(base.cell), of(other.cell), moved))
        statistics = self.params.statistics
        judged = verdicts.judge(contrasts, statistics.confidence, statistics.equivalence_margin)
        return dict(zip(pairs, judged, strict=True))

    def _of_pair(self, records_: RecordSet, quantity: str, model: str, precision: str) -> Estimate:
        record = records_.records.get((model, precision))
        if record is None:
            state = records_.state(model, precision, 1)
            return Estimate(quantity, status=state.status, reason=state.reason)
        if quantity in estimates.OF_FIDELITY:
            return estimates.of_fidelity(quantity, record)
        base = records_.records.get((model, BASELINE))
        return estimates.of_size(quantity, record, base, self.params.report.workspace_mib)

    def values(
        self, records_: RecordSet, quantity: str, precision: str, models: tuple[str, ...], batch_size: int = 1
    ) -> dict[str, float]:
        """A measured column: model to value, without the models that have none."""
        found = {model: self.estimate(records_, quantity, model, precision, batch_size).value for model in models}
        return {model: value for model, value in found.items() if value is not None}

    def facts(self, model: str) -> architectures.Facts | None:
        """The committed counts of a model, or None for a model that the study does not ship."""
        return architectures.facts(self.project, model)

    def arithmetic(self, quantity: str, precision: str, models: tuple[str, ...]) -> dict[str, float]:
        """A column of memory worked out from parameter counts, no model loaded: model to value.

        ``quantity`` is memory_stored_weights, memory_with_workspace (MiB), or the reduction (%) of one of them.
        """
        workspace = 0 if quantity.endswith(("_stored", "stored_weights")) else self.params.report.workspace_mib
        found = {}
        for model in models:
            facts = self.facts(model)
            if facts is None or precision not in facts.model_bytes:
                continue
            mine, base = (facts.model_bytes[name] / MIB + workspace for name in (precision, BASELINE))
            found[model] = 100 * (1 - mine / base) if quantity.startswith("memory_reduction") else mine
        return found


def unlike(cell: Cell, base: Cell | None) -> str:
    """Empty where the processes of a cell ran as FP32's did, else in what not: CPU threads and how they wait."""
    for what, of in (("CPU threads", _threads), ("OMP_WAIT_POLICY", _waiting)):
        mine, theirs = ({of(one) for one in side.replicates} if side else set() for side in (cell, base))
        if len(mine | theirs) > 1:
            shown = " and ".join(sorted(mine)), " and ".join(sorted(theirs)) or "not timed"
            return f"{what}: {shown[0]} here, {shown[1]} in FP32's cell; measure both alike"
    return ""


def _threads(one: Replicate) -> str:
    return str(one.threads)


def _waiting(one: Replicate) -> str:
    return one.conditions.omp_wait_policy


def moved_between(precision_a: str, a: Cell, precision_b: str, b: Cell, shift: float) -> float:
    """How far (log) the machine may have moved between two cells; 0 where their replicates took turns.

    By the drift sentinel, or by the ``shift`` of the A/A run, whichever is more: a machine can move without it.
    """
    if precision_b in a.interleaved_with and precision_a in b.interleaved_with:
        return 0.0
    return max(drift.between(a, b), shift)


def gather(project: Project, params: Params) -> Evidence:
    """Open the study's evidence.

    Raises:
        StudyError: a record or a published table is broken, or a set mixes machines.
    """
    found, missing = records.local(project, params)
    local = RecordSet("local", found, missing, archive.read_aa(project.measured, found))
    others = tuple(
        RecordSet(f"recorded:{platform}", rows, {}, archive.read_aa(project.recorded / platform, rows))
        for platform, rows in archive.read_all(project).items()
        if rows
    )
    sets = (local, *others) if found or not others else (*others, local)
    return Evidence(project, params, published.load(project), sets)


def open_study(root: str | os.PathLike[str]) -> Evidence:
    """The evidence of the checkout at ``root``; what notebooks start with."""
    project = Project.find(Path(root))
    return gather(project, parameters.load(project))
