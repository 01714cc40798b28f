"""Labelled images, and what models with pretrained weights answered to them: settings, and one file of answers.

``data/labelled.json`` keeps answers image by image, so that every statistic can be derived again.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project, write_atomically
from visionquant.settings.precision import Precision

OFF = "evaluation.images is null in params.yaml"


class Part(BaseModel):
    """A frozen part of the file without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answers(Part):
    """One precision. ``top5`` are the five best labels of each image; empty for a model without a head.

    ``neighbours`` is the class that the nearest other images vote for by this precision's features; ``cka`` the linear
    centred kernel alignment of them with FP32's.
    """

    precision: Precision
    quantized_modules: int
    top5: tuple[tuple[int, ...], ...]
    neighbours: tuple[int, ...]
    cka: float


class Judged(Part):
    """One model: ``labels`` are classes by their number in ``classes``, ``targets`` the head's label of each class.

    ``skipped`` counts by kind what lay beside the images; None where it was not recorded.
    """

    key: str
    model: str
    weights: str
    environment: Environment
    images: tuple[str, ...]
    classes: tuple[str, ...]
    targets: tuple[int, ...] | None
    labels: tuple[int, ...]
    precisions: dict[str, Answers]
    skipped: dict[str, int] | None = None


class Labelled(Part):
    """All models that were judged, and why each other model of the study was not."""

    judged: tuple[Judged, ...]
    missing: dict[str, str]


def counted(skipped: Mapping[str, int]) -> str:
    """What lay beside the images, as a line says it: "2 hidden, 1 .txt"."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()) if count)


def write(project: Project, found: Labelled) -> None:
    """Write ``data/labelled.json``."""
    write_atomically(project.labelled, found.model_dump_json() + "\n")


def write_off(project: Project, models: Iterable[str]) -> Labelled:
    """Write that no images are given, so that none of ``models`` is judged; no library of tensors is needed for it."""
    found = Labelled(judged=(), missing=dict.fromkeys(models, OFF))
    write(project, found)
    return found


def read(project: Project) -> Labelled | None:
    """The file, or None where the stage has not run.

    Raises:
        StudyError: it is broken.
    """
    if not project.labelled.is_file():
        return None
    try:
        return Labelled.model_validate_json(project.labelled.read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise StudyError(
            _name(project.labelled), f"broken: {first}", "delete it, run `visionquant evaluate-pretrained`"
        ) from None


def _name(path: Path) -> str:
    return f"data/{path.name}"
