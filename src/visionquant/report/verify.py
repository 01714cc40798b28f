"""Do records, settings, code, tables, notebooks, figures and pages belong together? Every file that does not is named.

What can be derived is derived again and compared; what can't be in a second (executed notebooks) carries the digest of
the evidence it was made from. Records are held against the hashes that were taken when they were measured: a recorded
set's manifest, and this machine's ``dvc.lock``.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from visionquant.analysis import evidence_digest, longform
from visionquant.analysis import study as evidence
from visionquant.analysis.claims import trial
from visionquant.core import yaml12
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.records import record as records
from visionquant.report import notebooks, pages
from visionquant.settings.params import Params
from visionquant.settings.precision import PrecisionRow
from visionquant.weights import sources as weights
from visionquant.weights.manifest import Manifest


@dataclass(frozen=True)
class Fault:
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
        faults += _recorded(project)
        faults += _weights(project, params)
        faults += _measured(project, params, measuring_sha256)
        study = evidence.gather(project, params)
    except StudyError as error:
        return faults or [Fault("evidence", str(error))]
    tables = longform.contents(study) | trial.contents(study, trial.hold(study))
    faults += _same(project, tables, project.tables, "*.csv")
    faults += _executed(project, params)
    if not any(fault.file.startswith("reports/notebooks") for fault in faults):
        faults += _same(project, pages.contents(study), project.reports, "*.html")
    return faults


def _recorded(project: Project) -> Iterator[Fault]:
    folders = [path for path in project.recorded.iterdir() if path.is_dir()] if project.recorded.is_dir() else []
    for folder in sorted(path for path in folders if not path.name.startswith(".")):
        for name, found in archive.faults(folder).items():
            yield Fault(f"data/recorded/{folder.name}/{name}", found)


def _weights(project: Project, params: Params) -> Iterator[Fault]:
    for model, manifest in _manifests(project, params).items():
        for name, found in weights.altered(project, manifest).items():
            yield Fault(f"data/models/{model}.json", f"{name}: {found}; run `visionquant download --model {model}`")


def _manifests(project: Project, params: Params) -> dict[str, Manifest]:
    """Which weights the models of params.yaml have here; those that were not downloaded are left out."""
    rows = {model: row for model, row in params.models.items() if project.manifest(model).is_file()}
    return {model: Manifest.load(project.manifest(model), row.source) for model, row in rows.items()}


def _measured(project: Project, params: Params, measuring_sha256: Callable[[PrecisionRow], str]) -> Iterator[Fault]:
    if not project.measured.is_dir():
        return
    pairs = {project.record(*pair).name: pair for pair in (*params.pairs(), *params.other_pairs())}
    locked, manifests = _locked(project), _manifests(project, params)
    files = (one for one in project.measured.iterdir() if one.is_file())
    for path in sorted(one for one in files if not one.name.startswith(".")):
        name = f"data/measured/{path.name}"
        try:
            record = records.read(path)
        except StudyError as error:
            yield Fault(name, "foreign: no record" if path.name not in pairs else str(error))
            continue
        if project.record(record.model, record.precision) != path:
            yield Fault(name, f"foreign: it holds {record.model}-{record.precision}")
        if path.name not in pairs:
            continue  # of a pair that the study had before; nothing shows it
        stale = records.stale(record, params)
        if stale:
            yield Fault(name, f"stale: {stale}")
        manifest = manifests.get(record.model)
        if manifest is not None and record.settings.weights.manifest_sha256 != manifest.sha256():
            yield Fault(name, f"stale: measured with other weights than data/models/{record.model}.json has")
        code = measuring_sha256(record.settings.precision)
        if record.code.measuring_sha256 != code:
            yield Fault(name, f"stale: measured by code {record.code.measuring_sha256[:8]}, not {code[:8]}")
        if name in locked and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != locked[name]:
            yield Fault(name, "not the file that dvc.lock knows: altered, or measured outside the pipeline")


def _locked(project: Project) -> dict[str, str]:
    """Output paths of the pipeline with the md5 that its last run wrote down."""
    path = project.root / "dvc.lock"
    if not path.is_file():
        return {}
    stages: dict[str, dict[str, Any]] = (yaml12.read(path, "dvc.lock") or {}).get("stages", {})
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ()) if "md5" in out}


def _same(project: Project, contents: dict[Path, str], folder: Path, pattern: str) -> Iterator[Fault]:
    for path, content in contents.items():
        name = path.relative_to(project.root).as_posix()
        if not path.is_file():
            yield Fault(name, "missing")
        elif path.read_text(encoding="utf-8", errors="replace") != content:
            yield Fault(name, "stale: not what the evidence gives")
    for path in sorted(set(folder.glob(pattern)) - set(contents)):
        yield Fault(path.relative_to(project.root).as_posix(), "foreign: nothing of the study makes it")


def _executed(project: Project, params: Params) -> Iterator[Fault]:
    sources = {path.name: path for path in notebooks.sources(project)}
    digest = evidence_digest.of(project, params)
    figures: dict[str, str] = {}
    for name, source in sources.items():
        path, shown = project.executed / name, f"reports/notebooks/{name}"
        if not path.is_file():
            yield Fault(shown, "missing")
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            done = nbformat.reads(text, as_version=4)
        except (nbformat.reader.NotJSONError, nbformat.ValidationError):
            yield Fault(shown, "broken: no notebook")
            continue
        figures |= notebooks.linked_figures(text)
        if [cell.source for cell in done.cells] != [cell.source for cell in nbformat.read(source, as_version=4).cells]:
            yield Fault(shown, "stale: its cells are not those of the source notebook")
        elif done.metadata.get("evidence_sha256") != digest:
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
