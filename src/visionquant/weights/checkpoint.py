"""Which weights a model has: fetched from the hub at a pinned revision, read from a folder or a wheel, or seeded.

The download stage writes a manifest, a small file of names, sizes and hashes; the files themselves stay in the hub's
own cache (``HF_HOME``, ``HF_HUB_CACHE``).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.record import sha256_of
from visionquant.settings.params import ModelSpec, Params
from visionquant.weights import architectures, hub, package
from visionquant.weights.package import Compare
from visionquant.weights.sources import CONFIG, PREPROCESSOR, PROCESSOR, HubFile, Manifest, local_files

# Weight files in order of preference; the index names the shards.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def download(project: Project, params: Params, model: str, compare: Compare | None = None) -> Manifest:
    """Make the weights of ``model`` available as ``study.weights`` asks, and write its manifest.

    Those of a package that can't be had are missing, with the reason; they are seeded only where all are.

    Args:
        compare: holds packaged weights against the graph that they were read from.

    Raises:
        StudyError: the repository, revision or a file does not exist, a hash is wrong, a download was cut, the disk is
            full, or pretrained weights are demanded and can't be had.
    """
    spec, wanted = params.models[model], params.study.weights
    if wanted == "seeded":
        manifest = _seeded(project, model, "study.weights: seeded")
    elif spec.package is not None:
        try:
            manifest = package.fetch(project, model, spec.package, compare)
        except StudyError as error:
            if wanted == "pretrained":
                raise
            source = f"{spec.package}: {spec.package.file}"
            manifest = Manifest(model=model, weights="missing", source=source, config_sha256="", reason=str(error))
    elif spec.path is not None:
        folder = project.root / spec.path
        if not folder.is_dir():
            raise StudyError(f"params.yaml: models.{model}.path", f"no folder {spec.path}", "correct the path")
        _choose(model, _sizes(folder), folder.joinpath, pickles=False)
        manifest = _pretrained(model, spec, f"local folder {spec.path}", folder, local_files(folder))
    else:
        try:
            manifest = _from_hub(model, spec)
        except hub.Unreachable:
            if wanted == "pretrained":
                remedy = "connect, fill the cache elsewhere, or set study.weights: auto or seeded"
                why = f"study.weights is pretrained and {hub.UNREACHABLE}"
                raise StudyError(f"weights of {model}", why, remedy) from None
            manifest = _seeded(project, model, hub.UNREACHABLE)
    files.save(project.manifest(model), manifest, indent=1)
    return manifest


def _seeded(project: Project, model: str, reason: str) -> Manifest:
    config, folder = architectures.config(project, model), f"data/architectures/{model}"
    if config is None:
        remedy = "connect to the hub, or commit the model's config.json there"
        raise StudyError(f"weights of {model}", f"{reason}, and there is no {folder}/config.json to seed", remedy)
    digest = sha256_of([config, architectures.preprocessing(project, model)])
    return Manifest(model=model, weights="seeded", source=f"seeded from {folder}", config_sha256=digest, reason=reason)


def _pretrained(model: str, spec: ModelSpec, source: str, folder: Path, names: list[str]) -> Manifest:
    paths = {name: folder / name for name in names}
    return Manifest(
        model=model,
        weights="pretrained",
        source=source,
        repo_id=spec.repo_id,
        revision=spec.revision,
        path=spec.path,
        files=tuple(
            HubFile(name=name, bytes=path.stat().st_size, sha256=files.sha256(path)) for name, path in paths.items()
        ),
        config_sha256=files.sha256(paths[CONFIG]),
    )


def _from_hub(model: str, spec: ModelSpec) -> Manifest:
    """Fetch what is lacking; without a connection, what the cache holds if that is all."""
    repo_id, revision = spec.repo_id or "", spec.revision or ""
    folder = hub.folder(repo_id, revision)
    try:
        names = _fetched(model, repo_id, revision)
    except hub.Unreachable:
        names = _cached(model, folder)
        if not names:
            raise
    return _pretrained(model, spec, f"{repo_id}@{revision[:12]}", folder, names)


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def _choose(model: str, present: Mapping[str, int | None], fetch: Callable[[str], Path], pickles: bool) -> list[str]:
    """Names of the files to use: config, preprocessing, and the weights, safetensors first.

    Args:
        fetch: says where a small file is, by name.
        pickles: whether ``.bin`` files will do (they are loaded weights-only, from pinned revisions alone).

    Raises:
        StudyError: config or weights are missing.
    """
    asked, complete = f"weights of {model}", "name a complete checkpoint"
    if CONFIG not in present:
        raise StudyError(asked, f"no {CONFIG} among its files", "name a model in the hub's layout")
    names = [CONFIG, *(name for name in (PREPROCESSOR, PROCESSOR) if name in present)]
    for single, index in (SAFETENSORS, PICKLES) if pickles else (SAFETENSORS,):
        if single in present:
            return [*names, single]
        if index in present:
            try:
                shards = sorted(set(json.loads(fetch(index).read_bytes())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError):
                raise StudyError(asked, f"{index} is broken", complete) from None
            if absent := [name for name in shards if name not in present]:
                raise StudyError(asked, f"{absent[0]} is missing", complete)
            return [*names, index, *shards]
    only = " (only a pickle, which a folder without a pinned revision may not bring)" if PICKLES[0] in present else ""
    raise StudyError(asked, f"no model.safetensors among its files{only}", "convert it to safetensors")


def _cached(model: str, folder: Path) -> list[str]:
    """What the cache holds of the pinned revision, nothing unless that is a whole checkpoint with right hashes."""
    try:
        names = _choose(model, _sizes(folder), folder.joinpath, pickles=True)
    except (StudyError, OSError):
        return []
    return names if all(hub.is_blob(folder / name) for name in names) else []


def _fetched(model: str, repo_id: str, revision: str) -> list[str]:
    asked, folder = f"weights of {model}: {repo_id}@{revision[:12]}", hub.folder(repo_id, revision)
    fetch, listed = partial(hub.fetch, asked, repo_id, revision), hub.listing(asked, repo_id, revision)
    sizes = {name: sibling.size for name, sibling in listed.items()}
    names = _choose(model, sizes, fetch, pickles=True)
    _require_space(asked, sum(sizes[name] or 0 for name in names if not (folder / name).exists()))
    for name in names:
        large = listed[name].lfs
        announced = large.sha256 if large else listed[name].blob_id
        if not (_fetched_right(fetch, name, announced) or _fetched_right(fetch, name, announced)):
            wrong = f"{name} has another hash than the hub announced ({announced})"
            raise StudyError(asked, wrong, "run again later, or pin another revision")
    return names


def _fetched_right(fetch: Callable[[str], Path], name: str, announced: str | None) -> bool:
    """Fetch a file and compare it with what the hub said of it; a wrong one is thrown away."""
    path = fetch(name)
    right = announced is None or hub.matches_etag(path, announced)
    if not right:
        hub.discard(path)
    return right


def _require_space(asked: str, needed: int) -> None:
    root = hub.cache()
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    if free < needed:
        lack = f"{needed / 1e6:.0f} MB to download, {free / 1e6:.0f} MB free for the cache {root}"
        raise StudyError(asked, lack, "free space, or set HF_HOME to a larger disk")
