"""The one client of a store that speaks the hub's protocol: list, fetch, push, and what can go wrong on the way.

The store is ``HF_ENDPOINT`` (the public hub by default); files stay in the hub's own cache on disk. A dropped
connection is taken up where it broke off. The token comes from ``HF_TOKEN`` or ``hf auth login`` and is no argument
anywhere, for arguments show in process lists and shell histories. Nothing here imports torch.
"""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionquant.core.errors import StudyError
from visionquant.core.files import sha256

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

CONNECT_S = 5.0
UNREACHABLE = "the hub could not be reached"
AGAIN = "run the same command again"
_unreachable: set[str] = set()  # endpoints that nobody need wait for a second time


class Unreachable(StudyError):
    """No connection to the hub."""


class NoSuchFile(StudyError):
    """The repository has no file of that name at that revision."""


def endpoint() -> str:
    """Where the store is, as the environment has it now."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def cache() -> Path:
    """Where the cache is, as the environment has it now (``HF_HUB_CACHE``, ``HF_HOME``)."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(home, "hub").expanduser()


def folder(repo_id: str, revision: str) -> Path:
    """Where the files of a revision (40 hex digits) lie in the cache, if they do."""
    return cache() / f"models--{repo_id.replace('/', '--')}" / "snapshots" / revision


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
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def listing(asked: str, repo_id: str, revision: str) -> dict[str, "RepoSibling"]:
    """Files of a model's repository at ``revision`` (40 hex digits) by name, with sizes and hashes.

    Raises:
        Unreachable: there is no connection.
        StudyError: there is no such repository or revision, or the store refuses.
    """
    from huggingface_hub import HfApi

    if endpoint() in _unreachable or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise Unreachable(asked, UNREACHABLE, f"connect and {AGAIN}")
    try:
        with _explained(asked, UNREACHABLE, f"connect and {AGAIN}", Unreachable):
            api = HfApi(endpoint=endpoint())
            info = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=CONNECT_S)
    except Unreachable:
        _unreachable.add(endpoint())
        raise
    if info.sha != revision:
        raise StudyError(asked, f"the hub answered with revision {info.sha}", "pin 40 hex digits")
    return {sibling.rfilename: sibling for sibling in info.siblings or []}


def fetch(asked: str, repo_id: str, revision: str, name: str) -> Path:
    """One file of a model's repository, in the cache; what is there already is not fetched again.

    Raises:
        NoSuchFile: the repository does not have it.
        StudyError: the store can't be reached or refuses, the download broke off, or the disk is full.
    """
    from huggingface_hub import errors, hf_hub_download

    with _explained(asked, f"the download of {name} broke off", f"{AGAIN}, finished files are kept"):
        try:
            return Path(hf_hub_download(repo_id, name, revision=revision, endpoint=endpoint(), cache_dir=cache()))
        except errors.RemoteEntryNotFoundError:
            raise NoSuchFile(asked, f"{name} is not there", "name another revision") from None


def snapshot(asked: str, repo_id: str, revision: str, pattern: str | None = None) -> Path:
    """The folder with a data set's files, or those that match ``pattern``, every one held against its hash.

    Raises:
        StudyError: there is no such data set, it can't be fetched, or a file is not what the store says.
    """
    from huggingface_hub import snapshot_download

    with _explained(asked, "could not be fetched", "connect and run again, or name a folder"):
        where: dict[str, Any] = {"endpoint": endpoint(), "cache_dir": cache(), "allow_patterns": pattern}
        snapshot_folder = Path(snapshot_download(repo_id, repo_type="dataset", revision=revision, **where))
    for path in snapshot_folder.rglob("*"):
        if path.is_file() and not is_blob(path):
            discard(path)
            raise StudyError(asked, f"{path.name} has another hash than the hub says", "run again to fetch it anew")
    return snapshot_folder


def push(asked: str, folder: Path, repo_id: str, names: Sequence[str], message: str, *, public: bool = False) -> str:
    """Upload files of a folder as one commit, into a repository that is made if need be; the commit's 40 hex digits.

    Args:
        repo_id: "owner/name".
        public: whether a repository that is made here can be read by everybody.

    Raises:
        StudyError: the store can't be reached, or it refuses.
    """
    from huggingface_hub import HfApi

    with _explained(asked, "broke off", f"check HF_ENDPOINT and {AGAIN}"):
        api = HfApi(endpoint=endpoint())
        api.create_repo(repo_id, private=not public, exist_ok=True)
        what: dict[str, Any] = {"folder_path": folder, "allow_patterns": list(names), "commit_message": message}
        return str(api.upload_folder(repo_id=repo_id, **what).oid)


@contextmanager
def _explained(asked: str, broken: str, remedy: str, kind: type[StudyError] = StudyError) -> Iterator[None]:
    """What the client raises, as one line; of ``kind``, and ``broken`` off, where the store itself said nothing."""
    from huggingface_hub import errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    transport: type[Exception] = errors.HfHubHTTPError.__bases__[0]  # of whichever HTTP library the client uses
    login = "log in with `hf auth login` or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError:
        raise StudyError(asked, "gated", "accept its terms on the hub and log in with `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise StudyError(asked, "no such revision", "name another, 40 hex digits") from None
    except errors.RepositoryNotFoundError:
        raise StudyError(asked, "no such repository, or a private one", f"correct its name, or {login}") from None
    except errors.HFValidationError:
        raise StudyError(asked, "no name of a repository", "give owner/name") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise StudyError(asked, f"the hub answered {status}", login if status in (401, 403) else AGAIN) from None
    except (errors.EntryNotFoundError, transport, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ or error  # the client wraps what befell an upload
        why = (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).strip().splitlines()[0]
        raise kind(asked, f"{broken}: {why}", remedy) from None
