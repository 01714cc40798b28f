"""What an exported folder says of itself, in ``precision.json``, and whether the folder is still what it says.

The layout is the hub's (``config.json``, ``model.safetensors``), with this file beside it: the precision's row, the
type of what is not quantised, versions, and size and sha256 of every other file. Its own fields are hashed too, so that
a row edited by hand shows. That finds accidents and careless edits; against somebody who can write here, pin a revision
of a store. Nothing here reads a pickle: a folder that holds one is refused as it is.
"""

from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from visionquant.core.errors import StudyError
from visionquant.core.frozen import InputSize, Row
from visionquant.records.record import sha256_of
from visionquant.settings.precision import Dtype, FloatPrecision, Precision
from visionquant.weights import hub_cache
from visionquant.weights.manifest import HubFile

NAME = "precision.json"
CONFIG, TENSORS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
LIBRARIES = ("torch", "transformers", "bitsandbytes", "safetensors", "visionquant")


class Description(Row):
    """``dtype`` is that of everything not quantised on ``device``; ``weights`` and ``source`` say whose they are."""

    schema_version: Literal[1] = 1
    precision: Precision
    device: Literal["cpu", "cuda"]
    dtype: Dtype
    attention: str
    input_size: InputSize
    weights: Literal["trained here", "seeded", "pretrained"]
    source: str
    versions: dict[str, str]
    files: Annotated[tuple[HubFile, ...], Field(min_length=2)]
    sha256: str = ""

    def digest(self) -> str:
        """The sha256 of all other fields."""
        return sha256_of(self.model_dump(mode="json", exclude={"sha256"}))


def versions() -> dict[str, str]:
    """Of the libraries that a stored model depends on, without importing them."""
    return {name: metadata.version(name) for name in LIBRARIES}


def check(folder: Path) -> Description:
    """Read ``folder``'s description and hold every file against it.

    Raises:
        StudyError: there is none, it is cut, altered or of another version, a file is not the one it names, or there
            is a pickle.
    """
    remedy = "export it again with `visionquant export`"
    asked = f"model folder {folder.name}"
    pickled = sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in PICKLES)
    if pickled:
        raise StudyError(asked, f"{pickled[0]} is a pickle, which may run anything when it is read", "remove it")
    try:
        found = Description.model_validate_json((folder / NAME).read_bytes())
    except OSError as error:
        raise StudyError(f"{asked}: {NAME}", error.strerror or "unreadable", remedy) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise StudyError(f"{asked}: {NAME}", f"{key or 'the file'}: {first['msg']}", remedy) from None
    if found.digest() != found.sha256:
        raise StudyError(f"{asked}: {NAME}", "its fields do not have the sha256 that it states (altered?)", remedy)
    names = {file.name for file in found.files}
    if not {CONFIG, TENSORS} <= names or any(Path(name).name != name for name in names):
        raise StudyError(f"{asked}: {NAME}", f"it lists {', '.join(sorted(names))}", remedy)
    for file in found.files:
        wrong = hub_cache.why_wrong(folder / file.name, file.bytes, file.sha256)
        if wrong:
            raise StudyError(f"{asked}: {file.name}", wrong, remedy)
    theirs, mine = found.versions.get("bitsandbytes", "none"), metadata.version("bitsandbytes")
    if not isinstance(found.precision, FloatPrecision) and theirs.split(".")[:2] != mine.split(".")[:2]:
        raise StudyError(asked, f"quantised by bitsandbytes {theirs}, here is {mine}", remedy)
    return found
