"""What models with pretrained weights predicted of labelled images, image by image: one file a machine."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from visionquant.core import files
from visionquant.core.frozen import Frozen
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.settings.precision import Precision

FILE = "labelled.json"
OFF = "evaluation.images is null in params.yaml"


class LabelledPredictions(Frozen):
    """One precision. ``top5`` are the five best labels of each image; empty for a model without a head.

    ``neighbours`` is the class that the nearest other images vote for by this precision's features; ``cka`` the linear
    centred kernel alignment of them with FP32's.
    """

    precision: Precision
    quantized_modules: int
    top5: tuple[tuple[int, ...], ...]
    neighbours: tuple[int, ...]
    cka: float


class LabelledResult(Frozen):
    """One model: ``labels`` are classes by their number in ``classes``, ``targets`` the head's label of each class.

    ``skipped`` counts by kind what lay beside the images; None where it was not recorded. ``settings`` are those that
    decided it beside the precisions' rows.
    """

    key: str
    model: str
    weights: str
    environment: Environment
    images: tuple[str, ...]
    classes: tuple[str, ...]
    targets: tuple[int, ...] | None
    labels: tuple[int, ...]
    precisions: dict[str, LabelledPredictions]
    skipped: dict[str, int] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def under(self) -> dict[str, object]:
        """The settings that decided it, by their keys in params.yaml."""
        return self.settings | {f"precisions.{name}": row.precision for name, row in self.precisions.items()}


class Labelled(Frozen):
    """All models that were evaluated, and why each other model of the study was not."""

    judged: tuple[LabelledResult, ...]
    missing: dict[str, str]


def counted(skipped: Mapping[str, int]) -> str:
    """What lay beside the images, as a line says it: "2 hidden, 1 .txt"."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()) if count)


def write(project: Project, labelled: Labelled) -> None:
    """Write this machine's file."""
    files.save(project.local / FILE, labelled)


def write_off(project: Project, models: Iterable[str]) -> Labelled:
    """Write that no images are given, so that none of ``models`` is judged; no library of tensors is needed for it."""
    labelled = Labelled(judged=(), missing=dict.fromkeys(models, OFF))
    write(project, labelled)
    return labelled


def read(folder: Path) -> Labelled | None:
    """The file of a machine, or None where the stage has not run.

    Raises:
        StudyError: it is broken.
    """
    path = folder / FILE
    return files.load(path, Labelled, "delete it, run `visionquant evaluate-pretrained`") if path.is_file() else None
