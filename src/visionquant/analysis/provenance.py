"""Where figures come from and what is missing: machine, weights, code, cells, and one number for all of it."""

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING

from visionquant.analysis.frame import ARITHMETIC, PUBLISHED
from visionquant.core.files import code_sha256, sha256
from visionquant.core.paths import LOCAL, PACKAGE, Project
from visionquant.records import archive
from visionquant.records.machine_set import MachineSet
from visionquant.settings.params import Params

if TYPE_CHECKING:
    from visionquant.analysis.study import Study

PACKAGES = ("core", "settings", "records", "weights", "analysis")  # that make figures of evidence


def cells(study: "Study", machine_set: MachineSet) -> tuple[tuple[str, str, int], ...]:
    """(model, precision, batch size) that a set is meant to hold: the study's own, or what was brought."""
    if machine_set.source == LOCAL:
        sizes = study.params.study.batch_sizes
        return tuple((*pair, size) for pair in study.params.pairs() for size in sizes)
    return tuple((*pair, cell.batch_size) for pair, record in machine_set.records.items() for cell in record.cells)


def counts(study: "Study", machine_set: MachineSet) -> dict[str, int]:
    """Cells by status, "ok" first, the others by name."""
    found = Counter(machine_set.state(*key).status for key in cells(study, machine_set))
    return {"ok": found.pop("ok", 0), **dict(sorted(found.items()))}


def timed_share(machine_set: MachineSet) -> float | None:
    """Seconds in passes over all seconds that the measuring took (0 to 1), None for an empty set.

    Passes before the timed ones count, reference kernels do not; of a set before rounds the timed passes alone.
    """
    found = machine_set.rounds
    passes_s = sum(one.passes_s or sum(sum(slot.wall_ms) for slot in one.slots) / 1e3 for one in found)
    return passes_s / machine_set.spent_s if machine_set.spent_s > 0 else None


def describe(machine_set: MachineSet) -> str:
    """One line: source, machine, weights, code."""
    environment, one = machine_set.environment, machine_set
    if environment is None:
        return "nothing measured on this machine"
    return f"{one.label}: {environment.title}; {one.weights} weights; measuring code {one.code}"


def published(study: "Study") -> str:
    """One line: the published machine."""
    setup = study.published.setup
    return f"published: {setup.get('gpu', 'unknown GPU')}, torch {setup.get('torch', 'unknown')}"


def sources(study: "Study") -> dict[str, str]:
    """Every source of the frame with a line on what stands behind it."""
    others = {PUBLISHED: published(study), ARITHMETIC: "arithmetic: from parameter counts, no model loaded"}
    return others | {one.source: describe(one) for one in study.sets}


def line(study: "Study") -> str:
    """What stands behind the measured columns, set by set, with the published machine first."""
    return ". ".join(map(_capital, (published(study), *map(describe, study.shown)))) + "."


def warnings(study: "Study") -> tuple[str, ...]:
    """What a reader must know before any figure, most important first; empty where nothing needs saying."""
    found = []
    if not any(one.records for one in study.sets):
        remedy = "Run `dvc repro`, or `visionquant sweep`."
        found.append(f"Nothing has been measured yet: every measured column is empty. {remedy}")
    if busy := taken_by_others(study):
        found.append(busy)
    for one in study.shown:
        name, kinds = _capital(one.label), {(r.model, r.settings.weights.kind) for r in one.records.values()}
        if "seeded" in one.weights:
            seeded, models = sum(kind == "seeded" for _, kind in kinds), len({model for model, _ in kinds})
            found.append(
                f"{name}: seeded weights, not trained ones ({seeded} of {models} models). FP32 and FP16 latency, "
                "memory and sizes do not depend on the values of weights; INT8's path for outliers and agreement with "
                "FP32 do. Nothing of theirs is accuracy."
            )
        if one.records and (why := study.comparable(one)):
            found.append(f"{name}: absolute figures are not comparable; {why}.")
        if keys := one.recorded_under(study.params):
            found.append(f"{name}: recorded under other settings: {', '.join(keys)}.")
    if stale := sum(reason != "not measured" for one in study.sets for reason in one.missing.values()):
        found.append(f"Stale records, left out because params.yaml has changed since: {stale}. Run `dvc repro`.")
    if beside := sum(len(one.stale) for one in study.sets):
        found.append(f"Other evidence of this machine, left out as stale: {beside}; `visionquant verify` says why.")
    return tuple(found)


def taken_by_others(study: "Study") -> str:
    """That other programs disturbed every cell, and what to do; empty where they did not."""
    seen = counts(study, study.measured)
    if not seen.get("busy") or seen["ok"]:
        return ""
    cores, key = study.measured.rounds[0].threads, f"protocols.{study.params.study.protocol}.threads"
    less = f" Or leave them a core: `--set {key}={cores - 1}`." if cores > 1 else ""
    return (
        f"Other programs were at work in all {seen['busy']} cells that were measured, so there is no figure of "
        f"speed. As many threads as cores wait for the one that is taken. Close them and run `make repro`.{less}"
    )


def evidence_digest(project: Project, params: Params) -> str:
    """The sha256 over the settings in force, every file behind a table or figure by name and content, and the code."""
    settings = params.model_dump(mode="json", exclude={"protocols"}) | {"protocol": params.protocol.model_dump()}
    folders = (project.supplement, project.published, project.architectures)
    committed = [path for folder in folders for path in sorted(folder.rglob("*.*"))]
    modules = [path for name in PACKAGES for path in (PACKAGE / name).rglob("*.py")]
    parts = [json.dumps(settings, sort_keys=True), code_sha256(modules, PACKAGE)]
    for path in (*archive.evidence_files(project), *committed):
        parts += [path.relative_to(project.root).as_posix(), sha256(path)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
