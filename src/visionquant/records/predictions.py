"""What a trained network predicted, image by image: one file a network, from which every statistic is derived."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from visionquant.core import files
from visionquant.core.frozen import Frozen
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.settings.precision import Precision
from visionquant.settings.trained_networks import NetworkSpec, Training


class Predictions(Frozen):
    """One precision: the class and its probability for each image, and how many layers it quantised."""

    precision: Precision
    quantized_modules: int
    classes: tuple[int, ...]
    confidence: tuple[float, ...]


class Scores(Frozen):
    """One network; ``images`` are indices into the data set, ``labels`` their classes, in the same order everywhere."""

    network: str
    spec: NetworkSpec
    training: Training
    folds: tuple[int, ...]
    environment: Environment
    images: tuple[int, ...]
    labels: tuple[int, ...]
    precisions: dict[str, Predictions]

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        for name, row in self.precisions.items():
            if not len(row.classes) == len(row.confidence) == len(self.labels) == len(self.images):
                raise ValueError(f"{name} does not name every image once")
        return self

    @property
    def under(self) -> dict[str, object]:
        """The settings that decided it, by their keys in params.yaml."""
        how = ("folds", "batch_size", "weight_decay", "seed")
        return {
            f"training.networks.{self.network}": self.spec,
            **{f"training.{key}": getattr(self.training, key) for key in how},
            **{f"precisions.{name}": row.precision for name, row in self.precisions.items()},
        }


def read(path: Path) -> Scores:
    """One file.

    Raises:
        StudyError: it is missing, cut, or no scores.
    """
    return files.load(path, Scores, "run `visionquant evaluate`, or restore it from git")


def write(project: Project, scores: Scores) -> Path:
    """Write this machine's scores of a network."""
    path = project.local / "accuracy" / f"{scores.network}.json"
    files.save(path, scores)
    return path
