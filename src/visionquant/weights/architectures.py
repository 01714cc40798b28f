"""What is known of a model before any weight is loaded: its config, its preprocessing, its counts."""

from dataclasses import dataclass
from typing import Any

from visionquant.core import files
from visionquant.core.frozen import height_width
from visionquant.core.paths import Project


@dataclass(frozen=True)
class ModelFacts:
    """Counts of one model as ``AutoModel`` builds it.

    ``macs`` are multiply-accumulates of one image; ``model_bytes`` the stored bytes per precision by arithmetic
    (pooler kept in 16 bit); ``operations`` what a pass of one image issues in FP32 and FP16, views apart, attention as
    one; ``published_params`` what the supplement prints, if it does.
    """

    parameters: int
    linear_layers: int
    linear_weight_params: int
    macs: int
    published_params: int | None
    operations: dict[str, int]
    model_bytes: dict[str, int]


def config(project: Project, model: str) -> dict[str, Any] | None:
    """The committed ``config.json`` of ``model``, or None for a model that the study does not ship."""
    return _read(project, model, "config.json")


def preprocessing(project: Project, model: str) -> dict[str, Any] | None:
    """The committed ``preprocessor_config.json`` of ``model``, or None."""
    return _read(project, model, "preprocessor_config.json")


def channels(config: dict[str, Any]) -> int:
    """What a network with this ``config.json`` takes, or its vision part: three where neither says."""
    own = config.get("num_channels") or (config.get("vision_config") or {}).get("num_channels")
    return int(own or 3)


def labels(config: dict[str, Any]) -> dict[int, str]:
    """The names of a classifier's outputs, without those that the library made up ("LABEL_0")."""
    named = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    return {number: name for number, name in named.items() if name != f"LABEL_{number}"}


def shape(config: dict[str, Any]) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a network with this ``config.json`` was made for."""
    size = config["image_size"]
    return channels(config), *height_width(size if isinstance(size, int) else tuple(size))


def facts(project: Project, model: str) -> ModelFacts | None:
    """The committed counts of ``model``, or None for a model that the study does not ship."""
    raw = _read(project, model, "facts.json")
    return ModelFacts(**{name: raw[name] for name in ModelFacts.__dataclass_fields__}) if raw else None


def _read(project: Project, model: str, name: str) -> dict[str, Any] | None:
    path = project.architectures / model / name
    return files.load(path, dict[str, Any]) if path.is_file() else None
