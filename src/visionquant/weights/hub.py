"""The one client of a store that speaks the hub's protocol: list, fetch, push, and what can go wrong on the way.

The store is ``HF_ENDPOINT`` (the public hub by default); files stay in the hub's own cache. A dropped connection is
taken up where it broke off. The token comes from ``HF_TOKEN`` or ``hf auth login`` and is no argument anywhere, for
arguments show in process lists and shell histories. Nothing here imports torch.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from visionquant.core.errors import StudyError
from visionquant.weights import hub_cache

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

CONNECT_S = 5.0
UNREACHABLE = "the hub could not be reached"
AGAIN = "run the same command again"
_unreachable: set[str] = set()  # endpoints that nobody need wait for a second time


class Unreachable(StudyError):
    """No connection to the hub."""


def endpoint() -> str:
    """Where the store is, as the environment has it now."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


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


@overload
def fetch(asked: str, repo_id: str, revision: str, name: str, optional: Literal[False] = False) -> Path: ...
@overload
def fetch(asked: str, repo_id: str, revision: str, name: str, optional: bool) -> Path | None: ...
def fetch(asked: str, repo_id: str, revision: str, name: str, optional: bool = False) -> Path | None:
    """One file of a model's repository, in the cache; what is there already is not fetched again.

    Args:
        optional: give None where the repository has no such file.

    Raises:
        StudyError: it is not there, the store can't be reached or refuses, the download broke off, or the disk is full.
    """
    from huggingface_hub import errors, hf_hub_download

    with _explained(asked, f"the download of {name} broke off", f"{AGAIN}, finished files are kept"):
        try:
            path = hf_hub_download(repo_id, name, revision=revision, endpoint=endpoint(), cache_dir=hub_cache.root())
        except errors.RemoteEntryNotFoundError:
            if optional:
                return None
            raise StudyError(asked, f"{name} is not there", "name another revision") from None
    return Path(path)


def snapshot(asked: str, repo_id: str, revision: str, pattern: str | None = None) -> Path:
    """The folder with a data set's files, or those that match ``pattern``, every one held against its hash.

    Raises:
        StudyError: there is no such data set, it can't be fetched, or a file is not what the store says.
    """
    from huggingface_hub import snapshot_download

    with _explained(asked, "could not be fetched", "connect and run again, or name a folder"):
        folder = Path(
            snapshot_download(
                repo_id,
                repo_type="dataset",
                revision=revision,
                allow_patterns=pattern,
                endpoint=endpoint(),
                cache_dir=hub_cache.root(),
            )
        )
    for path in folder.rglob("*"):
        if path.is_file() and not hub_cache.is_blob(path):
            hub_cache.discard(path)
            raise StudyError(asked, f"{path.name} has another hash than the hub says", "run again to fetch it anew")
    return folder


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
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=list(names), commit_message=message
        )
    return str(commit.oid)


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
