"""What a recipe of the guide gave when it was run: rows of figures, with the command and the machine they are from.

``data/recipes/local`` holds this machine's (git ignores it), ``data/recipes/<platform>`` what came with the repository.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project, write_atomically

LOCAL = "local"
Value = str | int | float | None


class Recipe(BaseModel):
    """One run. ``rows`` share their keys, units are in the keys; None is what could not be had: the row says why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    command: str
    weights: Literal["trained here", "seeded", "trained here and seeded", "pretrained", "none"]
    environment: Environment
    elapsed_s: float
    rows: tuple[dict[str, Value], ...]


def write(project: Project, recipe: Recipe, platform: str = LOCAL) -> Path:
    """Write a run beside the others of ``platform``; the one that is there is replaced, whole or not at all."""
    path = project.recipes / platform / f"{recipe.name}.json"
    write_atomically(path, recipe.model_dump_json(indent=1) + "\n")
    return path


def read(path: Path) -> Recipe:
    """One file.

    Raises:
        StudyError: it is missing, cut, or no recipe.
    """
    remedy = f"run `visionquant recipe {path.stem}`"
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StudyError(path.name, error.strerror or "unreadable", remedy) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise StudyError(path.name, f"no recipe: {first['msg']}", remedy) from None


def read_all(project: Project, name: str) -> dict[str, Recipe]:
    """The runs of one recipe by source: "local" where it was run here, then "recorded:<platform>"."""
    folders = sorted(project.recipes.iterdir()) if project.recipes.is_dir() else []
    folders.sort(key=lambda folder: folder.name != LOCAL)
    return {
        LOCAL if folder.name == LOCAL else f"recorded:{folder.name}": read(folder / f"{name}.json")
        for folder in folders
        if (folder / f"{name}.json").is_file()
    }
