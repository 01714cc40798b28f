"""All that the analysis looks at, opened once: settings, published figures, machine sets, and the one frame of figures.

A set knows why a cell has no figure: absence is a value with a status and a reason, here and in everything derived.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from visionquant.analysis import frame, frame_files, published
from visionquant.analysis.estimators import Estimate
from visionquant.core.errors import StudyError
from visionquant.core.paths import LOCAL as LOCAL
from visionquant.core.paths import Project
from visionquant.core.quantities import MIB
from visionquant.records import archive
from visionquant.records.machine_set import BASELINE as BASELINE
from visionquant.records.machine_set import MachineSet as MachineSet
from visionquant.settings import params as parameters
from visionquant.settings.params import Params
from visionquant.settings.precision import GRAPHS, Int8Precision, MixedPrecision
from visionquant.weights import architectures


@dataclass(frozen=True)
class Study:
    """Settings, published figures and machine sets, the one behind the "measured" columns first.

    ``frame`` holds every figure (see :mod:`visionquant.analysis.frame`): computed, or, where ``written``, read from the
    files that the stage `analyse` wrote.
    """

    project: Project
    params: Params
    published: published.Published
    sets: tuple[MachineSet, ...]
    written: bool = False

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All rows, those without a value with status and reason."""
        return frame_files.read(self.project) if self.written else frame.figures(self)

    @property
    def cells(self) -> pd.DataFrame:
        """The rows that have a value."""
        return self.frame[self.frame.status == "ok"]

    @property
    def missing(self) -> pd.DataFrame:
        """The rows that have none: what is missing and why."""
        return self.frame[self.frame.status != "ok"]

    @cached_property
    def _rows(self) -> dict[tuple[str, str, str, int, str], Estimate]:
        found = self.frame[frame.COLUMNS].astype(object)
        return {tuple(row[:5]): Estimate(*row[4:]) for row in found.where(found.notna(), None).to_numpy()}

    def row(self, source: str, model: str, precision: str, batch_size: int, quantity: str) -> Estimate:
        """One figure, or why there is none. Of quantities of the model itself the batch size is no matter."""
        found = (self._rows.get((source, model, precision, size, quantity)) for size in (batch_size, 0))
        reason = f"not part of {'the study' if source == LOCAL else 'this set'}"
        return next(filter(None, found), Estimate(quantity, status="not_measured", reason=reason))

    def value(self, source: str, model: str, precision: str, batch_size: int, quantity: str) -> float | None:
        """The value of one figure, None where there is none."""
        return self.row(source, model, precision, batch_size, quantity).value

    def column(
        self, source: str, quantity: str, precision: str, models: Iterable[str] | None = None, batch_size: int = 1
    ) -> dict[str, float]:
        """Model to value, without the models that have none; of all models by default."""
        models = self.models if models is None else models
        found = ((model, self.value(source, model, precision, batch_size, quantity)) for model in models)
        return {model: value for model, value in found if value is not None}

    def pivot(
        self, source: str, quantity: str, precisions: Sequence[str] | None = None, batch_size: int = 1
    ) -> pd.DataFrame:
        """A row a model, a column a precision, in each box an :class:`Estimate`: value and bounds, or why not."""
        names = self.precisions if precisions is None else precisions
        boxes = [[self.row(source, model, name, batch_size, quantity) for name in names] for model in self.models]
        return pd.DataFrame(boxes, list(self.models), list(names), dtype=object)

    @property
    def measured(self) -> MachineSet:
        """The set behind the "measured" columns: the one that holds most pairs of the study, local before recorded."""
        return self.sets[0]

    @property
    def local(self) -> MachineSet:
        """This machine's set, empty or not."""
        return next((one for one in self.sets if one.source == LOCAL), MachineSet(LOCAL, {}))

    @property
    def shown(self) -> tuple[MachineSet, ...]:
        """The sets that get a column: those that hold a record; where none does, the empty local one."""
        return tuple(one for one in self.sets if one.records) or self.sets[:1]

    @property
    def evaluated(self) -> list[MachineSet]:
        """The sets that evaluated a trained network, this machine's first."""
        return sorted((one for one in self.sets if one.accuracy), key=lambda one: one.source != LOCAL)

    @property
    def most_evaluated(self) -> MachineSet:
        """The set that evaluated trained networks on the most images; this machine's, empty or not, where none did."""
        return max(self.evaluated, key=lambda one: len(next(iter(one.accuracy.values())).labels), default=self.local)

    @property
    def models(self) -> tuple[str, ...]:
        """The published models in their order, then those that the study adds."""
        return tuple(dict.fromkeys([*self.published.models, *self.params.study.models]))

    @cached_property
    def precisions(self) -> tuple[str, ...]:
        """The published precisions, then those that the study or a set adds, without those with tables of their own.

        These are INT8's bracket, mixed policies, and graphs of ONNX Runtime and OpenVINO.
        """
        apart = {*self.bracket, *self.of_kind(MixedPrecision), *self.of_kind(*GRAPHS)}
        added = {pair[1] for one in self.sets for pair in one.records} - apart
        return tuple(dict.fromkeys([*published.PRECISIONS.values(), *self.params.study.precisions, *sorted(added)]))

    @property
    def compared(self) -> tuple[str, ...]:
        """The precisions that are set against FP32."""
        return tuple(name for name in self.precisions if name != BASELINE)

    @property
    def bracket(self) -> tuple[str, ...]:
        """INT8 as published and INT8 with other thresholds or with planted outliers, as params.yaml has them."""
        return self.of_kind(Int8Precision)

    def of_kind(self, *kinds: type) -> tuple[str, ...]:
        """The rows of ``precisions`` in params.yaml that are of one of these kinds."""
        return tuple(name for name, row in self.params.precisions.items() if isinstance(row, kinds))

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        """Speedups of tables of their own, with the precisions whose verdicts are corrected together there.

        A precision may be in more than one. All that are compared are a family too.
        """
        beside = tuple(name for name in ("fp16", "int8") if name in self.params.precisions)
        return {
            "speedup_in_bracket": self.bracket,
            "speedup_of_policies": (*beside, *self.of_kind(MixedPrecision)),
            "speedup_of_graphs": (*beside[1:], *self.of_kind(*GRAPHS)),
        }

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return tuple(sorted({1, *self.params.study.batch_sizes}))

    def comparable(self, machine_set: MachineSet) -> str:
        """Empty where the set comes from the published GPU, else why its absolute figures don't compare."""
        wanted, machine = self.params.report.reference_gpu, machine_set.environment
        if machine is None or wanted in (machine.gpu or ""):
            return "" if machine else "not measured"
        return f"the published figures come from a GPU ({wanted}), these from {machine.gpu or f'a CPU ({machine.cpu})'}"

    def counterpart(self, machine_set: MachineSet, quantity: str) -> str:
        """The measured quantity beside a published one: device memory, or arithmetic where :meth:`why_counted`.

        The supplement does not say what it measured as memory. Its figures equal the weights plus a cuBLAS workspace,
        which a GPU has allocated after a run.
        """
        memory = {"memory_published": "memory_allocated_after", "memory_reduction": "memory_reduction"}
        if self.why_counted(machine_set):
            memory = {"memory_published": "memory_with_workspace", "memory_reduction": "memory_reduction_workspace"}
        return memory.get(quantity, quantity)

    def why_counted(self, machine_set: MachineSet) -> str:
        """Why device memory of this set does not stand beside published figures; empty where it does.

        Then the stored weights plus the published workspace do.
        """
        if not machine_set.on_cuda:
            return "a CPU has none"
        memories = [cell.memory for record in machine_set.records.values() for cell in record.cells if cell.memory]
        workspaces = [memory.workspace / MIB for memory in memories if memory.workspace is not None]
        far = any(abs(workspace - self.params.report.workspace_mib) > 1 for workspace in workspaces)
        return f"that of this card is {max(workspaces):g} MiB" if far else ""

    def measured_values(self, machine_set: MachineSet, subject: str, models: Iterable[str]) -> dict[str, float]:
        """The measured column behind a subject of the summary figures, without the models that have none."""
        quantity, precision, _ = published.SUBJECTS[subject]
        return self.column(machine_set.source, self.counterpart(machine_set, quantity), precision, models)

    def facts(self, model: str) -> architectures.ModelFacts | None:
        """The committed counts of a model, or None for a model that the study does not ship."""
        return architectures.facts(self.project, model)


def gather(project: Project, params: Params, local: bool = True) -> Study:
    """Open the study's evidence; its frame is computed when it is first asked for.

    Args:
        local: with this machine's, else of the named machines alone.

    Raises:
        StudyError: a record or a published table is broken, a set mixes machines, or none is named.
    """
    asked, sets = set(params.pairs()), archive.machines(project, params) if local else archive.recorded(project)
    if not sets:
        raise StudyError("data/machines", "no machine is recorded there", "run `visionquant record --platform NAME`")
    fullest = max(sets, key=lambda one: (len(asked & set(one.records)), bool(one.records)))
    rest = sorted((one for one in sets if one is not fullest), key=lambda one: one.source == LOCAL and not one.records)
    return Study(project, params, published.load(project), (fullest, *rest))


def open_study(root: str | os.PathLike[str]) -> Study:
    """The study of the checkout at ``root`` with the figures that `analyse` wrote; what notebooks start with.

    Raises:
        StudyError: as :func:`gather`, or the files are missing or broken.
    """
    project = Project.find(Path(root))
    study = gather(project, parameters.load(project))
    return replace(study, written=True)
