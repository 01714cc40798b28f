"""One number for code: what it does, whatever its comments and docstrings say."""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_sha256(paths: Iterable[Path], root: Path) -> str:
    """The sha256 over the modules at ``paths``, each by its path from ``root`` and its syntax tree without docstrings.

    The order of ``paths`` doesn't matter. A comment, a docstring, a blank line or a line that is broken elsewhere
    changes nothing.

    Raises:
        SyntaxError: a file is no Python.
    """
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        digest.update(f"{path.relative_to(root).as_posix()}\0{ast.dump(syntax_tree(path.read_bytes()))}\0".encode())
    return digest.hexdigest()


def syntax_tree(source: bytes) -> ast.Module:
    """Of a module, without docstrings.

    Raises:
        SyntaxError: it is no Python.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree
