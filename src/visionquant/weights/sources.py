"""Are the files behind a model's weights still those that its manifest names? Read only; a byte is enough to tell."""

from pathlib import Path

from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.record import sha256_of
from visionquant.settings.params import Params
from visionquant.weights import hub_cache
from visionquant.weights.manifest import Manifest

AS_DOWNLOADED = "as downloaded"


def sources(project: Project, params: Params) -> dict[str, str]:
    """What lies behind each model of the study now: of a local folder the digest of its files, else "as downloaded".

    What the hub's cache does not hold, yet or any more, is no fault: what was measured with it stays so.

    Raises:
        StudyError: a file in the hub's cache is not the one that was downloaded.
    """
    return {model: _source(project, params, model) for model in params.study.models}


def altered(project: Project, manifest: Manifest) -> dict[str, str]:
    """What is wrong with the files of a pretrained model, by name; one that the hub's cache has lost is not."""
    place = folder(project, manifest)
    wrong = {file.name: hub_cache.why_wrong(place / file.name, file.bytes, file.sha256) for file in manifest.files}
    if manifest.path is not None:
        named = {file.name for file in manifest.files}
        wrong |= {name: "not in its manifest" for name in local_files(place) if name not in named}
    return {name: why for name, why in wrong.items() if why and (why != hub_cache.MISSING or manifest.path is not None)}


def refuse(manifest: Manifest, wrong: dict[str, str]) -> None:
    """Name the first of the files that are wrong, if any.

    Raises:
        StudyError: there is one.
    """
    for name, found in wrong.items():
        raise StudyError(f"{manifest.model}: {name}", found, f"run `visionquant download --model {manifest.model}`")


def _source(project: Project, params: Params, model: str) -> str:
    spec = params.models[model]
    if spec.path is not None:
        place = project.root / spec.path
        return sha256_of([(name, hub_cache.sha256(place / name)) for name in local_files(place)])
    try:
        manifest = Manifest.load(project.manifest(model), spec.source)
    except StudyError:
        return AS_DOWNLOADED  # the download stage makes it anew
    refuse(manifest, altered(project, manifest))
    return AS_DOWNLOADED


def local_files(place: Path) -> list[str]:
    """The files of a model's folder that whoever loads it may read: configuration and weights, by name."""
    if not place.is_dir():
        return []
    files = (one for one in place.iterdir() if one.is_file() and not one.name.startswith("."))
    return sorted(one.name for one in files if one.suffix in (".json", ".safetensors"))


def folder(project: Project, manifest: Manifest) -> Path:
    """Where the files of a pretrained model lie, if they do."""
    if manifest.path is None:
        return hub_cache.folder(manifest.repo_id or "", manifest.revision or "")
    return project.root / manifest.path
