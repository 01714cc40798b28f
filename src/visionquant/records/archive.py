"""The store of evidence: a folder a machine in ``data/machines``, read here and nowhere else.

``local`` is this machine's, written by the pipeline; what was recorded there under other settings than those in force
is stale and left out, with the reason. :func:`record` copies it to a named machine, whose ``manifest.json`` holds the
sha256 of every file: that is only read from then on, never stale, and says which settings it was recorded under.
Samples lie beside the records that name them.
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
from visionquant.records import outcomes
from visionquant.records.machine_set import MachineSet, Records
from visionquant.records.outcomes import Labelled, Probe, Recipe, Scores
from visionquant.records.record import SAMPLES, Record, current, read, samples_of, stale
from visionquant.settings.params import Params

MANIFEST = "manifest.json"
NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"
KINDS = ("latency", SAMPLES, "accuracy", "probes", "recipes")
SAMPLES_BYTES = 3_000_000  # of a named machine, at most: they are committed
Found = TypeVar("Found", Scores, Probe, Recipe)


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
    return tuple(map(_named, folders(project)))


def folders(project: Project) -> list[Path]:
    """Those of the named machines."""
    return sorted(path for path in project.machines.glob("[!.]*") if path.is_dir() and path.name != LOCAL)


def _named(folder: Path) -> MachineSet:
    for name, fault in faults(folder).items():
        raise StudyError(files.shown(folder / name), fault, "restore the machine from git, or record it again")
    records = [read(path) for path in _paths(folder / "latency")]
    _require_one_machine(files.shown(folder), records)
    return MachineSet(
        folder.name,
        {record.pair: record for record in records},
        {scores.network: scores for scores in map(outcomes.read_scores, _paths(folder / "accuracy"))},
        {probe.model: probe for probe in map(outcomes.read_probe, _paths(folder / "probes"))},
        outcomes.read_labelled(folder),
        {run.name: run for run in map(outcomes.read_recipe, _paths(folder / "recipes"))},
    )


def local(project: Project, params: Params) -> MachineSet:
    """This machine's evidence under the settings in force, and why the rest is left out; see :func:`machines`.

    Precisions that the study does not list, and that were measured all the same, are there too.
    """
    records, missing = _latency(project, params)
    left_out: dict[str, str] = {}

    def fresh(kind: str, read: Callable[[Path], Found]) -> Iterator[Found]:
        for path in _paths(project.local / kind):
            evidence = read(path)
            unknown = isinstance(evidence, Recipe) and evidence.settings is None
            why = "which settings it was run under is not recorded" if unknown else stale(evidence, params)
            if why:
                left_out[f"{kind}/{path.name}"] = why
            else:
                yield evidence

    labelled = outcomes.read_labelled(project.local)
    if labelled is not None:
        old = {result.model: why for result in labelled.judged if (why := stale(result, params))}
        judged = tuple(result for result in labelled.judged if result.model not in old)
        labelled = Labelled(judged=judged, missing=labelled.missing | old)
        left_out |= {f"{outcomes.LABELLED}: {model}": why for model, why in old.items()}
    return MachineSet(
        LOCAL,
        records,
        {scores.network: scores for scores in fresh("accuracy", outcomes.read_scores)},
        {probe.model: probe for probe in fresh("probes", outcomes.read_probe)},
        labelled,
        {run.name: run for run in fresh("recipes", outcomes.read_recipe)},
        missing,
        left_out,
    )


def _latency(project: Project, params: Params) -> tuple[Records, dict[tuple[str, str], str]]:
    found = {pair: current(project.record(*pair)) for pair in (*params.pairs(), *params.other_pairs())}
    why = {pair: stale(record, params) if record else "not measured" for pair, record in found.items()}
    records = {pair: record for pair, record in found.items() if record and not why[pair]}
    _require_one_machine(files.shown(project.local / "latency"), list(records.values()))
    return records, {pair: reason for pair in params.pairs() if (reason := why[pair])}


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.name.endswith((".json", ".json.gz")))


def _require_one_machine(place: str, records: list[Record]) -> None:
    """Insist that all records come from one machine with one set of versions, or raise a StudyError."""
    for record in records[1:]:
        if differences := record.environment.differs_from(records[0].environment):
            what = f"{'-'.join(record.pair)} comes from another machine: {'; '.join(differences)}"
            raise StudyError(place, what, "keep one machine's records here, and measure the others again")


def record(project: Project, params: Params, name: str, partial: bool = False) -> Path:
    """Copy this machine's evidence, what is stale apart, to the machine called ``name``; return its folder.

    Args:
        partial: copy what is there, though pairs of the study are missing.

    Raises:
        StudyError: the name is unfit or taken, a pair of the study is missing, stale, failed or broken, or all samples
            together are larger than ``SAMPLES_BYTES``.
    """
    folder, asked = project.machines / name, f"record --platform {name}"
    if not re.fullmatch(NAME, name) or name == LOCAL:
        raise StudyError(asked, "not a platform name", "use lower-case words and digits joined by -")
    if folder.exists():
        raise StudyError(files.shown(folder), "there is such a set already", "choose another name or remove it")
    own = local(project, params)
    failed = {pair: record.failure for pair, record in own.records.items() if record.failure}
    missing = own.missing | {pair: f"failed: {why}" for pair, why in failed.items()}
    if missing and not (partial and own.evidence):
        pair, reason = next(iter(missing.items()))
        what = f"{len(missing)} of {len(params.pairs())} pairs are missing ({'-'.join(pair)}: {reason})"
        raise StudyError(asked, what, "run `dvc repro` first, or pack what is there with --partial")
    paths = [project.local / path for path in own.evidence if not path.startswith(outcomes.LABELLED)]
    samples = [samples_of(project.record(*pair)) for pair, record in own.records.items() if record.samples_sha256]
    if (size := sum(path.stat().st_size for path in samples)) > SAMPLES_BYTES:
        what = f"its samples have {size / 1e6:.1f} MB, {SAMPLES_BYTES / 1e6:.0f} MB is the most that a machine may have"
        raise StudyError(asked, what, "measure fewer rounds or batch sizes, or fewer passes in a slot")
    with new_machine(folder) as staging:
        for path in (*paths, *samples):
            files.save(staging / path.relative_to(project.local), path.read_bytes())
        if own.labelled is not None and own.labelled.judged:
            files.save(staging / outcomes.LABELLED, own.labelled)
    return folder


@contextmanager
def new_machine(folder: Path) -> Iterator[Path]:
    """A folder to fill with the evidence of a machine; it gets its manifest, and its name, at the end of the block."""
    with files.new_folder(folder, files.shown(folder)) as staging:
        yield staging
        hashes = {name: files.sha256(staging / name) for name in _present(staging)}
        files.save(staging / MANIFEST, SetManifest(machine=folder.name, files=hashes), indent=1)


def set_manifest(folder: Path) -> SetManifest:
    """The manifest of a named machine. StudyError: there is none, or it is broken."""
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
    return own + list(project.local.glob(outcomes.LABELLED))


def evidence_files(project: Project) -> list[Path]:
    """Every file that :func:`machines` reads, in one order."""
    named = [folder / name for folder in folders(project) for name in (*_present(folder), MANIFEST)]
    return own_files(project) + named
