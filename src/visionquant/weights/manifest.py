"""What the download stage found: which weights a model has, and which files they are in."""

from pathlib import Path
from typing import Literal

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Frozen
from visionquant.records.record import sha256_of


class HubFile(Frozen):
    """One file of a checkpoint."""

    name: str
    bytes: int
    sha256: str


class Manifest(Frozen):
    """Which weights a model has. ``reason`` says why they are seeded; ``config_sha256`` is that of the architecture."""

    schema_version: Literal[1] = 1
    model: str
    weights: Literal["pretrained", "seeded"]
    source: str
    repo_id: str | None = None
    revision: str | None = None
    path: str | None = None
    files: tuple[HubFile, ...] = ()
    config_sha256: str
    reason: str = ""

    def sha256(self) -> str:
        """The digest of all that decides the weights."""
        return sha256_of(self.model_dump(mode="json", exclude={"reason"}))

    @classmethod
    def load(cls, path: Path, source: tuple[str | None, str | None, str | None]) -> "Manifest":
        """Read a manifest that was made for ``source``: repository, revision and path of the model's row.

        Raises:
            StudyError: it is missing, broken, or the row names another source since.
        """
        remedy = f"run `visionquant download --model {path.stem}`"
        manifest = files.load(path, cls, remedy)
        if manifest.weights == "pretrained" and (manifest.repo_id, manifest.revision, manifest.path) != source:
            raise StudyError(files.shown(path), f"holds {manifest.source}, the row names another", remedy)
        return manifest
