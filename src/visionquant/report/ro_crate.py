"""Which command made which of the recorded evidence, where and when: ro-crate-metadata.json.

A research object crate (RO-Crate 1.1) with an action for each named machine, in the profile Process Run Crate 0.5. It
names no address and no identifier that nobody gave, so the software has none; the date is that of the last record.
Source: S. Leo et al., Recording provenance of workflow runs with RO-Crate, PLoS ONE 19 (2024) e0309210.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from visionquant.analysis.study import MachineSet, Study
from visionquant.core.errors import StudyError
from visionquant.report import metadata

NAME = "ro-crate-metadata.json"
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
AUTHORS, SOFTWARE, SETTINGS = "#authors", "#visionquant", "params.yaml"


def contents(study: Study) -> dict[Path, str]:
    """ro-crate-metadata.json of the named machines.

    Raises:
        StudyError: none of them says when it was measured.
    """
    spans = {run.name: span for run in study.sets if (span := _span(run))}
    if not spans:
        raise StudyError(NAME, "no named machine says when it was measured", "record one: `visionquant record`")
    about = metadata.package_facts(study.project)
    actions = [_measured(run, spans.get(run.name)) for run in study.sets]
    folders = [_folder(run) for run in study.sets]
    licence = f"https://spdx.org/licenses/{about['license']}"
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": about["name"],
        "description": about["description"],
        "datePublished": max(end for _, end in spans.values()).date().isoformat(),
        "license": _to(licence),
        "conformsTo": _to(PROFILE),
        "hasPart": [_to(SETTINGS), *(_to(folder["@id"]) for folder in folders)],
        "mentions": [_to(action["@id"]) for action in actions],
    }
    graph = [
        {"@id": NAME, "@type": "CreativeWork", "about": _to("./"), "conformsTo": _to(SPECIFICATION)},
        root,
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {"@id": licence, "@type": "CreativeWork", "name": about["license"]},
        {"@id": AUTHORS, "@type": "Organization", "name": metadata.AUTHORS},
        {"@id": SOFTWARE, "@type": "SoftwareApplication", "name": about["name"], "softwareVersion": about["version"]},
        {"@id": SETTINGS, "@type": "File", "name": "settings of the study", "encodingFormat": "application/yaml"},
        *folders,
        *actions,
    ]
    crate = {"@context": f"{SPECIFICATION}/context", "@graph": graph}
    return {study.project.root / NAME: metadata.as_json(crate)}


def _to(entity: str) -> dict[str, str]:
    return {"@id": entity}


def _place(run: MachineSet) -> str:
    return f"data/machines/{run.name}/"


def _folder(run: MachineSet) -> dict[str, Any]:
    parts = {
        "pairs of model and precision timed": len(run.records),
        "networks evaluated": len(run.accuracy),
        "probes of trained weights": len(run.probes),
        "recipes": len(run.recipes),
    }
    held = ", ".join(f"{what}: {count}" for what, count in parts.items() if count)
    return {"@id": _place(run), "@type": "Dataset", "name": f"evidence of {run.name}", "description": held}


def _measured(run: MachineSet, span: tuple[datetime, datetime] | None) -> dict[str, Any]:
    """The run of the pipeline that measured a set, and when, where its rounds say so."""
    machine = run.environment.title if run.environment else "an unknown machine"
    action = {
        "@id": f"#measured-{run.name}",
        "@type": "CreateAction",
        "name": f"measured on {run.name}",
        "description": f"{machine}; {run.weights or 'no'} weights; measuring code {run.code or 'unknown'}",
        "instrument": _to(SOFTWARE),
        "agent": _to(AUTHORS),
        "object": _to(SETTINGS),
        "result": _to(_place(run)),
    }
    times = {"startTime": span[0].isoformat(), "endTime": span[1].isoformat()} if span else {}
    return action | times


def _span(run: MachineSet) -> tuple[datetime, datetime] | None:
    """When its first round began and its last one ended."""
    began = [(datetime.fromisoformat(each.started_at), each.spent_s) for each in run.rounds if each.started_at]
    if not began:
        return None
    return min(start for start, _ in began), max(start + timedelta(seconds=round(spent)) for start, spent in began)
