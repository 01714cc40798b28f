"""How files are read, checked, hashed and written: whole or not at all, by however many writers."""

import ast
import contextlib
import glob
import gzip
import hashlib
import itertools
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pydantic import BaseModel, TypeAdapter, ValidationError

from visionquant.core.errors import StudyError

Value = TypeVar("Value")
RESTORE = "restore it from git"
_RUN, _NUMBERS = uuid.uuid4().hex[:8], itertools.count()


def shown(path: Path) -> str:
    """A path as messages name it: from the last folder ``data`` on, if it lies in one."""
    parts = path.parts
    return "/".join(parts[len(parts) - 1 - parts[::-1].index("data") :]) if "data" in parts else str(path)


def load(path: Path, kind: type[Value], remedy: str = RESTORE) -> Value:
    """The value in a JSON file, which may be compressed (``.gz``).

    Args:
        kind: what it has to be, a model of pydantic or any other type.
        remedy: what to do where it is not.

    Raises:
        StudyError: the file can't be read, is cut, or holds something else.
    """
    text = content(path, remedy)
    try:
        return parsed(path, gzip.decompress(text) if path.suffix == ".gz" else text, kind, remedy)
    except (OSError, EOFError, zlib.error):
        raise StudyError(shown(path), "broken: not gzip (cut short?)", remedy) from None


def content(path: Path, remedy: str = RESTORE) -> bytes:
    """All bytes of a file; see :func:`load`."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise StudyError(shown(path), "there is none", remedy) from None
    except OSError as error:
        raise StudyError(shown(path), error.strerror or "unreadable", remedy) from None


def parsed(path: Path, text: bytes | str, kind: type[Value], remedy: str = RESTORE) -> Value:
    """The value in JSON that was read from ``path``; see :func:`load`."""
    adapter: TypeAdapter[Value] = _adapter(kind)  # type: ignore[arg-type]
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, why = ".".join(map(str, first["loc"])), first["msg"].lower()
        found = "not JSON (cut short?)" if first["type"] == "json_invalid" else f"{key}: {why}" if key else why
        raise StudyError(shown(path), f"broken: {found}", remedy) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def save(path: Path, content: str | bytes | BaseModel, indent: int | None = None) -> None:
    """Write ``content`` (a model as JSON) beside ``path``, then move it there: a reader sees the old file or the new.

    Each writer's file has a name of its own; what a killed one left is removed.

    Raises:
        StudyError: the folder can't be written or the disk is full; the old file stays.
    """
    if isinstance(content, BaseModel):
        content = content.model_dump_json(indent=indent) + "\n"
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        remedy = "free space or make the folder writable, then run again"
        raise StudyError(f"write {path}", error.strerror or str(error), remedy) from None
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


def sha256(path: Path) -> str:
    """The sha256 of a file, computed once per version of it in one process.

    A version is told by inode, size and both times: a copy may keep the time of modification, not that of the change.
    """
    stat = path.stat()
    return _sha256_of(path.resolve(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@cache
def _sha256_of(path: Path, *version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_sha256(paths: Iterable[Path], root: Path) -> str:
    """The sha256 over modules in any order, each by its path from ``root`` and what it does (:func:`syntax_tree`)."""
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        digest.update(f"{path.relative_to(root).as_posix()}\0{ast.dump(syntax_tree(path.read_bytes()))}\0".encode())
    return digest.hexdigest()


def syntax_tree(source: bytes) -> ast.Module:
    """What a module does: comments, docstrings and line breaks change nothing. SyntaxError: it is no Python."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
    return tree


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{_RUN}-{next(_NUMBERS)}.partial")


def _remove_left(path: Path) -> None:
    """Remove what writers of ``path`` left that live no more."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*partial"):
        if not _alive(left.name.removeprefix(f".{path.name}.")):
            shutil.rmtree(left, ignore_errors=True)  # does nothing to a file
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def _alive(writer: str) -> bool:
    """Whether the writer of a partial file may still be at work; a number of a process may be given anew."""
    process, _, run = writer.partition("-")
    if not process.isdigit():
        return False
    return run.startswith(f"{_RUN}-") if int(process) == os.getpid() else psutil.pid_exists(int(process))
