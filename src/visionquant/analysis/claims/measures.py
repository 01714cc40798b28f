"""What a record set has to say of a claim: figures with their bounds, or a word on a sentence.

What a claim measures is one word with its arguments, divided by "/":

    cell/QUANTITY/PRECISION              a cell of the claim's own row at batch size 1
    memory/PRECISION, memory_reduction/PRECISION    weights by their bytes, with the workspace
    bytes/PRECISION                      every model's published column against that precision's bytes
    parameters                           of the network as built
    over/SUBJECT/STATISTIC[/GROUP]       a statistic over models;  share/...: the same as a share of one
    expected/QUANTITY/PRECISION/MODEL    a cell of a model named
    faster-everywhere/PRECISION[+...][/anywhere], faster-somewhere/PRECISION/GROUP    by verdicts
    smaller-everywhere/PRECISION         stored weights against FP16's, FP16's against FP32's
    energy/PRECISION                     energy an image against FP32's
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from visionquant.analysis import statistics, subjects
from visionquant.analysis.claims import bounded, tables
from visionquant.analysis.claims.bounded import Bounded
from visionquant.analysis.claims.claim import Claim
from visionquant.analysis.study import BASELINE, Evidence, RecordSet
from visionquant.analysis.subjects import Subject
from visionquant.analysis.verdicts import Verdict
from visionquant.weights import architectures

Word = Literal["supported", "refuted", "undecided", "not comparable", "not measured"]
BYTES = (
    "bytes of the stored weights and the workspace, the same on every machine; the allocator may keep up to 4 MiB more"
)
SLACK_MIB = 4.0  # what an allocator keeps beside weights and workspace, in blocks of 2 MiB


@dataclass(frozen=True)
class Figure:
    """A measured figure; without bounds it is exact or has none, ``anywhere`` if no machine changes it.

    ``slack`` is by how much the published figure may differ from it either way, in its unit.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""
    anywhere: bool = False
    slack: float = 0.0


@dataclass(frozen=True)
class Court:
    """One set of records with the verdicts on its speeds, worked out once for all claims."""

    evidence: Evidence
    records: RecordSet
    verdicts: dict[tuple[str, str], Verdict]

    @property
    def why_not(self) -> str:
        """Why times of this set don't compare with the published ones; empty where they do."""
        return self.evidence.comparable(self.records)


def court(evidence: Evidence, records_: RecordSet) -> Court:
    """The court that sits over one set."""
    return Court(evidence, records_, evidence.verdicts(records_, 1))


def _cell(court: Court, claim: Claim, quantity: str, precision: str, model: str = "") -> list[Figure]:
    found = court.evidence.estimate(court.records, quantity, model or claim.row, precision, 1)
    return [Figure(found.value, found.low, found.high, found.reason)]


def _memory_name(court: Court) -> str:
    """On the published card what was allocated after a run; elsewhere bytes, for a workspace differs between cards."""
    return "memory_with_workspace" if court.why_not else "memory_allocated_after"


def _memory(court: Court, claim: Claim, precision: str) -> list[Figure]:
    found = court.evidence.estimate(court.records, _memory_name(court), claim.row, precision, 1)
    if court.why_not or found.value is None:
        return [Figure(found.value, why=found.reason or BYTES, anywhere=True)]
    why = f"allocated after the run; an allocator's blocks differ by up to {SLACK_MIB:g} MiB"
    return [Figure(found.value, why=why, anywhere=True, slack=SLACK_MIB)]


def _reduction(court: Court, claim: Claim, precision: str) -> list[Figure]:
    found = _reductions(court, precision, (claim.row,)).get(claim.row)
    if found is None:
        reason = court.evidence.estimate(court.records, "memory_stored_weights", claim.row, precision, 1).reason
        return [Figure(None, why=reason or "no FP32 size to compare with")]
    return [Figure(found.value, found.low, found.high, BYTES, anywhere=True)]


def _reductions(court: Court, precision: str, models: tuple[str, ...]) -> dict[str, Bounded]:
    """Memory saved against FP32 in percent, with what an allocator may keep beside the bytes in doubt.

    Bytes are the least that may have been published; what the card had allocated errs either way.
    """
    name = _memory_name(court)
    mine = court.evidence.values(court.records, name, precision, models)
    base = court.evidence.values(court.records, name, BASELINE, models)

    below = 0.0 if court.why_not else SLACK_MIB

    def saved(mine: float, base: float) -> float:
        return 100 * (1 - mine / base)

    return {
        model: Bounded(
            saved(mine[model], base[model]),
            saved(mine[model] + SLACK_MIB, base[model] - below),
            saved(mine[model] - below, base[model] + SLACK_MIB),
        )
        for model in models
        if model in mine and model in base
    }


def _parameters(court: Court, claim: Claim) -> list[Figure]:
    record = court.records.records.get((claim.row, BASELINE))
    if record is None or record.size is None or claim.printed is None:
        return [Figure(None, why=court.records.state(claim.row, BASELINE, 1).reason)]
    bare = record.size.parameters / 1e6
    head = tables.head_millions(architectures.config(court.evidence.project, claim.row) or {})
    return [
        Figure(bare, why="parameters of the network as built, without a head", anywhere=True),
        Figure(bare + head, why="parameters of the network as built and a head of 1000 classes", anywhere=True),
    ]


def _over(court: Court, claim: Claim, subject: str, statistic: str, group: str = "") -> list[Figure]:
    """Every reading of the group, and of a spread or a percentile every definition."""
    evidence, about = court.evidence, subjects.subject(subject)
    everyone = tuple(row.name for row in evidence.published.models)
    readings = subjects.groups(evidence, group) if group else {"": everyone}
    found = []
    for reading, models in readings.items():
        values = _values(court, about, models)
        missing = [model for model in models if model not in values]
        if missing:
            found.append(Figure(None, why=f"{len(missing)} of {len(models)} models have no figure, e.g. {missing[0]}"))
            continue
        numbers = tuple(values.values())
        saved = about.quantity == "memory_reduction"
        why = f"over {len(models)} models" + (f", {reading}" if reading else "") + (f"; {BYTES}" if saved else "")
        for name, one in _statistics(statistic, numbers).items():
            told = f"{why}; {name}" if name != statistic else why
            found.append(Figure(one.value, one.low, one.high, told, anywhere=saved))
    return found


def _values(court: Court, about: Subject, models: tuple[str, ...]) -> dict[str, Bounded]:
    if about.quantity == "memory_reduction":
        return _reductions(court, about.precision, models)
    found = {}
    for model in models:
        one = court.evidence.estimate(court.records, about.quantity, model, about.precision, 1)
        if one.value is not None and one.low is not None and one.high is not None:
            found[model] = Bounded(one.value, one.low, one.high)
    return found


def _statistics(statistic: str, numbers: tuple[Bounded, ...]) -> dict[str, Bounded]:
    """A statistic under each of its definitions."""
    if statistic == "std":
        return {f"std, n - {ddof}" if ddof else "std, n": bounded.spread(numbers, ddof) for ddof in (1, 0)}
    names = [name for name in statistics.summary([1.0, 2.0]) if name.split("_")[0] == statistic]

    def of(name: str) -> Bounded:
        return bounded.rising(lambda data: statistics.summary(list(data))[name], numbers)

    return {name: of(name) for name in names}


def _share(court: Court, claim: Claim, subject: str, statistic: str) -> list[Figure]:
    """The validation protocol's own metric, which is of the published card alone."""
    return [
        one
        if one.value is None or one.low is None or one.high is None
        else Figure(one.value / 100, one.low / 100, one.high / 100, one.why)
        for one in _over(court, claim, subject, statistic)
    ]


def _energy(court: Court, claim: Claim, precision: str) -> list[Figure]:
    models = court.evidence.models
    mine = court.evidence.values(court.records, "energy_per_image", precision, models)
    base = court.evidence.values(court.records, "energy_per_image", BASELINE, models)
    saved = [100 * (1 - mine[model] / base[model]) for model in models if model in mine and model in base]
    if not saved:
        return [Figure(None, why="no counter of energy was read on this machine")]
    why = f"energy an image above idle, over {len(saved)} models"
    return [Figure(sum(saved) / len(saved), min(saved), max(saved), why)]


def _everywhere(court: Court, precisions: str, where: str = "") -> tuple[Word, str]:
    counts, total = {"FASTER": 0, "SLOWER": 0, "SAME": 0, "UNDECIDED": 0}, 0
    for precision in precisions.split("+"):
        for model in (row.name for row in court.evidence.published.models):
            total += 1
            verdict = court.verdicts.get((model, precision))
            if verdict is not None:
                counts[verdict.word] += 1
    told = ", ".join(f"{word} {count}" for word, count in counts.items() if count)
    if not sum(counts.values()):
        return "not measured", "no speed was measured"
    machine = court.records.environment
    told = f"of {total} speeds {told}" + (f" on {machine.title}" if machine else "")
    if court.why_not and not where:
        return "not comparable", f"{court.why_not}; there {told}"
    if counts["SLOWER"] or counts["SAME"]:
        return "refuted", told
    return ("supported" if counts["FASTER"] == total else "undecided"), told


def _somewhere(court: Court, precision: str, group: str) -> tuple[Word, str]:
    published = court.evidence.published
    models = tuple(row.name for row in published.models) if group == "all" else published.group_by_rule(group)
    words = {model: court.verdicts[model, precision].word for model in models if (model, precision) in court.verdicts}
    faster = [model for model, word in words.items() if word == "FASTER"]
    if court.why_not and words:
        return "not comparable", f"{court.why_not}; there {len(faster)} of {len(models)} are FASTER"
    if faster:
        return "supported", f"FASTER on {len(faster)} of {len(models)}, e.g. {faster[0]}"
    if not words:
        return "not measured", "no speed was measured"
    known = len(words) == len(models) and all(word in ("SLOWER", "SAME") for word in words.values())
    return ("refuted" if known else "undecided"), f"of {len(models)} models none is FASTER"


def _smaller(court: Court, precision: str) -> tuple[Word, str]:
    """Stored weights against those of FP16, and FP16's against FP32's."""
    models = tuple(row.name for row in court.evidence.published.models)
    other = BASELINE if precision == "fp16" else "fp16"
    mine = court.evidence.values(court.records, "memory_stored_weights", precision, models)
    theirs = court.evidence.values(court.records, "memory_stored_weights", other, models)
    both = [model for model in models if model in mine and model in theirs]
    if len(both) < len(models):
        return "not measured", f"{len(models) - len(both)} of {len(models)} models have no figure"
    larger = [model for model in both if mine[model] >= theirs[model]]
    if larger:
        return "refuted", f"not smaller than {other} on {', '.join(larger)}"
    return "supported", f"bytes of the stored weights below {other}'s on all {len(models)} models"


def _published_bytes(court: Court, precision: str) -> tuple[Word, str]:
    name = _memory_name(court)
    column = court.evidence.published.column("memory_published", precision)
    measured = court.evidence.values(court.records, name, precision, tuple(column))
    if not measured:
        return "not measured", "no size was measured"
    far = [model for model, value in measured.items() if abs(column[model] - value) > SLACK_MIB]
    if far:
        worst = max(far, key=lambda model: abs(column[model] - measured[model]))
        shown = f"measured {measured[worst]:.2f}, published {column[worst]:.2f} MiB"
        why = f"{len(far)} of {len(measured)} models, e.g. {worst}: {shown}"
        return "refuted", why
    if len(measured) < len(column):
        return "undecided", f"{len(measured)} of {len(column)} models have a figure, and fit"
    return "supported", f"all {len(column)} models"


def counts(measured: str) -> bool:
    """Whether what a claim measures is bytes or parameters, which are the same on every machine."""
    return any(word in measured for word in ("memory", "bytes", "smaller", "parameters"))


FIGURES: dict[str, Callable[..., list[Figure]]] = {
    "cell": _cell,
    "expected": _cell,
    "memory": _memory,
    "memory_reduction": _reduction,
    "parameters": _parameters,
    "over": _over,
    "share": _share,
    "energy": _energy,
}
SENTENCES: dict[str, Callable[..., tuple[Word, str]]] = {
    "bytes": _published_bytes,
    "faster-everywhere": _everywhere,
    "faster-somewhere": _somewhere,
    "smaller-everywhere": _smaller,
}
