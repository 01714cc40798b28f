"""The A/A run: the same cells measured twice, one whole pass after the other, as any two sets of records are.

Whatever is called different between the passes is a false alarm, and the width of the intervals is how fine this
machine can tell. Both passes lie beside the study's own records and never in their place.
"""

from collections.abc import Callable, Sequence

from visionquant.bench import sweep
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.archive import AA_SIDES
from visionquant.settings.params import Params, known
from visionquant.weights import architectures

FEWEST_CELLS = 20


def measure(
    project: Project,
    params: Params,
    models: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    protocol: str | None = None,
    again: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Measure both passes at batch size 1, or what they lack.

    Args:
        models: the study's smallest by default, so many that there are ``FEWEST_CELLS`` cells.
        precisions: the study's by default.
        protocol: the study's by default.
        say: told of the pass that begins.

    Raises:
        StudyError: an unknown name, fewer than ``FEWEST_CELLS`` cells, or what :func:`sweep.sweep` raises.
    """
    precisions = list(precisions or params.study.precisions)
    models = list(models or smallest(project, params, -(-FEWEST_CELLS // len(precisions))))
    known("study.models", models, params.models)
    known("study.precisions", precisions, params.precisions)
    if protocol is not None:
        known("study.protocol", [protocol], params.protocols)
        params = params.model_copy(update={"study": params.study.model_copy(update={"protocol": protocol})})
    cells = len(models) * len(precisions)
    if cells < FEWEST_CELLS:
        raise StudyError(
            "aa",
            f"{len(models)} models x {len(precisions)} precisions are {cells} cells",
            f"name {FEWEST_CELLS} or more",
        )
    for side in AA_SIDES:
        say(f"{side}: {cells} cells, protocol {params.study.protocol}")
        sweep.sweep(Project(project.root, side), params, models, precisions, [1], again)


def smallest(project: Project, params: Params, count: int) -> list[str]:
    """The study's ``count`` models with the least arithmetic; those without committed counts come last."""

    def macs(model: str) -> float:
        facts = architectures.facts(project, model)
        return facts.macs if facts else float("inf")

    return sorted(params.study.models, key=macs)[:count]
