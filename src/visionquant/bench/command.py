"""What a command that measures was asked for, and who is told how it goes. Nothing here imports torch."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from visionquant.records.cell import Cell
from visionquant.records.record import Record
from visionquant.settings.params import Params, known

if TYPE_CHECKING:
    from visionquant.bench.cell_run import CellRun


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
        """Those that are named, by default the study's; batch sizes in order.

        Raises:
            StudyError: a name has no row.
        """
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

    def replicate(self, pair: tuple[str, str], course: "CellRun") -> None:
        """A replicate was measured that did not finish its cell."""

    def pair(self, record: Record) -> None:
        """A pair is complete, measured just now or before."""


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
