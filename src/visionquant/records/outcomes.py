"""What evaluations and recipes gave: predictions, image by image, and rows of figures; every statistic is derived.

Of networks trained here, of models with trained weights under probes, and of recipes a file each; of models with
pretrained weights on labelled images one file.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from visionquant.core import files
from visionquant.core.frozen import Frozen
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.settings.params import Params, settings_at
from visionquant.settings.precision import Precision
from visionquant.settings.sections import NetworkSpec, Training

LABELLED = "labelled.json"
OFF = "evaluation.images is null in params.yaml"
TRAINED_BY = ("folds", "batch_size", "weight_decay", "seed")  # keys of ``training`` that decide what a network learns
Value = str | int | float | None


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
        return {
            f"training.networks.{self.network}": self.spec,
            **{f"training.{key}": getattr(self.training, key) for key in TRAINED_BY},
            **{f"precisions.{name}": row.precision for name, row in self.precisions.items()},
        }


class ProbePredictions(Predictions):
    """One precision through heads that were fitted on FP32's features: a linear one, and the vote of ``neighbours``.

    ``cosine`` is the mean of its features with FP32's over the images, ``least_cosine`` the least; ``stored_weights``
    are bytes, ``seconds`` those of its features. ``key`` is of all that decided it. ``own_head``: the classes by a
    linear head that was fitted on this precision's features, empty where none was.
    """

    key: str
    neighbours: tuple[int, ...]
    cosine: float
    least_cosine: float
    stored_weights: int
    seconds: float
    own_head: tuple[int, ...] = ()


class Probe(Frozen):
    """One model with trained weights on the first test images of a data set, which have these ``labels``.

    ``settings`` are those that decided it beside the precisions' rows; ``missing`` says of a precision why it lacks.
    """

    model: str
    task: Literal["fashion-mnist"]
    weights: str
    environment: Environment
    settings: dict[str, Any]
    labels: tuple[int, ...]
    precisions: dict[str, ProbePredictions]
    missing: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        for name, row in self.precisions.items():
            answers = (row.classes, row.confidence, row.neighbours, row.own_head or row.classes)
            if {*map(len, answers)} != {len(self.labels)}:
                raise ValueError(f"{name} does not name every image once")
        return self

    @property
    def under(self) -> dict[str, object]:
        """The settings that decided it, by their keys in params.yaml."""
        return self.settings | {f"precisions.{name}": row.precision for name, row in self.precisions.items()}


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


class Recipe(Frozen):
    """One run. ``rows`` share their keys, units are in the keys; None is what could not be had: the row says why.

    ``settings`` are those that decided it, by their keys in params.yaml; None where they were not recorded.
    """

    name: str
    command: str
    weights: Literal["trained here", "seeded", "trained here and seeded", "pretrained", "pretrained and seeded", "none"]
    environment: Environment
    elapsed_s: float
    rows: tuple[dict[str, Value], ...]
    settings: dict[str, Any] | None = None

    @property
    def under(self) -> dict[str, object]:
        """The settings that decided it, as far as they were recorded."""
        return self.settings or {}


def counted(skipped: Mapping[str, int]) -> str:
    """What lay beside the images, as a line says it: "2 hidden, 1 .txt"."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()) if count)


def read_scores(path: Path) -> Scores:
    """One network's file; a StudyError if it is missing, cut, or no scores."""
    return files.load(path, Scores, "run `visionquant evaluate`, or restore it from git")


def read_probe(path: Path) -> Probe:
    """One model's file; a StudyError if it is missing, cut, or no probe."""
    return files.load(path, Probe, f"run `visionquant probe --model {path.stem}`, or restore it from git")


def read_recipe(path: Path) -> Recipe:
    """One recipe's file; a StudyError if it is missing, cut, or no recipe."""
    return files.load(path, Recipe, f"run `visionquant recipe {path.stem}`, or restore it from git")


def read_labelled(folder: Path) -> Labelled | None:
    """The file of a machine, or None where the stage has not run; a StudyError if it is broken."""
    path = folder / LABELLED
    return files.load(path, Labelled, "delete it, run `visionquant evaluate-pretrained`") if path.is_file() else None


def write_scores(project: Project, scores: Scores) -> Path:
    """Write this machine's scores of a network."""
    path = project.local / "accuracy" / f"{scores.network}.json"
    files.save(path, scores)
    return path


def write_probe(project: Project, probe: Probe) -> Path:
    """Write this machine's probe of a model."""
    path = project.local / "probes" / f"{probe.model}.json"
    files.save(path, probe)
    return path


def write_labelled(project: Project, labelled: Labelled) -> None:
    """Write this machine's file."""
    files.save(project.local / LABELLED, labelled)


def write_off(project: Project, models: Iterable[str]) -> Labelled:
    """Write that no images are given, so that none of ``models`` is judged; no library of tensors is needed for it."""
    labelled = Labelled(judged=(), missing=dict.fromkeys(models, OFF))
    write_labelled(project, labelled)
    return labelled


def write_recipe(project: Project, recipe: Recipe, params: Params) -> Path:
    """Write a run of this machine with the settings that decided it; one that is there is replaced.

    They are the rows of params.yaml that its own rows name, and how networks are trained where it trained some.
    """
    path = project.local / "recipes" / f"{recipe.name}.json"
    files.save(path, recipe.model_copy(update={"settings": settings_at(params, _keys(recipe, params))}), indent=1)
    return path


def _keys(recipe: Recipe, params: Params) -> Iterator[str]:
    named = {value for row in recipe.rows for value in row.values()}
    for key, rows in (("models", params.models), ("precisions", params.precisions)):
        yield from (f"{key}.{name}" for name in rows if name in named)
    yield from (f"training.networks.{name}" for name in params.training.networks if name in named)
    if "trained" in recipe.weights:
        yield from (f"training.{key}" for key in TRAINED_BY)
