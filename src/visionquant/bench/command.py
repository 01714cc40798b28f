"""What a command that measures was asked for, what of it is there, and who is told how it goes; torch-free."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from visionquant.bench import pair_fingerprint
from visionquant.bench.cell_run import CellRun
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records.cell import Cell, Pending
from visionquant.records.record import SCHEMA, PartialRecord, Record, Settings, Weights, current, under_way
from visionquant.settings.params import Params, known
from visionquant.weights import architectures
from visionquant.weights.sources import Manifest


@dataclass(frozen=True)
class Matrix:
    """Cells that are asked for: models x precisions x batch sizes; ``again`` measures those that are there too."""

    models: tuple[str, ...]
    precisions: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    again: bool = False

    @classmethod
    def of(
        cls,
        params: Params,
        models: Sequence[str] | None = None,
        precisions: Sequence[str] | None = None,
        batch_sizes: Sequence[int] | None = None,
        again: bool = False,
    ) -> "Matrix":
        """Those that are named, by default the study's; batch sizes in order; a StudyError where a name has no row."""
        study = params.study
        models, precisions = tuple(models or study.models), tuple(precisions or study.precisions)
        known("study.models", models, params.models)
        known("study.precisions", precisions, params.precisions)
        return cls(models, precisions, tuple(sorted({*(batch_sizes or study.batch_sizes)})), again)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(model, precision), model by model."""
        return tuple(itertools.product(self.models, self.precisions))

    def by_model(self) -> Iterator["Matrix"]:
        """The part of each model: what one task of an executor measures."""
        return (replace(self, models=(model,)) for model in self.models)


class Observer:
    """Is told of measuring as it goes; this one ignores it all."""

    def cell(self, pair: tuple[str, str], cell: Cell) -> None:
        """A cell was measured, or it was foreseen that it can't be."""

    def replicate(self, pair: tuple[str, str], course: CellRun) -> None:
        """A replicate was measured that did not finish its cell."""

    def pair(self, record: Record) -> None:
        """A pair is complete, measured just now or before."""


class TimeIsUp(Exception):
    """The command's time is spent; what is finished is written down."""


@dataclass
class Command:
    """What all pairs of one command share.

    ``before_s`` are seconds spent before (imports), which count for the first pair; past ``until_s``
    (``time.monotonic()``) no further replicate begins; ``positions`` number the command's replicates.
    """

    observer: Observer = field(default_factory=Observer)
    before_s: float = 0.0
    until_s: float = math.inf
    positions: Iterator[int] = field(default_factory=itertools.count)

    def require_time(self) -> None:
        """Raise TimeIsUp past ``until_s``."""
        if time.monotonic() >= self.until_s:
            raise TimeIsUp


def blank(
    project: Project, params: Params, pair: tuple[str, str], manifest: Manifest, environment: Environment
) -> Record:
    """The record of a pair of which nothing is measured: what is asked for."""
    model, precision = pair
    return Record(
        schema_version=SCHEMA,
        model=model,
        precision=precision,
        settings=Settings(
            model=params.models[model],
            precision=params.precisions[precision],
            protocol=params.protocol,
            device=environment.device,
            weights=Weights(kind=manifest.weights, source=manifest.source, manifest_sha256=manifest.sha256()),
        ),
        environment=environment,
        code=pair_fingerprint.state(project.root, params.precisions[precision]),
        conversion=None,
        size=None,
        fidelity=None,
        operations=None,
        outlier_layers=None,
        cells=(),
        elapsed_s=0.0,
    )


def kept(project: Project, asked: Record, matrix: Matrix) -> PartialRecord:
    """What a run keeps of an interrupted one of the pair ``asked`` for, or of its record, if they are of one identity.

    Of the batch sizes of ``matrix``, cells that failed are not kept, and none is with ``again``. Where nothing is kept,
    facts and elapsed time begin anew too. A broken record is a StudyError.
    """
    pair = asked.model, asked.precision
    progress = under_way(project.progress(*pair))
    if progress is None or not progress.record.goes_on_as(asked):
        record = current(project.record(*pair))
        progress = PartialRecord(record=record if record is not None and record.goes_on_as(asked) else asked)

    def lasts(part: Cell | Pending) -> bool:
        anew = matrix.again or getattr(part, "status", "") == "failed"
        return part.batch_size not in matrix.batch_sizes or not anew

    pending, cells = tuple(filter(lasts, progress.pending)), tuple(filter(lasts, progress.record.cells))
    anew = progress.record.cells and not cells and not pending
    return PartialRecord(record=asked if anew else progress.record.model_copy(update={"cells": cells}), pending=pending)


def fp32_bytes(project: Project, manifest: Manifest) -> int:
    """Bytes of a model's FP32 weights: by its committed counts, else those of its files; 0 where neither is known."""
    facts = architectures.facts(project, manifest.model)
    return facts.model_bytes["fp32"] if facts else sum(file.bytes for file in manifest.files)
