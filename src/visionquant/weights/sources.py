"""The files behind a model's weights: where they are, and whether they still are those that its manifest names.

Whoever uses the files goes through :func:`resolve`, which checks every byte again.
"""

from pathlib import Path

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.record import sha256_of
from visionquant.settings.params import Params
from visionquant.weights import hub_cache
from visionquant.weights.manifest import Manifest

AS_DOWNLOADED = "as downloaded"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # where a model has a tokenizer as well; it goes before the other


def resolve(project: Project, manifest: Manifest) -> Path:
    """The folder with the files of a pretrained model, after every size and sha256 was checked.

    Raises:
        StudyError: a file is missing, cut or altered, or a local folder has one more.
    """
    place = folder_of(project, manifest)
    _refuse(manifest, _wrong(project, manifest))
    return place


def manifest_of(project: Project, params: Params, model: str) -> Manifest:
    """The manifest of ``model``'s row, after every byte that it names was checked.

    Raises:
        StudyError: it is missing, broken or of another source, or a file of a pretrained model is not the one it names.
    """
    manifest = Manifest.load(project.manifest(model), params.models[model].source)
    if manifest.weights == "pretrained":
        resolve(project, manifest)
    return manifest


def sources(project: Project, params: Params) -> dict[str, str]:
    """What lies behind each model of the study now: of a local folder the digest of its files, else "as downloaded".

    What the hub's cache does not hold, yet or any more, is no fault: what was measured with it stays so.

    Raises:
        StudyError: a file in the hub's cache is not the one that was downloaded.
    """
    return {model: _source(project, params, model) for model in params.study.models}


def _source(project: Project, params: Params, model: str) -> str:
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
    wrong = _wrong(project, manifest)
    return {name: why for name, why in wrong.items() if why != hub_cache.MISSING or manifest.path is not None}


def _wrong(project: Project, manifest: Manifest) -> dict[str, str]:
    place = folder_of(project, manifest)
    wrong = {file.name: hub_cache.why_wrong(place / file.name, file.bytes, file.sha256) for file in manifest.files}
    beside = local_files(place) if manifest.path is not None else []
    wrong |= {name: "not in its manifest" for name in beside if name not in wrong}
    return {name: why for name, why in wrong.items() if why}


def _refuse(manifest: Manifest, wrong: dict[str, str]) -> None:
    for name, why in wrong.items():
        raise StudyError(f"{manifest.model}: {name}", why, f"run `visionquant download --model {manifest.model}`")


def local_files(place: Path) -> list[str]:
    """The files of a model's folder that whoever loads it may read: configuration and weights, by name."""
    present = place.iterdir() if place.is_dir() else ()
    kinds = (".json", ".safetensors")
    return sorted(path.name for path in present if path.is_file() and path.suffix in kinds and path.name[0] != ".")


def folder_of(project: Project, manifest: Manifest) -> Path:
    """Where the files of a pretrained model lie, if they do."""
    if manifest.path is None:
        return hub_cache.folder(manifest.repo_id or "", manifest.revision or "")
    return project.root / manifest.path
