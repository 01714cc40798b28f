"""Which code measured: a digest of this folder and of what it decides by, and where the checkout stands in git."""

import hashlib
import subprocess
from pathlib import Path

from visionquant.records.record import Code

# Protocols and precisions with their arithmetic, architectures and preprocessing, threads and GPU, which weights, when
# to stop and what to measure again.
BESIDE = ("core", "settings", "records", "weights")


def measuring_sha256(folder: Path = Path(__file__).parent) -> str:
    """The sha256 over names and contents of all modules in ``folder``, and in those ``BESIDE`` it."""
    digest = hashlib.sha256()
    beside = [path for name in BESIDE for path in sorted((folder.parent / name).rglob("*.py"))]
    for path in (*sorted(folder.rglob("*.py")), *beside):
        digest.update(path.relative_to(folder.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


AT_IMPORT = measuring_sha256()  # of the code that runs, whatever becomes of the files meanwhile


def state(root: Path) -> Code:
    """The measuring code as it lies on disk; commit and dirtiness are None outside a git checkout."""
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--", "src", "params.yaml")
    return Code(
        measuring_sha256=AT_IMPORT,
        git_commit=commit or None,
        git_dirty=None if not commit else bool(status),
    )


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
