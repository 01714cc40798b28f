"""Where figures come from and what is missing: machine, weights, code, cells, and the share of time spent timing."""

from collections import Counter

from visionquant.analysis.study import Evidence, RecordSet
from visionquant.records.record import Record


def cells(evidence: Evidence, records_: RecordSet) -> tuple[tuple[str, str, int], ...]:
    """(model, precision, batch size) that a set is meant to hold: the study's own, or what was brought."""
    if records_.source == "local":
        sizes = evidence.params.study.batch_sizes
        return tuple((*pair, size) for pair in evidence.params.pairs() for size in sizes)
    return tuple((*pair, cell.batch_size) for pair, record in records_.records.items() for cell in record.cells)


def counts(evidence: Evidence, records_: RecordSet) -> dict[str, int]:
    """Cells by status, "ok" first, the others by name."""
    found = Counter(records_.state(*key).status for key in cells(evidence, records_))
    return {"ok": found.pop("ok", 0), **dict(sorted(found.items()))}


def timed_share(records_: RecordSet) -> float | None:
    """Timed seconds over all seconds that the measuring took (0 to 1), None for an empty set."""
    elapsed = sum(record.elapsed_s for record in records_.records.values())
    timed = sum(cell.timed_s() for record in records_.records.values() for cell in record.cells)
    return timed / elapsed if elapsed > 0 else None


def describe(records_: RecordSet) -> str:
    """One line: source, machine, weights, code."""
    environment = records_.environment
    if environment is None:
        return "nothing measured on this machine"
    where = "measured" if records_.source == "local" else records_.label
    return f"{where}: {environment.title}; {records_.weights} weights; measuring code {records_.code}"


def line(evidence: Evidence) -> str:
    """What stands behind the measured columns, set by set, with the published machine first."""
    setup = evidence.published.setup
    published = f"published: {setup.get('gpu', 'unknown GPU')}, torch {setup.get('torch', 'unknown')}"
    return _capital(published) + ". " + ". ".join(_capital(describe(one)) for one in evidence.shown) + "."


def warnings(evidence: Evidence) -> tuple[str, ...]:
    """What a reader must know before any figure, most important first; empty where nothing needs saying."""
    found = []
    if not any(one.records for one in evidence.sets):
        found.append(
            "Nothing has been measured yet: every measured column is empty. Run `dvc repro`, or `visionquant sweep`."
        )
    for one in evidence.shown:
        if "seeded" in one.weights:
            models = {record.model for record in one.records.values() if record.settings.weights.kind == "seeded"}
            found.append(
                f"{_capital(one.label)}: seeded weights, not trained ones ({len(models)} of "
                f"{len({record.model for record in one.records.values()})} models). FP32 and FP16 latency, memory and "
                "sizes do not depend on the values of weights; INT8's path for outliers and agreement with FP32 do. "
                "Nothing of theirs is accuracy."
            )
        why = evidence.comparable(one) if one.records else ""
        if why:
            found.append(f"{_capital(one.label)}: absolute figures are not comparable; {why}.")
        changed = sum(_other_rows(evidence, record) for record in one.records.values())
        if changed:
            found.append(
                f"{_capital(one.label)}: pairs measured with another model or precision row than params.yaml has now: "
                f"{changed}."
            )
    stale = sum(reason != "not measured" for one in evidence.sets for reason in one.missing.values())
    if stale:
        found.append(f"Stale records, left out because params.yaml has changed since: {stale}. Run `dvc repro`.")
    return tuple(found)


def _other_rows(evidence: Evidence, record: Record) -> bool:
    params, settings = evidence.params, record.settings
    return (settings.model, settings.precision) != (
        params.models.get(record.model),
        params.precisions.get(record.precision),
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
