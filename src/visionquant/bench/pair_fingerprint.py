"""Which code measures a pair: a digest of what the pair passes through, and where the checkout stands in git.

That is what its path imports, by the modules' own import lines: the protocol's arithmetic, the model's loader, the
clock, the device, and of the engines that of its precision alone. Comments and docstrings do not count, nor do the rows
of other methods, so that a new engine or a corrected sentence leaves every record as it is.
"""

import ast
import hashlib
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from visionquant.core.files import syntax_tree
from visionquant.records.record import Code
from visionquant.settings.precision import PrecisionRow

SOURCE = Path(__file__).parents[2]
ROOTS = ("visionquant.bench.sampling",)
ENGINES, ROWS = "visionquant.bench.backends", "visionquant/settings/precision.py"
# Settings of other things, how files and old records are read, what messages say: none of it decides a figure.
APART = tuple(
    f"visionquant/{name}.py"
    for name in ("settings/sections", "core/errors", "core/yaml12", "records/upgrade", "weights/hub", "weights/package")
)
Modules = Mapping[str, bytes]


def modules(folder: Path = SOURCE) -> Modules:
    """The package's modules as they lie on disk, by path."""
    files = sorted((folder / "visionquant").rglob("*.py"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


AT_IMPORT = modules()  # the code that runs, whatever becomes of the files meanwhile


def measuring_sha256(precision: PrecisionRow, code: Modules = AT_IMPORT) -> str:
    """The digest of what a pair in ``precision`` passes through in ``code``."""
    digest = hashlib.sha256()
    for path in passed_through(precision.engine, code):
        does = _reached(code[path], type(precision).__name__) if path == ROWS else _read(code[path])[0]
        digest.update(f"{path}\0{does}\0".encode())
    return digest.hexdigest()


def unchanged_on_disk(precision: PrecisionRow) -> bool:
    """Whether the files still hold the code that measures pairs in ``precision``."""
    return measuring_sha256(precision) == measuring_sha256(precision, modules())


def passed_through(engine: str, code: Modules = AT_IMPORT) -> list[str]:
    """Paths of the modules that the path of a pair with this engine imports, at once or late."""
    found: set[str] = set()
    names = [*ROOTS, f"{ENGINES}.{engine}"]
    while names:
        place = names.pop().replace(".", "/")
        for path in (f"{place}.py", f"{place}/__init__.py"):
            if path in code and path not in found and path not in APART:
                found.add(path)
                names += _read(code[path])[1]
    return sorted(found)


@cache
def _read(source: bytes) -> tuple[str, list[str]]:
    """A module's syntax tree in words, and the names that it imports."""
    tree = syntax_tree(source)
    imports: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return ast.dump(tree), imports


@cache
def _reached(source: bytes, name: str) -> str:
    """The statements of a module that define ``name`` and, in turn, what these use, in words."""
    body = syntax_tree(source).body
    defined = {defined_name: node for node in body for defined_name in _defines(node)}
    names, reached = [name], set()
    while names:
        node = defined.get(names.pop())
        if node is not None and node not in reached:
            reached.add(node)
            names += [used.id for used in ast.walk(node) if isinstance(used, ast.Name)]
    return "".join(ast.dump(node) for node in body if node in reached)


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def state(root: Path, precision: PrecisionRow) -> Code:
    """The code that measures pairs in ``precision``; commit and dirtiness are None outside a git checkout."""
    commit, dirty = _checkout(root)
    return Code(measuring_sha256=measuring_sha256(precision), git_commit=commit, git_dirty=dirty)


@cache
def _checkout(root: Path) -> tuple[str | None, bool | None]:
    """Commit and dirtiness as they were when a command first asked."""
    commit = _git(root, "rev-parse", "HEAD") or None
    return commit, bool(_git(root, "status", "--porcelain", "--", "src", "params.yaml")) if commit else None


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=30)
        return done.stdout.strip()
    return None
