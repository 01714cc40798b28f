"""One number for all that a notebook looks at: settings, evidence, published tables, counts, and the code over them."""

import hashlib
import json

from visionquant.core.files import sha256
from visionquant.core.fingerprint import code_sha256
from visionquant.core.paths import PACKAGE, Project
from visionquant.records import archive
from visionquant.settings.params import Params

PACKAGES = ("core", "settings", "records", "weights", "analysis")  # that make figures of evidence


def of(project: Project, params: Params) -> str:
    """The sha256 over the settings in force, every file behind a table or figure by name and content, and the code."""
    settings = params.model_dump(mode="json", exclude={"protocols"}) | {"protocol": params.protocol.model_dump()}
    committed = [path for folder in (project.supplement, project.architectures) for path in sorted(folder.rglob("*.*"))]
    modules = [path for name in PACKAGES for path in (PACKAGE / name).rglob("*.py")]
    parts = [json.dumps(settings, sort_keys=True), code_sha256(modules, PACKAGE)]
    for path in (*archive.evidence_files(project), *committed):
        parts += [path.relative_to(project.root).as_posix(), sha256(path)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
