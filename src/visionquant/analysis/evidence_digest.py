"""One number for all that a notebook looks at: settings, records, published tables, counts, and the code over them."""

import hashlib
import json
from pathlib import Path

from visionquant.core.paths import PACKAGE, Project
from visionquant.settings.params import Params

# Packages that make figures of records.
BELOW = ("core", "settings", "records", "weights", "analysis")


def of(project: Project, params: Params) -> str:
    """The sha256 over the settings in force and over names and contents of the files behind every table and figure."""
    settings = params.model_dump(mode="json", exclude={"protocols"}) | {"protocol": params.protocol.model_dump()}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in _files(project):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(project: Project) -> list[Path]:
    data = [
        project.evaluated,
        project.accuracy,
        project.measured,
        project.recorded,
        project.supplement,
        project.architectures,
    ]
    found: list[Path] = []
    for folder in data:
        found += sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".csv", ".yaml"))
    return found + [path for name in BELOW for path in sorted((PACKAGE / name).rglob("*.py"))]
