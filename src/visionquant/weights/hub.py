"""Which weights a model has: fetched from the hub at a pinned revision, read from a folder, or seeded.

The download stage writes a manifest, a small file of names, sizes and hashes; the files themselves stay in the hub's
own cache (``HF_HOME``, ``HF_HUB_CACHE``). A dropped connection is taken up where it broke off. Whoever uses the files
goes through :func:`resolve`, which checks every byte again. Nothing here imports torch.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.record import sha256_of
from visionquant.settings.params import ModelSpec, Params
from visionquant.weights import architectures, hub_cache, sources
from visionquant.weights.manifest import HubFile, Manifest

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

CONNECT_S = 5.0
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # where a model has a tokenizer as well; it goes before the other
# Weight files in order of preference; the index names the shards.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class Unreachable(Exception):
    """No connection to the hub, and the cache does not hold the whole checkpoint."""


def download(project: Project, params: Params, model: str) -> Manifest:
    """Make the weights of ``model`` available as ``study.weights`` asks, and write its manifest.

    Raises:
        StudyError: the repository, revision or a file does not exist, a hash is wrong, a download was cut, the disk is
            full, or pretrained weights are demanded and the hub can't be reached.
    """
    spec, wanted = params.models[model], params.study.weights
    if wanted == "seeded":
        manifest = _seeded(project, model, "study.weights: seeded")
    elif spec.path is not None:
        manifest = _from_folder(project, model, spec.path)
    else:
        try:
            manifest = _from_hub(model, spec)
        except Unreachable as error:
            if wanted == "pretrained":
                raise StudyError(
                    f"weights of {model}",
                    f"study.weights is pretrained and {error}",
                    "connect, fill the cache elsewhere, or set study.weights: auto or seeded",
                ) from None
            manifest = _seeded(project, model, str(error))
    manifest.save(project.manifest(model))
    return manifest


def resolve(project: Project, manifest: Manifest) -> Path:
    """The folder with the files of a pretrained model, after every size and sha256 was checked.

    Raises:
        StudyError: a file is missing, cut or altered, or a local folder has one more.
    """
    folder = sources.folder(project, manifest)
    lost = {file.name: hub_cache.MISSING for file in manifest.files if not (folder / file.name).is_file()}
    sources.refuse(manifest, lost | sources.altered(project, manifest))
    return folder


def manifest_of(project: Project, params: Params, model: str) -> Manifest:
    """The manifest of ``model``'s row, after every byte that it names was checked.

    Raises:
        StudyError: it is missing, broken or of another source, or a file of a pretrained model is not the one it names.
    """
    manifest = Manifest.load(project.manifest(model), params.models[model].source)
    if manifest.weights == "pretrained":
        resolve(project, manifest)
    return manifest


def _seeded(project: Project, model: str, reason: str) -> Manifest:
    config = architectures.config(project, model)
    if config is None:
        raise StudyError(
            f"weights of {model}",
            f"{reason}, and there is no data/architectures/{model}/config.json to seed",
            "connect to the hub, or commit the model's config.json there",
        )
    return Manifest(
        model=model,
        weights="seeded",
        source=f"seeded from data/architectures/{model}",
        config_sha256=sha256_of([config, architectures.preprocessing(project, model)]),
        reason=reason,
    )


def _from_folder(project: Project, model: str, path: str) -> Manifest:
    folder = project.root / path
    if not folder.is_dir():
        raise StudyError(f"params.yaml: models.{model}.path", f"no folder {path}", "correct the path")
    present = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
    _choose(model, present, lambda name: (folder / name).read_text(encoding="utf-8"), pickles=False)
    names = sources.local_files(folder)
    files = tuple(HubFile(name=name, bytes=present[name], sha256=hub_cache.sha256(folder / name)) for name in names)
    return _manifest(model, files, f"local folder {path}", path=path)


def _from_hub(model: str, spec: ModelSpec) -> Manifest:
    """Fetch what is lacking; without a connection, what the cache holds if that is all."""
    assert spec.repo_id is not None
    assert spec.revision is not None
    try:
        files = _fetch(model, spec)
    except Unreachable:
        cached = _cached(model, spec)
        if cached is None:
            raise
        files = cached
    source = f"{spec.repo_id}@{spec.revision[:12]}"
    return _manifest(model, files, source, repo_id=spec.repo_id, revision=spec.revision)


def _manifest(model: str, files: tuple[HubFile, ...], source: str, **where: Any) -> Manifest:
    config = next(file.sha256 for file in files if file.name == CONFIG)
    return Manifest(model=model, weights="pretrained", source=source, files=files, config_sha256=config, **where)


def _choose(model: str, present: Mapping[str, int | None], read: Any, pickles: bool) -> list[str]:
    """Names of the files to use: config, preprocessing, and the weights, safetensors first.

    Args:
        read: gives the text of a small file by name.
        pickles: whether ``.bin`` files will do (they are loaded weights-only, from pinned revisions alone).

    Raises:
        StudyError: config or weights are missing.
    """
    if CONFIG not in present:
        raise StudyError(f"weights of {model}", f"no {CONFIG} among its files", "name a model in the hub's layout")
    names = [CONFIG, *(name for name in (PREPROCESSOR, PROCESSOR) if name in present)]
    for single, index in (SAFETENSORS, PICKLES) if pickles else (SAFETENSORS,):
        if single in present:
            return [*names, single]
        if index in present:
            try:
                shards = sorted(set(json.loads(read(index))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError):
                raise StudyError(f"weights of {model}", f"{index} is broken", "name a complete checkpoint") from None
            absent = [name for name in shards if name not in present]
            if absent:
                raise StudyError(f"weights of {model}", f"{absent[0]} is missing", "name a complete checkpoint")
            return [*names, index, *shards]
    only = " (only a pickle, which a folder without a pinned revision may not bring)" if PICKLES[0] in present else ""
    raise StudyError(f"weights of {model}", f"no model.safetensors among its files{only}", "convert it to safetensors")


def _cached(model: str, spec: ModelSpec) -> tuple[HubFile, ...] | None:
    """What the cache holds of the pinned revision, if that is a whole checkpoint with right hashes."""
    folder = hub_cache.folder(spec.repo_id or "", spec.revision or "")
    if not folder.is_dir():
        return None
    present = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
    try:
        names = _choose(model, present, lambda name: (folder / name).read_text(encoding="utf-8"), pickles=True)
    except StudyError:
        return None
    files = []
    for name in names:
        # A blob of the cache is called by its hash: sha256 of a large file, git's own sha1 of a small one. A plain copy
        # of a cache has no blobs, and nothing to hold its files against.
        path = folder / name
        if path.is_symlink() and not hub_cache.matches_etag(path, path.resolve().name):
            return None
        files.append(HubFile(name=name, bytes=present[name], sha256=hub_cache.sha256(folder / name)))
    return tuple(files)


def _fetch(model: str, spec: ModelSpec) -> tuple[HubFile, ...]:
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    repo_id, revision = spec.repo_id or "", spec.revision or ""
    asked = f"weights of {model}: {repo_id}@{revision[:12]}"
    listed = _listing(asked, repo_id, revision)

    def get(name: str) -> Path:
        try:
            return Path(
                hf_hub_download(repo_id, name, revision=revision, endpoint=_endpoint(), cache_dir=hub_cache.root())
            )
        except errors.EntryNotFoundError:
            raise StudyError(asked, f"{name} is listed but not there", "name another revision") from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            raise StudyError(asked, f"{name}: the hub answered {status}", "run the same command again") from None
        except (_transport_error(), OSError, RuntimeError, ValueError) as error:
            why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
            raise StudyError(
                asked, f"the download of {name} broke off: {why}", "run the same command again, finished files are kept"
            ) from None

    sizes = {name: sibling.size for name, sibling in listed.items()}
    names = _choose(model, sizes, lambda name: get(name).read_text(encoding="utf-8"), pickles=True)
    folder = hub_cache.folder(repo_id, revision)
    needed = sum(sizes[name] or 0 for name in names if not (folder / name).exists())
    _require_space(asked, needed)
    return tuple(_verified(asked, name, listed[name], get) for name in names)


def _listing(asked: str, repo_id: str, revision: str) -> dict[str, "RepoSibling"]:
    """Files of the repository at ``revision`` by name, with sizes and hashes."""
    from huggingface_hub import HfApi, errors

    endpoint = _endpoint()
    if endpoint in _unreachable or _offline():
        raise Unreachable("the hub could not be reached")
    try:
        info = HfApi(endpoint=endpoint).model_info(repo_id, revision=revision, files_metadata=True, timeout=CONNECT_S)
    except errors.OfflineModeIsEnabled:
        raise Unreachable("the hub could not be reached") from None
    except errors.GatedRepoError:
        raise StudyError(asked, "gated", "accept its terms on the hub and log in with `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise StudyError(asked, "no such revision", "correct `revision` in params.yaml") from None
    except errors.RepositoryNotFoundError:
        raise StudyError(
            asked, "no such repository, or a private one", "correct `repo_id` in params.yaml, or `hf auth login`"
        ) from None
    except errors.HfHubHTTPError as error:
        raise StudyError(
            asked, f"the hub answered {error.response.status_code}", "run the same command again later"
        ) from None
    except (_transport_error(), OSError):
        _unreachable.add(endpoint)
        raise Unreachable("the hub could not be reached") from None
    if info.sha != revision:
        raise StudyError(asked, f"the hub answered with revision {info.sha}", "pin 40 hex digits in params.yaml")
    return {sibling.rfilename: sibling for sibling in info.siblings or []}


_unreachable: set[str] = set()


def _transport_error() -> type[Exception]:
    """The root of the HTTP library's errors, whichever library this version of huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    root: type[Exception] = HfHubHTTPError.__bases__[0]
    return root


def _verified(asked: str, name: str, listed: "RepoSibling", get: Any) -> HubFile:
    """Fetch a file and compare it with what the hub said of it; a wrong one is thrown away and fetched once more."""
    expected = listed.lfs.sha256 if listed.lfs else listed.blob_id
    for _ in range(2):
        path = get(name)
        if expected is None or hub_cache.matches_etag(path, expected):
            return HubFile(name=name, bytes=path.stat().st_size, sha256=hub_cache.sha256(path))
        hub_cache.discard(path)
    raise StudyError(
        asked,
        f"{name} has another hash than the hub announced ({expected})",
        "run again later, or pin another revision",
    )


def _require_space(asked: str, needed: int) -> None:
    folder = hub_cache.root()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StudyError(
            asked,
            f"{needed / 1e6:.0f} MB to download, {free / 1e6:.0f} MB free for the cache {hub_cache.root()}",
            "free space, or set HF_HOME to a larger disk",
        )


def _endpoint() -> str:
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
