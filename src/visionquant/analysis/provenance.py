"""Where figures come from and what is missing: machine, weights, code, cells, and the share of time spent timing."""

from collections import Counter
from typing import TYPE_CHECKING

from visionquant.core.paths import LOCAL
from visionquant.records.machine_set import MachineSet

if TYPE_CHECKING:
    from visionquant.analysis.study import Study


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
    """Timed seconds over all seconds that the measuring took (0 to 1), None for an empty set."""
    elapsed = sum(record.elapsed_s for record in machine_set.records.values())
    timed = sum(cell.timed_s() for record in machine_set.records.values() for cell in record.cells)
    return timed / elapsed if elapsed > 0 else None


def describe(machine_set: MachineSet) -> str:
    """One line: source, machine, weights, code."""
    environment = machine_set.environment
    if environment is None:
        return "nothing measured on this machine"
    where = "measured" if machine_set.source == LOCAL else machine_set.label
    return f"{where}: {environment.title}; {machine_set.weights} weights; measuring code {machine_set.code}"


def line(study: "Study") -> str:
    """What stands behind the measured columns, set by set, with the published machine first."""
    setup = study.published.setup
    published = f"published: {setup.get('gpu', 'unknown GPU')}, torch {setup.get('torch', 'unknown')}"
    return _capital(published) + ". " + ". ".join(_capital(describe(one)) for one in study.shown) + "."


def warnings(study: "Study") -> tuple[str, ...]:
    """What a reader must know before any figure, most important first; empty where nothing needs saying."""
    found = []
    if not any(one.records for one in study.sets):
        remedy = "Run `dvc repro`, or `visionquant sweep`."
        found.append(f"Nothing has been measured yet: every measured column is empty. {remedy}")
    for one in study.shown:
        if "seeded" in one.weights:
            models = {record.model for record in one.records.values() if record.settings.weights.kind == "seeded"}
            found.append(
                f"{_capital(one.label)}: seeded weights, not trained ones ({len(models)} of "
                f"{len({record.model for record in one.records.values()})} models). FP32 and FP16 latency, memory and "
                "sizes do not depend on the values of weights; INT8's path for outliers and agreement with FP32 do. "
                "Nothing of theirs is accuracy."
            )
        why = study.comparable(one) if one.records else ""
        if why:
            found.append(f"{_capital(one.label)}: absolute figures are not comparable; {why}.")
        keys = one.recorded_under(study.params)
        if keys:
            found.append(f"{_capital(one.label)}: recorded under other settings: {', '.join(keys)}.")
    stale = sum(reason != "not measured" for one in study.sets for reason in one.missing.values())
    if stale:
        found.append(f"Stale records, left out because params.yaml has changed since: {stale}. Run `dvc repro`.")
    beside = sum(len(one.stale) for one in study.sets)
    if beside:
        found.append(f"Other evidence of this machine, left out as stale: {beside}; `visionquant verify` says why.")
    return tuple(found)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
