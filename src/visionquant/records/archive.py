"""Evidence from other machines: one folder a platform, a whole study each, packed once and only read from then on.

``manifest.json`` beside the records says what the set is and holds the sha256 of every file, so that a single changed
sample is found when the set is read.
"""

import hashlib
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project, new_folder, write_atomically
from visionquant.records import record as records
from visionquant.records.record import Record
from visionquant.settings.params import Params

MANIFEST = "manifest.json"
NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"
AA_SIDES = ("aa/first", "aa/second")
Records = dict[tuple[str, str], Record]


class SetManifest(BaseModel):
    """What a set is: machine, weights, measuring code, protocol, and the sha256 of each record file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    platform: str
    environment: Environment
    weights: tuple[str, ...]
    measuring_sha256: tuple[str, ...]
    protocol: str
    files: dict[str, str]


def pack(project: Project, params: Params, platform: str, partial: bool = False) -> Path:
    """Copy this machine's records into ``data/recorded/<platform>``; return that folder.

    The study's pairs, those of other precisions that were measured, and the A/A run.

    Args:
        partial: pack what is there, though pairs of the study are missing.

    Raises:
        StudyError: the name is unfit or taken, or a pair of the study is missing, stale, failed or broken.
    """
    folder = project.recorded / platform
    if not re.fullmatch(NAME, platform):
        raise StudyError(
            f"record --platform {platform}", "not a platform name", "use lower-case words and digits joined by -"
        )
    if folder.exists():
        raise StudyError(f"data/recorded/{platform}", "there is such a set already", "choose another name or remove it")
    found, missing = records.local(project, params)
    missing |= {pair: f"failed: {record.failure}" for pair, record in found.items() if record.failure}
    if missing and not (partial and found):
        pair, reason = next(iter(missing.items()))
        raise StudyError(
            f"record --platform {platform}",
            f"{len(missing)} of {len(params.pairs())} pairs are missing ({'-'.join(pair)}: {reason})",
            "run `dvc repro` first, or pack what is there with --partial",
        )
    sources = {project.record(*pair).name: project.record(*pair).read_bytes() for pair in found}
    for side in AA_SIDES if read_aa(project.measured, found) is not None else ():
        place = Project(project.root, side).measured
        sources |= {f"{side}/{path.name}": path.read_bytes() for path in sorted(place.glob("*.json"))}
    manifest = SetManifest(
        platform=platform,
        environment=next(iter(found.values())).environment,
        weights=tuple(sorted({record.settings.weights.kind for record in found.values()})),
        measuring_sha256=tuple(sorted({record.code.measuring_sha256 for record in found.values()})),
        protocol=params.study.protocol,
        files={name: _sha256(content) for name, content in sorted(sources.items())},
    )
    with new_folder(folder, f"data/recorded/{platform}") as staging:
        for name, content in sources.items():
            write_atomically(staging / name, content)
        write_atomically(staging / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return folder


def read_all(project: Project) -> dict[str, Records]:
    """Every set by platform name.

    Raises:
        StudyError: a set has no manifest, a file is missing, foreign or altered, a record is broken, or a set mixes
            machines.
    """
    if not project.recorded.is_dir():
        return {}
    folders = sorted(path for path in project.recorded.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {folder.name: read(folder) for folder in folders}


def read(folder: Path) -> Records:
    """The records of one set, every file checked against the manifest; see :func:`read_all`."""
    place = f"data/recorded/{folder.name}"
    for name, fault in faults(folder).items():
        raise StudyError(f"{place}/{name}", fault, "restore the set from git, or record it again")
    found = [records.read(folder / name) for name in manifest_of(folder).files if "/" not in name]
    records.require_one_machine(place, found)
    return {(record.model, record.precision): record for record in found}


def read_aa(folder: Path, beside: Records) -> tuple[Records, Records] | None:
    """The two passes of an A/A run below ``folder`` (a recorded set, or data/measured), None where there
    is none, only a part, or one of an earlier version of this code than the records ``beside`` it.

    Raises:
        StudyError: a record is broken, or the passes and the records ``beside`` them mix machines.
    """
    passes = []
    for side in AA_SIDES:
        found = [records.read(path) for path in sorted((folder / side).glob("*.json"))]
        passes.append({(record.model, record.precision): record for record in found})
    first, second = passes
    together = [*list(beside.values())[:1], *first.values(), *second.values()]
    if len({record.environment.unrecorded for record in together}) > 1:
        return None
    records.require_one_machine(f"{folder.name}/aa", together)
    return (first, second) if first and set(first) == set(second) else None


def manifest_of(folder: Path) -> SetManifest:
    """The manifest of a set.

    Raises:
        StudyError: there is none, or it is broken.
    """
    path = folder / MANIFEST
    try:
        return SetManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        found = "there is none"
    except (OSError, ValidationError):
        found = "broken"
    raise StudyError(
        f"data/recorded/{folder.name}/{MANIFEST}",
        found,
        "restore the set from git, or pack one with `visionquant record`",
    )


def faults(folder: Path) -> dict[str, str]:
    """What is wrong with the files of a set, by name: missing, altered or foreign; empty where all is well."""
    listed = manifest_of(folder).files
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    wrong = dict.fromkeys(sorted(set(listed) - present), "missing")
    wrong |= dict.fromkeys(sorted(present - set(listed)), "not in the set's manifest")
    for name in sorted(present & set(listed)):
        content = (folder / name).read_bytes()
        if _sha256(content) != listed[name]:
            crlf = _sha256(content.replace(b"\r\n", b"\n")) == listed[name]
            wrong[name] = "altered: " + ("its line ends are CRLF" if crlf else "another sha256 than the manifest's")
    return wrong


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
