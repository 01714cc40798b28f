"""What a trained network named: one file a network, image by image, so that every statistic can be derived again.

``data/evaluated`` holds this machine's, ``data/accuracy/<platform>`` those that came with the repository; each says
which folds it holds.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project, write_atomically
from visionquant.settings.precision import Precision
from visionquant.settings.trained_networks import NetworkSpec, Training


class Part(BaseModel):
    """A frozen part of a file without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Named(Part):
    """One precision: the class and its probability for each image, and how many layers it quantised."""

    precision: Precision
    quantized_modules: int
    classes: tuple[int, ...]
    confidence: tuple[float, ...]


class Scores(Part):
    """One network; ``images`` are indices into the data set, ``labels`` their classes, in the same order everywhere."""

    network: str
    spec: NetworkSpec
    training: Training
    folds: tuple[int, ...]
    environment: Environment
    images: tuple[int, ...]
    labels: tuple[int, ...]
    precisions: dict[str, Named]

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        for name, one in self.precisions.items():
            if not len(one.classes) == len(one.confidence) == len(self.labels) == len(self.images):
                raise ValueError(f"{name} does not name every image once")
        return self


def read(path: Path) -> Scores:
    """One file.

    Raises:
        StudyError: it is missing, cut, or no scores.
    """
    try:
        return Scores.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StudyError(path.name, error.strerror or "unreadable", "run `visionquant evaluate`") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise StudyError(path.name, f"no scores: {first['msg']}", "run `visionquant evaluate`") from None


def write(project: Project, scores: Scores) -> Path:
    """Write this machine's scores of a network."""
    path = project.evaluated / f"{scores.network}.json"
    write_atomically(path, scores.model_dump_json() + "\n")
    return path


def read_all(project: Project) -> dict[str, tuple[Scores, ...]]:
    """Scores by source: "local" where there are any, then "recorded:<platform>"."""
    found: dict[str, tuple[Scores, ...]] = {}
    local = _folder(project.evaluated)
    if local:
        found["local"] = local
    for folder in sorted(project.accuracy.iterdir()) if project.accuracy.is_dir() else ():
        rows = _folder(folder) if folder.is_dir() else ()
        if rows:
            found[f"recorded:{folder.name}"] = rows
    return found


def _folder(folder: Path) -> tuple[Scores, ...]:
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    return tuple(read(path) for path in paths)
