"""The hub's own cache on disk: where it is, where a revision lies in it, and whether a file in it is whole."""

import hashlib
import os
from pathlib import Path

from visionquant.core.files import sha256

MISSING = "missing"


def root() -> Path:
    """Where the cache is, as the environment has it now (``HF_HUB_CACHE``, ``HF_HOME``)."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def folder(repo_id: str, revision: str) -> Path:
    """Where the files of a revision (40 hex digits) lie, if they do."""
    return root() / f"models--{repo_id.replace('/', '--')}" / "snapshots" / revision


def why_wrong(path: Path, size: int, digest: str) -> str:
    """Empty for the right file, else what is wrong with it."""
    if not path.is_file():
        return MISSING
    if path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, {size} expected (cut short?)"
    return "" if sha256(path) == digest else "has another sha256 than its manifest (altered?)"


def matches_etag(path: Path, etag: str) -> bool:
    """Whether a file has the hash that the hub gives it: sha256 of a large file, git's sha1 of a small one."""
    if len(etag) == 64:
        return sha256(path) == etag
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == etag


def is_blob(path: Path) -> bool:
    """Whether a file has the hash by which the cache calls its blob; a plain copy of a cache has none to tell by."""
    return not path.is_symlink() or matches_etag(path, path.resolve().name)


def discard(path: Path) -> None:
    """Remove a broken file from the cache, the link and what it points to."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)
