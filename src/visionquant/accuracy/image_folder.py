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
from visionquant.core.errors import StudyError
from visionquant.core.files import sha256
from visionquant.core.paths import Project
from visionquant.records.outcomes import counted
from visionquant.settings.sections import DataSet, EvaluationChoice
from visionquant.weights import hub

KINDS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FORMATS, PIXELS = ("JPEG", "PNG", "WEBP", "BMP"), 200_000_000
SYSTEM = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}
KEY = "params.yaml: evaluation.images"


@dataclass(frozen=True)
class ImageFolder:
    """``paths`` below ``root``; ``labels`` are numbers into ``classes``, the names of the folders.

    ``skipped`` counts by kind what else lies there; copies among the images that were looked at.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    skipped: dict[str, int]

    def picture(self, path: str) -> Image.Image:
        """One of ``paths``, upright and in RGB. Raises StudyError: it can't be read, with the reason."""
        try:
            return image_file.read((self.root / path).read_bytes(), FORMATS, PIXELS)
        except (image_file.Unreadable, OSError) as error:
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unreadable"
            raise StudyError(KEY, f"{path}: {why}", "remove or mend it") from None


def find_images(project: Project, choice: EvaluationChoice) -> ImageFolder:
    """The images that the settings name, fetched where they lie on the hub; see :func:`read_folder`."""
    source = choice.images
    assert source is not None
    if not isinstance(source, DataSet):
        return read_folder(project.root / source, choice.most_images)
    pattern = f"{source.folder.strip('/')}/*" if source.folder else None
    root = hub.snapshot(f"{KEY}: {source.repo_id}@{source.revision[:12]}", source.repo_id, source.revision, pattern)
    return read_folder(root / source.folder, choice.most_images)


def read_folder(root: Path, most: int) -> ImageFolder:
    """Up to ``most`` images, evenly over the classes, in the order of their names."""
    if not root.is_dir():
        raise StudyError(KEY, f"no folder {root}", "name a folder that holds a folder for each class")
    skipped: Counter[str] = Counter()
    try:
        entries = sorted(root.iterdir())
        visible = [path for path in entries if not _hidden(path.name)]
        classes = {path.name: _images_below(path, skipped) for path in visible if path.is_dir()}
    except OSError as error:
        raise StudyError(KEY, f"{error.filename}: {error.strerror}", "make it readable") from None
    skipped["hidden"] += len(entries) - len(visible)
    skipped["outside a class folder"] += len(visible) - len(classes)
    skipped["folders without images"] += sum(not paths for paths in classes.values())
    classes = {name: paths for name, paths in classes.items() if paths}
    if not classes:
        beside = f" beside {counted(skipped)}" if skipped.total() else ""
        what = f"no class folder with images ({', '.join(sorted(KINDS))}) in {root}{beside}"
        raise StudyError(KEY, what, "lay it out as CLASS/IMAGE")
    if most < len(classes):
        asked, what = "params.yaml: evaluation.most_images", f"{most} images of {len(classes)} classes"
        raise StudyError(asked, what, "ask for one a class")
    chosen = _evenly(list(classes.values()), most, skipped)
    if len(chosen) < 2:
        raise StudyError(KEY, "a single image", "give two or more, each is compared with the others")
    labels, files = zip(*chosen, strict=True)
    paths = tuple(path.relative_to(root).as_posix() for path in files)
    for path in paths:
        if path.encode(errors="replace").decode() != path:  # no text file could hold it
            raise StudyError(KEY, f"the name {path!a} is no UTF-8", "rename it")
    return ImageFolder(root, paths, labels, tuple(classes), dict(sorted((+skipped).items())))


def _images_below(folder: Path, skipped: Counter[str]) -> list[Path]:
    """The images of a class by their paths; a link to a folder is not followed, for it may lead back."""

    def refuse(error: OSError) -> None:
        raise error

    images = []
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
                images.append(path)
    return sorted(images)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def _evenly(classes: list[list[Path]], most: int, skipped: Counter[str]) -> list[tuple[int, Path]]:
    """(label, image) of up to ``most``, evenly over the classes, none with the bytes of one before."""
    each, rest = divmod(most, len(classes))
    label_of: dict[str, int] = {}
    chosen: list[tuple[int, Path]] = []
    for label, paths in enumerate(classes):
        wanted = len(chosen) + each + (label < rest)
        for path in paths:
            if len(chosen) == wanted:
                break
            digest = sha256(path)
            if digest in label_of:
                skipped["copies" if label_of[digest] == label else "copies from another class"] += 1
            else:
                label_of[digest] = label
                chosen.append((label, path))
    return chosen
