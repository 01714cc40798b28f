"""What a command that measures was asked for, and who is told how it goes; torch-free."""

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from visionquant.bench import pair_fingerprint
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records.record import SCHEMA, Record, Settings, Weights, read_samples
from visionquant.settings.params import Params, known
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

    def preparing(self, model: str) -> None:
        """A model is loaded and converted."""

    def waiting(self, model: str, left_s: float) -> None:
        """Others keep the machine busy; seconds that it will still wait."""

    def round(
        self, model: str, batch_size: int, number: int, planned: int, medians_ms: Mapping[str, float], left_s: float
    ) -> None:
        """A round was taken, ``number`` of ``planned``; ``left_s`` seconds are foreseen for what is left."""


class TimeIsUp(Exception):
    """The command's time is spent; what is finished is written down."""


@dataclass
class Command:
    """How far a command goes: no round begins past ``until_s`` (``time.monotonic()``), nor beyond ``rounds`` of them.

    ``retry``: what waits for a quieter machine, or ran out of memory, is tried again.
    """

    observer: Observer = field(default_factory=Observer)
    until_s: float = math.inf
    rounds: int | None = None
    retry: bool = False

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


def kept(project: Project, asked: Record, matrix: Matrix) -> Record:
    """What a run keeps of the samples of the pair ``asked`` for: those of one identity, unless ``again`` is asked.

    Broken samples, or those of a later version, are a StudyError: they are not written over.
    """
    path = project.samples(asked.model, asked.precision)
    there = read_samples(path) if path.is_file() else asked
    if not there.goes_on_as(asked):
        return asked
    anew = matrix.batch_sizes if matrix.again else ()
    cells = tuple(cell for cell in there.cells if cell.batch_size not in anew)
    return there.model_copy(update={"cells": cells}) if cells else asked
