"""What a recipe of the guide gave when it was run: rows of figures, with the command and the machine they are from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from visionquant.core import files
from visionquant.core.frozen import Frozen
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.settings.params import Params, settings_at

Value = str | int | float | None


class Recipe(Frozen):
    """One run. ``rows`` share their keys, units are in the keys; None is what could not be had: the row says why.

    ``settings`` are those that decided it, by their keys in params.yaml; None where they were not recorded.
    """

    name: str
    command: str
    weights: Literal["trained here", "seeded", "trained here and seeded", "pretrained", "none"]
    environment: Environment
    elapsed_s: float
    rows: tuple[dict[str, Value], ...]
    settings: dict[str, Any] | None = None

    @property
    def under(self) -> dict[str, object]:
        """The settings that decided it, as far as they were recorded."""
        return self.settings or {}


def read(path: Path) -> Recipe:
    """One file.

    Raises:
        StudyError: it is missing, cut, or no recipe.
    """
    return files.load(path, Recipe, f"run `visionquant recipe {path.stem}`, or restore it from git")


def write(project: Project, recipe: Recipe, params: Params) -> Path:
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
        yield from ("training.folds", "training.batch_size", "training.weight_decay", "training.seed")
