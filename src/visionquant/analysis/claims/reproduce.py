"""Does a measurement support a claim? Judged on each set of records, with the interval behind the word.

Times compare only with the published card, so on another machine they are "not comparable", with what was measured
there beside them. Bytes and counts are the same on every machine. A sentence without a machine in it ("universal") is
judged wherever something was measured. "supported" and "refuted" need the whole interval on one side; in between the
word is "undecided", and says so rather than choosing.

What a claim measures is one word with its arguments, divided by "/":

    cell/QUANTITY/PRECISION              a cell of the claim's own row at batch size 1
    memory/PRECISION, memory_reduction/PRECISION    weights by their bytes, with the workspace
    bytes/PRECISION                      every model's published column against that precision's bytes
    parameters                           of the network as built
    over/SUBJECT/STATISTIC[/GROUP]       a statistic over models;  share/...: the same as a share of one
    expected/QUANTITY/PRECISION/MODEL    a cell of a model named
    faster-everywhere/PRECISION[+...], faster-somewhere/PRECISION/GROUP    by verdicts
    smaller-everywhere/PRECISION         stored weights against FP16's
    energy/PRECISION                     energy an image against FP32's
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from visionquant import zoo
from visionquant.analysis import statistics, subjects
from visionquant.analysis.claims import bounded, judge, tables
from visionquant.analysis.claims.bounded import Bounded
from visionquant.analysis.claims.claim import FILE, Claim
from visionquant.analysis.evidence import BASELINE, Evidence, RecordSet
from visionquant.analysis.verdicts import Verdict
from visionquant.errors import StudyError

Word = Literal["supported", "refuted", "undecided", "not comparable", "not measured"]
SHARE = 0.05  # a measured time within so much of the published one supports it: the supplement's own tolerance
BYTES = (
    "bytes of the stored weights and the workspace, the same on every machine; the allocator may keep up to 4 MiB more"
)
SLACK_MIB = 4.0  # what an allocator keeps beside weights and workspace, in blocks of 2 MiB


@dataclass(frozen=True)
class Reproduction:
    """One claim on one set of records; ``page`` shows the figures behind it."""

    source: str
    word: Word
    value: float | None
    low: float | None
    high: float | None
    why: str


@dataclass(frozen=True)
class _Figure:
    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""
    anywhere: bool = False


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


def reproduce(claim: Claim, court: Court) -> Reproduction:
    """Judge one claim on one set.

    Raises:
        StudyError: the claim measures something that is not known here.
    """
    source = court.records.source
    if claim.entry.outcome:
        word: Word = "supported" if claim.entry.outcome == "works" else "refuted"
        return Reproduction(source, word, None, None, None, f"run by {claim.entry.shown_by}")
    if not claim.entry.measures:
        return Reproduction(source, "not measured", None, None, None, "no measurement here bears on it")
    verb, *arguments = claim.entry.measures.split("/")
    if verb in _SENTENCES:
        word, why = _SENTENCES[verb](court, *arguments)
        return Reproduction(source, word, None, None, None, why)
    if verb not in _FIGURES:
        raise StudyError(FILE, f"{claim.id} measures {verb}", f"known: {', '.join([*_FIGURES, *_SENTENCES])}")
    found = _FIGURES[verb](court, claim, *arguments)
    word, why = _word(claim, court, found)
    return Reproduction(source, word, found.value, found.low, found.high, why)


def _word(claim: Claim, court: Court, found: _Figure) -> tuple[Word, str]:
    if found.value is None or claim.printed is None:
        return "not measured", found.why
    if not found.anywhere and court.why_not:
        return "not comparable", court.why_not
    printed = judge.stretched(claim)
    share = 0.0 if found.anywhere else SHARE * abs(claim.printed.value)
    low, high = printed.low - share, printed.high + share
    bounds = found.value if found.low is None else found.low, found.value if found.high is None else found.high
    if bounds[1] < low or bounds[0] > high:
        return "refuted", found.why
    if low <= found.value <= high:
        return "supported", found.why
    return "undecided", f"{found.why}; the interval reaches the published figure".lstrip("; ")


def _cell(court: Court, claim: Claim, quantity: str, precision: str, model: str = "") -> _Figure:
    found = court.evidence.estimate(court.records, quantity, model or claim.row, precision, 1)
    return _Figure(found.value, found.low, found.high, found.reason)


def _memory(court: Court, claim: Claim, precision: str) -> _Figure:
    name = subjects.counterpart(court.records, "memory_published")
    found = court.evidence.estimate(court.records, name, claim.row, precision, 1)
    return _Figure(found.value, why=found.reason or BYTES, anywhere=True)


def _reduction(court: Court, claim: Claim, precision: str) -> _Figure:
    found = _reductions(court, precision, (claim.row,)).get(claim.row)
    if found is None:
        reason = court.evidence.estimate(court.records, "memory_stored_weights", claim.row, precision, 1).reason
        return _Figure(None, why=reason or "no FP32 size to compare with")
    return _Figure(found.value, found.low, found.high, BYTES, anywhere=True)


def _reductions(court: Court, precision: str, models: tuple[str, ...]) -> dict[str, Bounded]:
    """Memory saved against FP32 in percent; where it is worked out from bytes, with the allocator's share in doubt."""
    name = subjects.counterpart(court.records, "memory_published")
    mine = court.evidence.values(court.records, name, precision, models)
    base = court.evidence.values(court.records, name, BASELINE, models)
    slack = SLACK_MIB if name == "memory_with_workspace" else 0.0

    def saved(low: float, high: float) -> float:
        return 100 * (1 - low / high)

    return {
        model: Bounded(
            saved(mine[model], base[model]),
            saved(mine[model] + slack, base[model]),
            saved(mine[model], base[model] + slack),
        )
        for model in models
        if model in mine and model in base
    }


def _parameters(court: Court, claim: Claim) -> _Figure:
    record = court.records.records.get((claim.row, BASELINE))
    if record is None or record.size is None or claim.printed is None:
        return _Figure(None, why=court.records.state(claim.row, BASELINE, 1).reason)
    bare = record.size.parameters / 1e6
    head = tables.head_millions(zoo.config(court.evidence.project, claim.row) or {})
    with_head = bare + head, "parameters of the network as built and a head of 1000 classes"
    without = bare, "parameters of the network as built, without a head"
    printed = claim.printed.value
    value, why = min((without, with_head), key=lambda one: abs(one[0] - printed))
    return _Figure(value, why=why, anywhere=True)


def _over(court: Court, claim: Claim, subject: str, statistic: str, group: str = "") -> _Figure:
    evidence, about = court.evidence, subjects.subject(subject)
    models = evidence.published.group(group) if group else tuple(row.name for row in evidence.published.models)
    saved = about.quantity == "memory_reduction"
    values = (
        _reductions(court, about.precision, models)
        if saved
        else {
            model: bounded.exact(value)
            for model, value in subjects.measured_values(evidence, court.records, subject, models).items()
        }
    )
    missing = [model for model in models if model not in values]
    if missing:
        return _Figure(None, why=f"{len(missing)} of {len(models)} models have no figure, e.g. {missing[0]}")
    name = statistics.default_definition(statistic)
    numbers = tuple(values.values())
    found = (
        bounded.spread(numbers, 1)
        if statistic == "std"
        else bounded.rising(lambda data: statistics.summary(list(data))[name], numbers)
    )
    why = f"over {len(models)} models" + (f"; {BYTES}" if saved else "")
    return _Figure(found.value, found.low, found.high, why, anywhere=saved)


def _share(court: Court, claim: Claim, subject: str, statistic: str) -> _Figure:
    found = _over(court, claim, subject, statistic)
    if found.value is None or found.low is None or found.high is None:
        return found
    return _Figure(found.value / 100, found.low / 100, found.high / 100, found.why, found.anywhere)


def _energy(court: Court, claim: Claim, precision: str) -> _Figure:
    estimates = [
        court.evidence.estimate(court.records, "energy_per_image", model, precision, 1)
        for model in court.evidence.models
    ]
    first = next((one for one in estimates if one.value is not None), None)
    why = "no counter of energy was read on this machine" if first is None else "see the throughput page"
    return _Figure(None, why=why)


def _everywhere(court: Court, precisions: str) -> tuple[Word, str]:
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
    models = tuple(row.name for row in court.evidence.published.models)
    mine = court.evidence.values(court.records, "memory_stored_weights", precision, models)
    half = court.evidence.values(court.records, "memory_stored_weights", "fp16", models)
    both = [model for model in models if model in mine and model in half]
    if len(both) < len(models):
        return "not measured", f"{len(models) - len(both)} of {len(models)} models have no figure"
    larger = [model for model in both if mine[model] >= half[model]]
    if larger:
        return "refuted", f"not smaller than FP16 on {', '.join(larger)}"
    return "supported", f"stored weights below FP16's on all {len(models)} models"


def _published_bytes(court: Court, precision: str) -> tuple[Word, str]:
    name = subjects.counterpart(court.records, "memory_published")
    column = court.evidence.published.column("memory_published", precision)
    measured = court.evidence.values(court.records, name, precision, tuple(column))
    if not measured:
        return "not measured", "no size was measured"
    far = [model for model, value in measured.items() if column[model] - value > SLACK_MIB]
    if far:
        worst = max(far, key=lambda model: column[model] - measured[model])
        shown = f"measured {measured[worst]:.2f}, published {column[worst]:.2f} MiB"
        why = f"{len(far)} of {len(measured)} models, e.g. {worst}: {shown}"
        return "refuted", why
    return "supported", f"all {len(measured)} models"


_FIGURES: dict[str, Callable[..., _Figure]] = {
    "cell": _cell,
    "expected": _cell,
    "memory": _memory,
    "memory_reduction": _reduction,
    "parameters": _parameters,
    "over": _over,
    "share": _share,
    "energy": _energy,
}
_SENTENCES: dict[str, Callable[..., tuple[Word, str]]] = {
    "bytes": _published_bytes,
    "faster-everywhere": _everywhere,
    "faster-somewhere": _somewhere,
    "smaller-everywhere": _smaller,
}
