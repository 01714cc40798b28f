"""Every path of the project, once."""

import contextlib
import glob
import itertools
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from visionquant.core.errors import StudyError

PACKAGE = Path(__file__).parent.parent
_RUN, _NUMBERS = uuid.uuid4().hex[:8], itertools.count()


@dataclass(frozen=True)
class Project:
    """A checkout of the study; all files are found from its root.

    ``side`` names a measurement beside the study's own ("aa/first"): everything that measuring writes has another
    place then, so that neither touches the other. ``results`` is that place for all that is measured, if not data/.
    """

    root: Path
    side: str = ""
    results: Path | None = None

    @classmethod
    def find(cls, start: Path | None = None) -> "Project":
        """The nearest folder at or above ``start`` (default: the working directory) with a ``params.yaml``.

        Raises:
            StudyError: there is none.
        """
        start = (start or Path.cwd()).resolve()
        for folder in (start, *start.parents):
            if (folder / "params.yaml").is_file():
                return cls(folder)
        raise StudyError("project", f"no params.yaml in {start} or above it", "change into a checkout of the study")

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def local(self) -> Path:
        """What is measured, and what measuring needs, on this machine."""
        return self.results or self.root / "data"

    @property
    def lock(self) -> Path:
        """Whoever holds it measures or writes records here."""
        return self.local / ".lock"

    @property
    def environment(self) -> Path:
        return self._state / "environment.json"

    @property
    def sources(self) -> Path:
        """What lies behind each model now, by digest."""
        return self.local / "sources.json"

    @property
    def _state(self) -> Path:
        return self.local / self.side

    @property
    def architectures(self) -> Path:
        return self.root / "data" / "architectures"

    @property
    def supplement(self) -> Path:
        return self.root / "data" / "supplement"

    @property
    def measured(self) -> Path:
        return self.local / "measured" / self.side

    @property
    def recorded(self) -> Path:
        return self.root / "data" / "recorded"

    @property
    def evaluated(self) -> Path:
        """Scores of the trained networks on this machine."""
        return self.local / "evaluated"

    @property
    def labelled(self) -> Path:
        """What models with pretrained weights answered to labelled images."""
        return self.local / "labelled.json"

    @property
    def accuracy(self) -> Path:
        """Scores that came with the repository, a folder a platform."""
        return self.root / "data" / "accuracy"

    @property
    def recipes(self) -> Path:
        """What the guide's recipes gave when they were run, a folder a platform."""
        return self.local / "recipes"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def tables(self) -> Path:
        return self.reports / "tables"

    @property
    def figures(self) -> Path:
        return self.reports / "figures"

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def executed(self) -> Path:
        return self.reports / "notebooks"

    def shown(self, path: Path) -> str:
        """A path as messages name it: from the root, where it lies below that."""
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()

    def manifest(self, model: str) -> Path:
        """Where the download stage says which weights ``model`` has."""
        return self._state / "models" / f"{model}.json"

    def reference(self, model: str) -> Path:
        """Where the FP32 features of ``model`` on the fidelity images lie."""
        return self._state / "references" / f"{model}.npz"

    def weights(self, network: str, fold: int) -> Path:
        """The weights of a network that was trained on all folds but one."""
        return self.local / "trained" / network / f"fold{fold}.safetensors"

    def record(self, model: str, precision: str) -> Path:
        """The record of a finished pair."""
        return self.measured / f"{model}-{precision}.json"

    def progress(self, model: str, precision: str) -> Path:
        """The cells of a pair that is under way; gone once the pair is finished."""
        return self._state / "progress" / f"{model}-{precision}.json"

    def failure(self, name: str) -> Path:
        """The traceback of what failed unexpectedly: a pair (MODEL-PRECISION), or the reference of a model (MODEL)."""
        return self._state / "failures" / f"{name}.log"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` beside ``path``, then move it there: a reader sees the old file or the new one.

    Each writer's file has a name of its own (:func:`_partial`); what a killed one left is removed.

    Raises:
        StudyError: the folder can't be written or the disk is full; the old file stays.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StudyError(
            f"write {path}", error.strerror or str(error), "free space or make the folder writable, then run again"
        ) from None
    _remove_left(path)


@contextlib.contextmanager
def new_folder(path: Path, asked: str) -> Iterator[Path]:
    """A folder beside ``path`` to fill, moved there at the end of the block: ``path`` is there whole or not at all.

    Raises:
        StudyError: it can't be written; ``asked`` says what for.
    """
    partial = _partial(path)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    except OSError as error:
        raise StudyError(asked, error.strerror or str(error), "free space, or name another") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_left(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{_RUN}-{next(_NUMBERS)}.partial")


def _remove_left(path: Path) -> None:
    """Remove what writers of ``path`` left that live no more."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*partial"):
        if _alive(left.name.removeprefix(f".{path.name}.")):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def _alive(writer: str) -> bool:
    """Whether the writer of a partial file may still be at work; a number of a process may be given anew."""
    found = re.match(r"(\d+)-(\w+)-", writer)
    if found is None:
        return False
    process, run = int(found[1]), found[2]
    return run == _RUN if process == os.getpid() else psutil.pid_exists(process)
