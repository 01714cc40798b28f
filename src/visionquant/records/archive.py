"""The store of evidence: a folder a machine in ``data/machines``, read here and nowhere else.

``local`` is this machine's, written by the pipeline; what was recorded there under other settings than those in force
is stale and left out, with the reason. :func:`record` copies it to a named machine, whose ``manifest.json`` holds the
sha256 of every file: that is only read from then on, never stale, and says which settings it was recorded under.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.frozen import Frozen
from visionquant.core.paths import LOCAL, Project
from visionquant.records import labelled, predictions, recipe
from visionquant.records.labelled import Labelled
from visionquant.records.machine_set import AA_SIDES, MachineSet, Records
from visionquant.records.predictions import Scores
from visionquant.records.recipe import Recipe
from visionquant.records.record import Record, current, read, stale
from visionquant.settings.params import Params

MANIFEST = "manifest.json"
NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"
KINDS = ("latency", *AA_SIDES, "accuracy", "recipes")
EARLIER = "measured by an earlier version of this code"
Found = TypeVar("Found", Record, Scores, Recipe)


class SetManifest(Frozen):
    """Names the machine and every file of it, with its sha256."""

    schema_version: Literal[2] = 2
    machine: str
    files: dict[str, str]


def machines(project: Project, params: Params) -> tuple[MachineSet, ...]:
    """This machine's evidence, then each named machine's.

    Raises:
        StudyError: a file is broken, what is named has no manifest or a file that is missing, foreign or altered, or
            records of one place come from different machines.
    """
    return local(project, params), *recorded(project)


def recorded(project: Project) -> tuple[MachineSet, ...]:
    """The named machines, by name; see :func:`machines`."""
    return tuple(_named(folder) for folder in folders(project))


def folders(project: Project) -> list[Path]:
    """Those of the named machines."""
    paths = project.machines.glob("[!.]*")
    return sorted(path for path in paths if path.is_dir() and path.name != LOCAL)


def _named(folder: Path) -> MachineSet:
    for name, fault in faults(folder).items():
        raise StudyError(files.shown(folder / name), fault, "restore the machine from git, or record it again")
    latency, *passes = ({_pair(record): record for record in _all(folder / kind, read)} for kind in KINDS[:3])
    aa = (passes[0], passes[1]) if passes[0] and passes[0].keys() == passes[1].keys() else None
    _require_one_machine(files.shown(folder), [*latency.values(), *passes[0].values(), *passes[1].values()])
    return MachineSet(
        folder.name,
        latency,
        aa,
        {scores.network: scores for scores in _all(folder / "accuracy", predictions.read)},
        labelled.read(folder),
        {run.name: run for run in _all(folder / "recipes", recipe.read)},
    )


def local(project: Project, params: Params) -> MachineSet:
    """This machine's evidence under the settings in force, and why the rest is left out; see :func:`machines`.

    Precisions that the study does not list, and that were measured all the same, are there too. Beside records of this
    version those of an earlier one have no place.
    """
    records, missing = _latency(project, params)
    left_out: dict[str, str] = {}

    def fresh(kind: str, read: Callable[[Path], Found], beside: Records | None = None) -> Iterator[Found]:
        for path in _paths(project.local / kind):
            evidence = read(path)
            if why := stale(evidence, params) or _why_apart(evidence, beside):
                left_out[f"{kind}/{path.name}"] = why
            else:
                yield evidence

    passes: list[Records] = []
    for side in AA_SIDES:
        passes.append({_pair(record): record for record in fresh(side, read, records or next(iter(passes), None))})
    names = [{path.name for path in _paths(project.local / side)} for side in AA_SIDES]
    both = passes[0].keys() & passes[1].keys() if names[0] == names[1] else set()
    first, second = ({pair: record for pair, record in found.items() if pair in both} for found in passes)
    results = labelled.read(project.local)
    if results is not None:
        old = {result.model: why for result in results.judged if (why := stale(result, params))}
        judged = tuple(result for result in results.judged if result.model not in old)
        results = Labelled(judged=judged, missing=results.missing | old)
        left_out |= {f"{labelled.FILE}: {model}": why for model, why in old.items()}
    return MachineSet(
        LOCAL,
        records,
        (first, second) if both else None,
        {scores.network: scores for scores in fresh("accuracy", predictions.read)},
        results,
        {run.name: run for run in fresh("recipes", recipe.read)},
        missing,
        left_out,
    )


def _latency(project: Project, params: Params) -> tuple[Records, dict[tuple[str, str], str]]:
    records: Records = {}
    missing: dict[tuple[str, str], str] = {}
    for pair in (*params.pairs(), *params.other_pairs()):
        record = current(project.record(*pair))
        reason = "not measured" if record is None else stale(record, params)
        if record is not None and reason is None:
            records[pair] = record
        elif pair in params.pairs():
            missing[pair] = reason or ""
    # One set has one schema: what one record does not say of the machine can't be held against the others.
    least = min((record.environment.unrecorded for record in records.values()), key=len, default=())
    earlier = [pair for pair, record in records.items() if record.environment.unrecorded != least]
    missing |= {pair: EARLIER for pair in earlier if pair in params.pairs()}
    records = {pair: record for pair, record in records.items() if pair not in earlier}
    _require_one_machine(files.shown(project.local / "latency"), list(records.values()))
    return records, missing


def _why_apart(evidence: Record | Scores | Recipe, beside: Records | None) -> str | None:
    """Why a record of an A/A run says nothing of the records beside it, or nobody knows when a recipe is stale."""
    if isinstance(evidence, Recipe) and evidence.settings is None:
        return "which settings it was run under is not recorded"
    if not isinstance(evidence, Record) or not beside:
        return None
    other = beside.get(_pair(evidence), next(iter(beside.values())))
    if differences := evidence.environment.differs_from(other.environment):
        return f"measured on another machine: {'; '.join(differences)}"
    if evidence.environment.unrecorded != other.environment.unrecorded:
        return EARLIER
    if evidence.code.measuring_sha256 not in {record.code.measuring_sha256 for record in beside.values()}:
        return f"measured by other code ({evidence.code.measuring_sha256[:8]}) than the records"
    same_pair = _pair(evidence) == _pair(other)
    differ = same_pair and evidence.settings.weights != other.settings.weights
    return "measured with other weights than the records" if differ else None


def _pair(record: Record) -> tuple[str, str]:
    return record.model, record.precision


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.json"))


def _all(folder: Path, read: Callable[[Path], Found]) -> list[Found]:
    return [read(path) for path in _paths(folder)]


def _require_one_machine(place: str, records: list[Record]) -> None:
    """Insist that all records come from one machine with one set of versions.

    Raises:
        StudyError: names the first record that does not match and what differs.
    """
    for record in records[1:]:
        if differences := record.environment.differs_from(records[0].environment):
            what = f"{record.model}-{record.precision} comes from another machine: {'; '.join(differences)}"
            raise StudyError(place, what, "keep one machine's records here, and measure the others again")


def record(project: Project, params: Params, name: str, partial: bool = False) -> Path:
    """Copy this machine's evidence, what is stale apart, to the machine called ``name``; return its folder.

    Args:
        partial: copy what is there, though pairs of the study are missing.

    Raises:
        StudyError: the name is unfit or taken, or a pair of the study is missing, stale, failed or broken.
    """
    folder, asked = project.machines / name, f"record --platform {name}"
    if not re.fullmatch(NAME, name) or name == LOCAL:
        raise StudyError(asked, "not a platform name", "use lower-case words and digits joined by -")
    if folder.exists():
        raise StudyError(files.shown(folder), "there is such a set already", "choose another name or remove it")
    own = local(project, params)
    missing = own.missing | {
        pair: f"failed: {record.failure}" for pair, record in own.records.items() if record.failure
    }
    if missing and not (partial and own.evidence):
        pair, reason = next(iter(missing.items()))
        what = f"{len(missing)} of {len(params.pairs())} pairs are missing ({'-'.join(pair)}: {reason})"
        raise StudyError(asked, what, "run `dvc repro` first, or pack what is there with --partial")
    with new_machine(folder) as staging:
        for path in own.evidence:
            if not path.startswith(labelled.FILE):
                files.save(staging / path, (project.local / path).read_bytes())
        if own.labelled is not None and own.labelled.judged:
            files.save(staging / labelled.FILE, own.labelled)
    return folder


@contextmanager
def new_machine(folder: Path) -> Iterator[Path]:
    """A folder to fill with the evidence of a machine; it gets its manifest, and its name, at the end of the block."""
    with files.new_folder(folder, files.shown(folder)) as staging:
        yield staging
        hashes = {name: files.sha256(staging / name) for name in _present(staging)}
        files.save(staging / MANIFEST, SetManifest(machine=folder.name, files=hashes), indent=1)


def set_manifest(folder: Path) -> SetManifest:
    """The manifest of a named machine.

    Raises:
        StudyError: there is none, or it is broken.
    """
    return files.load(folder / MANIFEST, SetManifest, "restore it from git, or make one with `visionquant record`")


def faults(folder: Path) -> dict[str, str]:
    """What is wrong with the files of a named machine: missing, altered or foreign; empty where all is well."""
    listed, present = set_manifest(folder).files, _present(folder)
    wrong = dict.fromkeys(sorted(set(listed) - set(present)), "missing")
    wrong |= {name: "not in the machine's manifest" for name in present if name not in listed}
    for name in sorted(set(present) & set(listed)):
        if files.sha256(folder / name) != listed[name]:
            unix = hashlib.sha256((folder / name).read_bytes().replace(b"\r\n", b"\n")).hexdigest()
            crlf = "its line ends are CRLF" if unix == listed[name] else "another sha256 than the manifest's"
            wrong[name] = f"altered: {crlf}"
    return wrong


def _present(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST)


def own_files(project: Project) -> list[Path]:
    """The evidence of this machine, stale or not."""
    own = [path for kind in KINDS for path in _paths(project.local / kind)]
    return own + [path for path in (project.local / labelled.FILE,) if path.is_file()]


def evidence_files(project: Project) -> list[Path]:
    """Every file that :func:`machines` reads, in one order."""
    named = [folder / name for folder in folders(project) for name in (*_present(folder), MANIFEST)]
    return own_files(project) + named
