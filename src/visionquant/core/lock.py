"""One command at a time measures in a checkout or writes its records; whoever comes second is told who is at work.

Two that measure at once would slow each other down, and each would take the other's for its own. Reading needs no lock:
files are written whole. The operating system takes the lock back however its holder ends.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import psutil
from filelock import FileLock, Timeout

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project

Given = ParamSpec("Given")
Result = TypeVar("Result")


@contextmanager
def held(project: Project) -> Iterator[None]:
    """Have the checkout's records for oneself, until the block or the process ends; within one process it nests.

    Raises:
        StudyError: another process has them (one line: which, doing what, since when), or data/ can't be written.
    """
    path = project.lock
    holder = path.with_name(".lock.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, is_singleton=True)
        lock.acquire(timeout=0)
    except Timeout:
        what, remedy = f"{_named_in(holder)} is measuring here or writing records", "run this again when it has ended"
        raise StudyError(project.shown(path), what, f"{remedy}, or end it") from None
    except OSError as error:
        remedy = "make the folder writable, then run again"
        raise StudyError(f"write {path}", error.strerror or str(error), remedy) from None
    try:
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        files.save(holder, json.dumps({"process": os.getpid(), "command": command, "since": since}) + "\n")
        yield
    finally:
        lock.release()


def alone(function: Callable[Concatenate[Project, Given], Result]) -> Callable[Concatenate[Project, Given], Result]:
    """A function of a project that holds the lock while it runs."""

    @functools.wraps(function)
    def locked(project: Project, /, *args: Given.args, **named: Given.kwargs) -> Result:
        with held(project):
            return function(project, *args, **named)

    return locked


def _named_in(holder: Path) -> str:
    """Who wrote that it has the lock, if it still lives: the next holder may have written nothing yet."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        written = json.loads(holder.read_text(encoding="utf-8"))
        if psutil.pid_exists(written["process"]):
            return f"process {written['process']} ({written['command']}, since {written['since']})"
    return "another process"
