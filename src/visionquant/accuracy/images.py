"""Labelled images of the reader's own: a folder with a folder for each class, here or in a hub data set."""

import os
from dataclasses import dataclass
from pathlib import Path

from visionquant import cache
from visionquant.errors import StudyError
from visionquant.labelled import DataSet, EvaluationChoice
from visionquant.paths import Project

KINDS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
KEY = "params.yaml: evaluation.images"


@dataclass(frozen=True)
class Images:
    """``paths`` below ``root``; ``labels`` are numbers into ``classes``, the names of the folders."""

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def find(project: Project, choice: EvaluationChoice) -> Images:
    """The images that the settings name, fetched where they lie on the hub.

    Raises:
        StudyError: there is no such folder or data set, or no class with images in it.
    """
    assert choice.images is not None
    if isinstance(choice.images, DataSet):
        return read(_fetch(choice.images) / choice.images.folder, choice.most_images)
    return read(project.root / choice.images, choice.most_images)


def read(root: Path, most: int) -> Images:
    """Up to ``most`` images, evenly over the classes, in the order of their names.

    Raises:
        StudyError: there is no folder, or no class with images in it.
    """
    if not root.is_dir():
        raise StudyError(KEY, f"no folder {root}", "name a folder that holds a folder for each class")
    found = {
        folder.name: sorted(path for path in folder.rglob("*") if path.suffix.lower() in KINDS)
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        kinds = ", ".join(sorted(KINDS))
        raise StudyError(KEY, f"no class folder with images ({kinds}) in {root}", "lay it out as CLASS/IMAGE")
    if most < len(found):
        raise StudyError(
            "params.yaml: evaluation.most_images", f"{most} images of {len(found)} classes", "ask for one a class"
        )
    each, rest = divmod(most, len(found))
    chosen = [
        (number, path)
        for number, paths in enumerate(found.values())
        for path in paths[: each + (number < rest)]
    ]  # fmt: skip
    if len(chosen) < 2:
        raise StudyError(KEY, "a single image", "give two or more, each is compared with the others")
    paths = tuple(path.relative_to(root).as_posix() for _, path in chosen)
    return Images(root, paths, tuple(number for number, _ in chosen), tuple(found))


def _fetch(asked: DataSet) -> Path:
    from huggingface_hub import errors, snapshot_download

    transport: type[Exception] = errors.HfHubHTTPError.__bases__[0]  # whichever HTTP library the client uses
    named = f"{KEY}: {asked.repo_id}@{asked.revision[:12]}"
    pattern = f"{asked.folder.strip('/')}/*" if asked.folder else None
    try:
        folder = Path(
            snapshot_download(
                asked.repo_id,
                repo_type="dataset",
                revision=asked.revision,
                allow_patterns=pattern,
                endpoint=os.environ.get("HF_ENDPOINT"),
                cache_dir=cache.root(),
            )
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise StudyError(named, f"not on the hub ({type(error).__name__})", "correct repo_id and revision") from None
    except (transport, errors.LocalEntryNotFoundError, OSError, ValueError, RuntimeError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise StudyError(named, f"could not be fetched: {first}", "connect and run again, or name a folder") from None
    for path in folder.rglob("*"):
        if path.is_symlink() and not cache.matches_etag(path, path.resolve().name):
            cache.discard(path)
            raise StudyError(named, f"{path.name} has another hash than the hub says", "run again to fetch it anew")
    return folder
