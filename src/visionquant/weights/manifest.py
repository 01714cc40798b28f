"""What the download stage found: which weights a model has, and which files they are in."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from visionquant.core.errors import StudyError
from visionquant.core.paths import write_atomically
from visionquant.records.record import sha256_of


class HubFile(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Which weights a model has. ``reason`` says why they are seeded; ``config_sha256`` is that of the architecture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    def save(self, path: Path) -> None:
        """Write the manifest, whole or not at all."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path, source: tuple[str | None, str | None, str | None]) -> "Manifest":
        """Read a manifest that was made for ``source``: repository, revision and path of the model's row.

        Raises:
            StudyError: it is missing, broken, or the row names another source since.
        """
        remedy = f"run `visionquant download --model {path.stem}`"
        try:
            found = cls.model_validate(json.loads(path.read_bytes()))
            if found.weights == "pretrained" and (found.repo_id, found.revision, found.path) != source:
                raise StudyError(f"data/models/{path.name}", f"holds {found.source}, the row names another", remedy)
            return found
        except FileNotFoundError:
            raise StudyError(f"data/models/{path.name}", "there is none", remedy) from None
        except (OSError, ValidationError, ValueError):
            raise StudyError(f"data/models/{path.name}", "broken", remedy) from None
