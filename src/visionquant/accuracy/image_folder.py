"""Labelled images of the reader's own: a folder with a folder for each class, here or in a hub data set.

What systems and editors leave beside images is passed over, and so is a file with the bytes of one already chosen: its
nearest neighbour would be itself. Everything that is passed over is counted.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visionquant.bench import image_file
from visionquant.bench.image_file import Unreadable
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.labelled import counted
from visionquant.settings.labelled_images import DataSet, EvaluationChoice
from visionquant.weights import hub_cache

KINDS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
PIXELS = 200_000_000
SYSTEM = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}
KEY = "params.yaml: evaluation.images"


@dataclass(frozen=True)
class Images:
    """``paths`` below ``root``; ``labels`` are numbers into ``classes``, the names of the folders.

    ``skipped`` counts by kind what else lies there; copies among the images that were looked at.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    skipped: dict[str, int]

    def picture(self, path: str) -> Image.Image:
        """One of ``paths``, upright and in RGB.

        Raises:
            StudyError: it can't be read, with the reason.
        """
        try:
            return image_file.read((self.root / path).read_bytes(), FORMATS, PIXELS)
        except Unreadable as error:
            raise StudyError(KEY, f"{path}: {error.reason}", "remove or mend it") from None
        except OSError as error:
            raise StudyError(KEY, f"{path}: {error.strerror or 'unreadable'}", "remove or mend it") from None


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
    skipped: Counter[str] = Counter()
    try:
        found = {folder.name: _within(folder, skipped) for folder in _classes(root, skipped)}
    except OSError as error:
        raise StudyError(KEY, f"{error.filename}: {error.strerror}", "make it readable") from None
    skipped["folders without images"] += sum(not paths for paths in found.values())
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        kinds = ", ".join(sorted(KINDS))
        beside = f" beside {counted(skipped)}" if skipped.total() else ""
        raise StudyError(KEY, f"no class folder with images ({kinds}) in {root}{beside}", "lay it out as CLASS/IMAGE")
    if most < len(found):
        raise StudyError(
            "params.yaml: evaluation.most_images", f"{most} images of {len(found)} classes", "ask for one a class"
        )
    chosen = _chosen(list(found.values()), most, skipped)
    if len(chosen) < 2:
        raise StudyError(KEY, "a single image", "give two or more, each is compared with the others")
    paths = tuple(path.relative_to(root).as_posix() for _, path in chosen)
    for path in paths:
        if path.encode(errors="replace").decode() != path:  # no text file could hold it
            raise StudyError(KEY, f"the name {path!a} is no UTF-8", "rename it")
    return Images(root, paths, tuple(number for number, _ in chosen), tuple(found), dict(sorted((+skipped).items())))


def _classes(root: Path, skipped: Counter[str]) -> list[Path]:
    found = [path for path in sorted(root.iterdir()) if not _hidden(path.name)]
    folders = [path for path in found if path.is_dir()]
    skipped["hidden"] += len(list(root.iterdir())) - len(found)
    skipped["outside a class folder"] += len(found) - len(folders)
    return folders


def _within(folder: Path, skipped: Counter[str]) -> list[Path]:
    """The images of a class by their paths; a link to a folder is not followed, for it may lead back."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        skipped["hidden"] += sum(map(_hidden, [*folders, *files]))
        folders[:] = [name for name in folders if not _hidden(name)]
        skipped["links to folders"] += sum(Path(place, name).is_symlink() for name in folders)
        for path in (Path(place, name) for name in files if not _hidden(name)):
            if path.suffix.lower() not in KINDS:
                skipped[path.suffix.lower() or "without a suffix"] += 1
            elif not path.is_file():
                skipped["dead links or no files"] += 1
            else:
                found.append(path)
    return sorted(found)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def _chosen(classes: list[list[Path]], most: int, skipped: Counter[str]) -> list[tuple[int, Path]]:
    """(class, image) of up to ``most``, evenly over the classes, none with the bytes of one before."""
    each, rest = divmod(most, len(classes))
    seen: dict[str, int] = {}
    chosen: list[tuple[int, Path]] = []
    for number, paths in enumerate(classes):
        wanted = len(chosen) + each + (number < rest)
        for path in paths:
            if len(chosen) == wanted:
                break
            digest = hub_cache.sha256(path)
            if digest in seen:
                skipped["copies" if seen[digest] == number else "copies from another class"] += 1
            else:
                seen[digest] = number
                chosen.append((number, path))
    return chosen


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
                cache_dir=hub_cache.root(),
            )
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise StudyError(named, f"not on the hub ({type(error).__name__})", "correct repo_id and revision") from None
    except (transport, errors.LocalEntryNotFoundError, OSError, ValueError, RuntimeError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise StudyError(named, f"could not be fetched: {first}", "connect and run again, or name a folder") from None
    for path in folder.rglob("*"):
        if path.is_symlink() and not hub_cache.matches_etag(path, path.resolve().name):
            hub_cache.discard(path)
            raise StudyError(named, f"{path.name} has another hash than the hub says", "run again to fetch it anew")
    return folder
