"""An exported folder: what it says of itself in ``precision.json``, whether that is so, and its way to a store.

The layout is the hub's, with this file beside it: the precision's row, the type of what is not quantised, versions, and
size and sha256 of every other file and of its own fields. That finds accidents and careless edits. Nothing here reads a
pickle: a folder that holds one is refused as it is. A branch of a store can move under a running service and a commit
can't, so a pull takes 40 hex digits alone; it costs every byte once more on disk, in the hub's cache. A store without
the hub's chunked Xet storage wants ``HF_HUB_DISABLE_XET=1``.
"""

import re
import shutil
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.frozen import InputSize, Strict
from visionquant.records.record import WeightsKind, sha256_of
from visionquant.settings.precision import Dtype, Precision
from visionquant.weights import hub
from visionquant.weights.sources import HubFile

NAME = "precision.json"
CONFIG, TENSORS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
LIBRARIES = ("torch", "transformers", "bitsandbytes", "safetensors", "visionquant")  # that a stored model depends on
REMEDY = "export it again with `visionquant export`"
Weights = WeightsKind | Literal["trained here"]


class ModelManifest(Strict):
    """``dtype`` is that of everything not quantised on ``device``; ``weights`` and ``source`` say whose they are."""

    schema_version: Literal[1] = 1
    precision: Precision
    device: Literal["cpu", "cuda"]
    dtype: Dtype
    attention: str
    input_size: InputSize
    weights: Weights
    source: str
    versions: dict[str, str]
    files: Annotated[tuple[HubFile, ...], Field(min_length=2)]
    sha256: str = ""

    def digest(self) -> str:
        """The sha256 of all other fields."""
        return sha256_of(self.model_dump(mode="json", exclude={"sha256"}))


def check(folder: Path) -> ModelManifest:
    """As :func:`check_files` and :func:`check_versions`."""
    manifest = check_files(folder)
    check_versions(manifest, f"model folder {folder.name}")
    return manifest


def check_versions(manifest: ModelManifest, asked: str) -> None:
    """Insist that what was quantised was quantised by the version of bitsandbytes that is here, else a StudyError."""
    made_by, here = manifest.versions.get("bitsandbytes", "none"), metadata.version("bitsandbytes")
    if "bitsandbytes" in manifest.precision.libraries and made_by.split(".")[:2] != here.split(".")[:2]:
        remedy = f"install bitsandbytes {made_by}, or {REMEDY}"
        raise StudyError(asked, f"quantised by bitsandbytes {made_by}, here is {here}", remedy)


def check_files(folder: Path) -> ModelManifest:
    """Read ``folder``'s manifest and hold every file against it.

    Raises:
        StudyError: there is none, it is cut, altered or of another schema, a file is not the one it names, or there
            is a pickle.
    """
    asked = f"model folder {folder.name}"
    if pickled := sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in PICKLES):
        raise StudyError(asked, f"{pickled[0]} is a pickle, which may run anything when it is read", "remove it")
    manifest = files.load(folder / NAME, ModelManifest, REMEDY)
    if manifest.digest() != manifest.sha256:
        raise StudyError(f"{asked}: {NAME}", "its fields do not have the sha256 that it states (altered?)", REMEDY)
    names = {file.name for file in manifest.files}
    if not {CONFIG, TENSORS} <= names or any(Path(name).name != name for name in names):
        raise StudyError(f"{asked}: {NAME}", f"it lists {', '.join(sorted(names))}", REMEDY)
    for file in manifest.files:
        if fault := file.fault_in(folder):
            raise StudyError(f"{asked}: {file.name}", fault, REMEDY)
    return manifest


def push_folder(folder: Path, repo_id: str, *, public: bool = False) -> str:
    """Upload an exported folder as one commit to "owner/name", which is made if need be; the commit's 40 hex digits.

    Raises:
        StudyError: the folder is not whole, the store can't be reached, or it refuses.
    """
    manifest = check(folder)
    names = [NAME, *(file.name for file in manifest.files)]
    message = f"{manifest.precision.method} for {manifest.device}: {manifest.source}"
    return hub.push(f"push to {repo_id}", folder, repo_id, names, message, public=public)


def pull_folder(repo_id: str, revision: str, folder: Path) -> ModelManifest:
    """Fetch an exported folder at ``revision`` (40 hex digits) as a new ``folder``, whole or not at all.

    Raises:
        StudyError: the revision is not pinned, there is no such one, the folder is there already, the store can't be
            reached, what arrived is not what was exported, or another version of bitsandbytes quantised it: then the
            cache keeps what arrived.
    """
    asked = f"pull of {repo_id}@{revision[:12]}"
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise StudyError(asked, "not a pinned revision", "give the 40 hex digits that `visionquant push` said")
    if folder.exists():
        raise StudyError(f"pull to {folder.name}", "there is something already", "name a new folder, or remove it")
    names = (NAME, CONFIG, TENSORS, PREPROCESSOR)  # the manifest says which of them should be there
    arrived: dict[str, Path] = {}
    for name in names:
        with suppress(hub.NoSuchFile):
            arrived[name] = hub.fetch(asked, repo_id, revision, name)
    with files.new_folder(folder, f"pull to {folder.name}") as partial:
        for name, path in arrived.items():
            shutil.copyfile(path, partial / name)
        try:
            manifest = check_files(partial)
        except StudyError as error:
            # What is wrong stays out of the cache, so that the next pull fetches it again.
            for path in arrived.values():
                hub.discard(path)
            raise StudyError(asked, str(error).partition("; ")[0], "pull it again, or push it anew") from None
        check_versions(manifest, asked)
    return manifest
