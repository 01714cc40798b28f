"""Exported folders to and from a store that speaks the hub's protocol: a commit a push, a pinned revision a pull.

The store is ``HF_ENDPOINT`` (the public hub by default); the token comes from ``HF_TOKEN`` or ``hf auth login`` and is
no argument anywhere, for arguments show in process lists and shell histories. A store without the hub's chunked Xet
storage wants ``HF_HUB_DISABLE_XET=1``. A branch can move under a running service and a commit can't, so a pull takes 40
hex digits alone; what arrives is held against the sizes and hashes that the folder states, in a folder of its own that
takes its name when it is whole. A pull costs every byte once more on disk, in the hub's cache.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from visionquant.core.errors import StudyError
from visionquant.core.paths import new_folder
from visionquant.deploy import model_manifest
from visionquant.deploy.model_manifest import Description
from visionquant.weights import hub_cache


def push(folder: Path, repo_id: str, *, public: bool = False) -> str:
    """Upload an exported folder as one commit, into a repository that is made if need be; the commit's 40 hex digits.

    Args:
        repo_id: "owner/name".
        public: whether a repository that is made here can be read by everybody.

    Raises:
        StudyError: the folder is not whole, the store can't be reached, or it refuses.
    """
    from huggingface_hub import HfApi

    found = model_manifest.check(folder)
    asked = f"push to {repo_id}"
    with _explained(asked):
        api = HfApi(endpoint=_endpoint())
        api.create_repo(repo_id, private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=[model_manifest.NAME, *(file.name for file in found.files)],
            commit_message=f"{found.precision.method} for {found.device}: {found.source}",
        )
    return str(done.oid)


def pull(repo_id: str, revision: str, folder: Path) -> Description:
    """Fetch an exported folder at ``revision`` (40 hex digits) as a new ``folder``, whole or not at all.

    Raises:
        StudyError: the revision is not pinned, there is no such one, the folder is there already, the store can't be
            reached, or what arrived is not what was exported.
    """
    from huggingface_hub import errors, hf_hub_download

    asked = f"pull of {repo_id}@{revision[:12]}"
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise StudyError(asked, "not a pinned revision", "give the 40 hex digits that `visionquant push` said")
    if folder.exists():
        raise StudyError(f"pull to {folder.name}", "there is something already", "name a new folder, or remove it")
    found = {}
    with _explained(asked):
        for name in (model_manifest.NAME, model_manifest.CONFIG, model_manifest.TENSORS, model_manifest.PREPROCESSOR):
            try:
                arrived = hf_hub_download(
                    repo_id, name, revision=revision, endpoint=_endpoint(), cache_dir=hub_cache.root()
                )
            except errors.RemoteEntryNotFoundError:
                continue  # whether it should be there is said in the description
            found[name] = Path(arrived)
    with new_folder(folder, f"pull to {folder.name}") as partial:
        for name, path in found.items():
            shutil.copyfile(path, partial / name)
        try:
            checked = model_manifest.check(partial)
        except StudyError as error:
            # What is wrong stays out of the cache, so that the next pull fetches it again.
            for path in found.values():
                hub_cache.discard(path)
            raise StudyError(asked, str(error).partition("; ")[0], "pull it again, or push it anew") from None
    return checked


@contextmanager
def _explained(asked: str) -> Iterator[None]:
    """What the client raises, as one line."""
    from huggingface_hub import errors

    transport: type[Exception] = errors.HfHubHTTPError.__bases__[0]  # whichever HTTP library the client uses

    try:
        yield
    except errors.RevisionNotFoundError:
        raise StudyError(asked, "no such revision", "give one that `visionquant push` said") from None
    except errors.RepositoryNotFoundError:
        raise StudyError(
            asked, "no such repository, or a private one", "correct its name, or `hf auth login`"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        remedy = "log in with `hf auth login` or set HF_TOKEN" if status in (401, 403) else "run the same command again"
        raise StudyError(asked, f"the store answered {status}", remedy) from None
    except errors.HFValidationError:
        raise StudyError(asked, "no name of a repository", "give owner/name") from None
    except (transport, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ or error  # the client wraps what befell an upload
        why = (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).strip().splitlines()[0]
        raise StudyError(asked, f"broke off: {why}", "check HF_ENDPOINT and run the same command again") from None


def _endpoint() -> str:
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
