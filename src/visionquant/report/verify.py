"""Do records, settings, code, tables, notebooks, figures and pages belong together? Every file that does not is named.

What can be derived is derived again and compared; what can't be in a second (executed notebooks) carries the digest of
the evidence it was made from. Evidence is held against the hashes that were taken when it was made: a named machine's
manifest, and this machine's ``dvc.lock``.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat

from visionquant.analysis import frame_files, provenance, published_accuracy
from visionquant.analysis import study as evidence
from visionquant.analysis.claims import ledger
from visionquant.core import yaml12
from visionquant.core.errors import StudyError
from visionquant.core.files import shown
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.records.record import read, stale
from visionquant.report import notebooks, site
from visionquant.settings.params import Params
from visionquant.settings.precision import PrecisionRow
from visionquant.weights import sources as weights
from visionquant.weights.sources import Manifest


class Fault(NamedTuple):
    """A file that does not belong, and why."""

    file: str
    found: str

    @property
    def text(self) -> str:
        return f"{self.file}: {self.found}"


def verify(project: Project, params: Params, measuring_sha256: Callable[[PrecisionRow], str]) -> list[Fault]:
    """Everything that does not belong together, in the order of the pipeline; empty where all does.

    ``measuring_sha256``: the digest of the code that measures a pair in this precision, as it is now.
    """
    faults: list[Fault] = []
    try:
        faults += _named(project)
        faults += _weights(project, params)
        faults += _local(project, params, measuring_sha256)
        published_accuracy.load(project)
        study = evidence.gather(project, params)
    except StudyError as error:
        return faults or [Fault("evidence", str(error))]
    checked = ledger.check_claims(study)
    tables = frame_files.contents(study) | ledger.contents(study, checked)
    faults += _same(project, tables, project.tables, "*.csv")
    faults += _executed(project, params)
    if not any(fault.file.startswith("reports/notebooks") for fault in faults):
        faults += _same(project, site.contents(study, checked), project.reports, "*.html", "explorer/*")
    return faults


def _named(project: Project) -> Iterator[Fault]:
    for folder in archive.folders(project):
        for name, found in archive.faults(folder).items():
            yield Fault(shown(folder / name), found)


def _weights(project: Project, params: Params) -> Iterator[Fault]:
    for model, manifest in _manifests(project, params).items():
        for name, found in weights.altered(project, manifest).items():
            remedy = f"run `visionquant download --model {model}`"
            yield Fault(shown(project.manifest(model)), f"{name}: {found}; {remedy}")


def _manifests(project: Project, params: Params) -> dict[str, Manifest]:
    """Which weights the models of params.yaml have here; those that were not downloaded are left out."""
    rows = {model: row for model, row in params.models.items() if project.manifest(model).is_file()}
    return {model: Manifest.load(project.manifest(model), row.source) for model, row in rows.items()}


def _local(project: Project, params: Params, measuring_sha256: Callable[[PrecisionRow], str]) -> Iterator[Fault]:
    """This machine's evidence: foreign or broken, stale, of other code or weights, or not what the pipeline wrote."""
    locked, manifests = _locked(project), _manifests(project, params)
    pairs = {project.record(*pair).name for pair in (*params.pairs(), *params.other_pairs())}
    for path in archive.own_files(project):
        name = shown(path)
        if name in locked and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != locked[name]:
            yield Fault(name, "not the file that dvc.lock knows: altered, or made outside the pipeline")
        if path.parent.name != "latency":
            continue
        try:
            record = read(path)
        except StudyError as error:
            yield Fault(name, "foreign: no record" if path.name not in pairs else str(error))
            continue
        if path.stem != f"{record.model}-{record.precision}":
            yield Fault(name, f"foreign: it holds {record.model}-{record.precision}")
        if path.name not in pairs:
            continue  # of a pair that the study had before; nothing shows it
        if reason := stale(record, params):
            yield Fault(name, f"stale: {reason}")
        manifest = manifests.get(record.model)
        if manifest is not None and record.settings.weights.manifest_sha256 != manifest.sha256():
            other = shown(project.manifest(record.model))
            yield Fault(name, f"stale: measured with other weights than {other} has")
        code = measuring_sha256(record.settings.precision)
        if record.code.measuring_sha256 != code:
            yield Fault(name, f"stale: measured by code {record.code.measuring_sha256[:8]}, not {code[:8]}")
    for name, reason in archive.local(project, params).stale.items():
        yield Fault(f"{shown(project.local)}/{name}", f"stale: {reason}")


def _locked(project: Project) -> dict[str, str]:
    """Output paths of the pipeline with the md5 that its last run wrote down."""
    path = project.root / "dvc.lock"
    lock = (yaml12.read(path, "dvc.lock") or {}) if path.is_file() else {}
    outs = (out for stage in lock.get("stages", {}).values() for out in stage.get("outs", ()))
    return {out["path"]: out["md5"] for out in outs if "md5" in out}


def _same(project: Project, contents: dict[Path, str], folder: Path, *patterns: str) -> Iterator[Fault]:
    for path, content in contents.items():
        name = path.relative_to(project.root).as_posix()
        if not path.is_file():
            yield Fault(name, "missing")
        elif path.read_text(encoding="utf-8", errors="replace") != content:
            yield Fault(name, "stale: not what the evidence gives")
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)} - set(contents)):
        yield Fault(path.relative_to(project.root).as_posix(), "foreign: nothing of the study makes it")


def _executed(project: Project, params: Params) -> Iterator[Fault]:
    sources = {path.name: path for path in notebooks.source_notebooks(project)}
    digest = provenance.evidence_digest(project, params)
    figures: dict[str, str] = {}
    for name, source in sources.items():
        path, shown = project.executed / name, f"reports/notebooks/{name}"
        if not path.is_file():
            yield Fault(shown, "missing")
            continue
        done = notebooks.read(path)
        if done is None:
            yield Fault(shown, "broken: no notebook")
            continue
        figures |= notebooks.linked_figures(done)
        if [cell.source for cell in done.cells] != [cell.source for cell in nbformat.read(source, as_version=4).cells]:
            yield Fault(shown, "stale: its cells are not those of the source notebook")
        elif done.metadata.get("evidence_sha256") != notebooks.stamp(source, digest):
            yield Fault(shown, "stale: executed over other settings, records, tables or code")
    for path in sorted(project.executed.glob("*")):
        if path.name not in sources:
            yield Fault(f"reports/notebooks/{path.name}", "foreign: no notebook has this name")
    for name, expected in figures.items():
        path = project.figures / name
        if not path.is_file():
            yield Fault(f"reports/figures/{name}", "missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            yield Fault(f"reports/figures/{name}", "stale: not the figure that the notebook shows")
    for path in sorted(project.figures.glob("*")):
        if path.name not in figures:
            yield Fault(f"reports/figures/{path.name}", "foreign: no notebook shows it")
