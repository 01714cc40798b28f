"""Which weights a model has, which files they are in, and whether these still are what the download stage found.

Whoever uses the files goes through :func:`resolve`, which checks every byte again.
"""

import os
from pathlib import Path
from typing import Literal

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Frozen
from visionquant.core.paths import Project
from visionquant.records.record import WeightsKind, sha256_of
from visionquant.settings.params import Package, Params
from visionquant.weights import hub

AS_DOWNLOADED, MISSING = "as downloaded", "missing"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # where a model has a tokenizer as well; it goes before the other


class HubFile(Frozen):
    """One file of a checkpoint."""

    name: str
    bytes: int
    sha256: str

    def fault_in(self, folder: Path) -> str:
        """What is wrong with the file of this name in ``folder``; empty for the right one."""
        path = folder / self.name
        if not path.is_file():
            return MISSING
        if (size := path.stat().st_size) != self.bytes:
            return f"has {size} bytes, {self.bytes} expected (cut short?)"
        return "" if files.sha256(path) == self.sha256 else "has another sha256 than its manifest (altered?)"


class Provenance(Frozen):
    """Where packaged weights are from: the wheel, the sha256 of the file in it, and the licence that it states.

    ``agreement`` says how near the network is to the graph that the weights were read from, ``note`` what is not known.
    """

    package: Package
    file_sha256: str
    licence: str
    agreement: str
    note: str


class Manifest(Frozen):
    """Which weights a model has. ``reason`` says why they are seeded or missing.

    ``config_sha256`` is that of the architecture; ``provenance`` is of packaged weights alone.
    """

    schema_version: Literal[1] = 1
    model: str
    weights: WeightsKind
    source: str
    repo_id: str | None = None
    revision: str | None = None
    path: str | None = None
    files: tuple[HubFile, ...] = ()
    config_sha256: str
    provenance: Provenance | None = None
    reason: str = ""

    @property
    def has_files(self) -> bool:
        """Whether the weights are a trained network's, in files."""
        return bool(self.files)

    def sha256(self) -> str:
        """The digest of all that decides the weights."""
        without = {"reason", *(() if self.provenance else ("provenance",))}
        raw = self.model_dump(mode="json", exclude=without)
        raw.get("provenance", {}).pop("agreement", None)  # it is the processor's as well
        return sha256_of(raw)

    @classmethod
    def load(cls, path: Path, source: tuple[str | None, ...]) -> "Manifest":
        """Read a manifest that was made for ``source``, that of the model's row.

        Raises:
            StudyError: it is missing, broken, or the row names another source since.
        """
        remedy = f"run `visionquant download --model {path.stem}`"
        manifest = files.load(path, cls, remedy)
        made_for = manifest.repo_id, manifest.revision, manifest.path
        if manifest.has_files and (manifest.provenance.package.fields if manifest.provenance else made_for) != source:
            raise StudyError(files.shown(path), f"holds {manifest.source}, the row names another", remedy)
        return manifest


def resolve(project: Project, manifest: Manifest) -> Path:
    """The folder with the files of a pretrained model, after every size and sha256 was checked.

    Raises:
        StudyError: a file is missing, cut or altered, or a local folder has one more.
    """
    _refuse(manifest, _faults(project, manifest))
    return _folder(project, manifest)


def manifest_of(project: Project, params: Params, model: str) -> Manifest:
    """The manifest of ``model``'s row, after every byte that it names was checked.

    Raises:
        StudyError: it is missing, broken or of another source, or a file of a pretrained model is not the one it names.
    """
    manifest = Manifest.load(project.manifest(model), params.models[model].source)
    if manifest.has_files:
        resolve(project, manifest)
    return manifest


def sources(project: Project, params: Params) -> dict[str, str]:
    """Of each model of the study a digest of what decides its weights now: its row's source, study.weights, its files.

    What the hub's cache does not hold, yet or any more, is no fault: what was measured with it stays so.

    Raises:
        StudyError: a file in the hub's cache is not the one that was downloaded.
    """
    wanted = params.study.weights
    return {
        model: sha256_of([params.models[model].source, wanted, _files_of(project, params, model)])
        for model in params.study.models
    }


def _files_of(project: Project, params: Params, model: str) -> str:
    """Of a local folder the digest of its files, else "as downloaded"."""
    spec = params.models[model]
    if spec.path is not None:
        place = project.root / spec.path
        return sha256_of([(name, files.sha256(place / name)) for name in local_files(place)])
    try:
        manifest = Manifest.load(project.manifest(model), spec.source)
    except StudyError:
        return AS_DOWNLOADED  # the download stage makes it anew
    _refuse(manifest, altered(project, manifest))
    return AS_DOWNLOADED


def altered(project: Project, manifest: Manifest) -> dict[str, str]:
    """What is wrong with the files of a pretrained model, by name; one that the hub's cache has lost is not."""
    faults = _faults(project, manifest)
    return {name: why for name, why in faults.items() if why != MISSING or manifest.path is not None}


def _faults(project: Project, manifest: Manifest) -> dict[str, str]:
    place = _folder(project, manifest)
    faults = {file.name: file.fault_in(place) for file in manifest.files}
    beside = local_files(place) if manifest.path is not None else []
    faults |= {name: "not in its manifest" for name in beside if name not in faults}
    return {name: why for name, why in faults.items() if why}


def _refuse(manifest: Manifest, faults: dict[str, str]) -> None:
    for name, why in faults.items():
        raise StudyError(f"{manifest.model}: {name}", why, f"run `visionquant download --model {manifest.model}`")


def _folder(project: Project, manifest: Manifest) -> Path:
    if manifest.provenance is not None:
        return unpacked(manifest.provenance.package, manifest.config_sha256)
    if manifest.path is None:
        return hub.folder(manifest.repo_id or "", manifest.revision or "")
    return project.root / manifest.path


def unpacked(package: Package, config_sha256: str) -> Path:
    """Where what was read from a wheel lies in this user's cache (``XDG_CACHE_HOME``), for one architecture."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "visionquant" / f"{package.name}-{package.version}-{sha256_of([package.fields, config_sha256])[:12]}"


def local_files(place: Path) -> list[str]:
    """The files of a model's folder that whoever loads it may read: configuration and weights, by name."""
    present = place.glob("[!.]*")
    return sorted(path.name for path in present if path.is_file() and path.suffix in (".json", ".safetensors"))
