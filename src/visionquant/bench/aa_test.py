"""The A/A test: the same cells measured twice, one whole pass after the other, as any two sets of records are.

Whatever is called different between the passes is a false alarm, and the width of the intervals is how fine this
machine can tell. Both passes lie beside the study's own records and never in their place.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from visionquant.bench import measure as pairs
from visionquant.bench.command import Matrix
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.machine_set import AA_SIDES
from visionquant.settings.params import Params
from visionquant.weights import architectures

FEWEST_CELLS = 20


def measure(project: Project, params: Params, matrix: Matrix, tell: Callable[[str], None] = lambda line: None) -> None:
    """Measure what both passes of ``matrix`` lack; ``tell`` takes a line on each. A StudyError: too few cells."""
    cells = len(matrix.pairs) * len(matrix.batch_sizes)
    if cells < FEWEST_CELLS:
        too_few = f"{len(matrix.models)} models x {len(matrix.precisions)} precisions are {cells} cells"
        raise StudyError("aa-test", too_few, f"name {FEWEST_CELLS} or more")
    for side in AA_SIDES:
        tell(f"{side}: {cells} cells, protocol {params.study.protocol}")
        pairs.sweep(replace(project, side=side), params, matrix)


def matrix_of(
    project: Project, params: Params, models: Sequence[str] | None, precisions: Sequence[str] | None, again: bool
) -> Matrix:
    """What to measure at batch size 1; by default the study's precisions of its smallest models, enough for a test."""
    precisions = precisions or params.study.precisions
    models = models or smallest(project, params, -(-FEWEST_CELLS // len(precisions)))
    return Matrix.of(params, models, precisions, [1], again)


def smallest(project: Project, params: Params, count: int) -> list[str]:
    """The study's ``count`` models with the least arithmetic; those without committed counts come last."""
    return sorted(
        params.study.models, key=lambda model: getattr(architectures.facts(project, model), "macs", math.inf)
    )[:count]
