"""Does a rerun agree? Two sets of records, cell by cell: agrees, differs, undecided or not comparable.

Between like machines (the same GPU, or the same CPU with as many cores, and the same recorded settings of its speed)
the median latency is compared; between others only the speedup over FP32, which each set takes on its own machine. The
unit is the process, as in verdicts: a cell agrees where both are equivalent within the margin, differs where the
corrected test says so, and is undecided where the processes at hand carry neither; the interval stands beside it.
Holm's correction is over all compared cells.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from visionquant.analysis import estimates, verdicts
from visionquant.analysis.study import BASELINE, Evidence, RecordSet, moved_between
from visionquant.analysis.verdicts import Contrast
from visionquant.core.errors import StudyError
from visionquant.records import drift
from visionquant.records.record import Record

Word = Literal["agrees", "differs", "undecided", "not comparable"]
WORDS: dict[str, Word] = {"SAME": "agrees", "FASTER": "differs", "SLOWER": "differs", "UNDECIDED": "undecided"}


@dataclass(frozen=True)
class Agreement:
    """One cell of two sets; ``ratio`` is A over B of ``quantity`` with its interval, empty where not comparable."""

    model: str
    precision: str
    batch_size: int
    quantity: str
    word: Word
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""

    @property
    def text(self) -> str:
        """The agreement as one line."""
        cell = f"{self.model} {self.precision} {self.batch_size}"
        if self.ratio is None:
            return f"{cell}: {self.word} ({self.why})"
        return f"{cell}: {self.word}, {self.quantity} ratio {self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


def set_named(evidence: Evidence, name: str) -> RecordSet:
    """A set by its name: "local", or a platform of ``data/recorded``.

    Raises:
        StudyError: there is none, or it holds nothing.
    """
    names = {one.source.partition(":")[2] or one.source: one for one in evidence.sets}
    if name not in names or not names[name].records:
        held = [key for key, one in names.items() if one.records]
        raise StudyError(f"compare: {name}", "no set of records has this name", f"sets: {', '.join(held) or 'none'}")
    return names[name]


def compare(evidence: Evidence, a: RecordSet, b: RecordSet, one_set: bool = False) -> list[Agreement]:
    """Every cell that either set measured, in the order of ``a``, then what only ``b`` has.

    Args:
        one_set: both are passes of one set, whose machine is one by all that was recorded.
    """
    apart = "" if one_set else why_unlike(a, b)
    quantity = "speedup" if apart else "latency_median"
    keys = dict.fromkeys(
        (m, p, cell.batch_size) for one in (a, b) for (m, p), r in one.records.items() for cell in r.cells
    )
    reasons: dict[tuple[str, str, int], str] = {}
    contrasts: dict[tuple[str, str, int], Contrast] = {}
    for key in keys:
        found = _contrast(a, b, *key, apart)
        if isinstance(found, str):
            reasons[key] = found
        else:
            contrasts[key] = found
    choice = evidence.params.statistics
    judged = verdicts.judge(list(contrasts.values()), choice.confidence, choice.equivalence_margin)
    words = dict(zip(contrasts, judged, strict=True))
    agreements = []
    for key in keys:
        if key in reasons:
            agreements.append(Agreement(*key, quantity, "not comparable", why=reasons[key]))
            continue
        one = contrasts[key]
        half = float(stats.t.ppf(0.5 + choice.confidence / 2, one.df)) * one.error
        ratio, low, high = (math.exp(one.effect + sign * half) for sign in (0, -1, 1))
        word = WORDS[words[key].word]
        agreements.append(Agreement(*key, quantity, word, ratio, low, high, words[key].why))
    return agreements


def why_unlike(a: RecordSet, b: RecordSet) -> str:
    """Empty where absolute figures of both sets compare, else why not."""
    mine, theirs = a.environment, b.environment
    return mine.why_unlike(theirs) if mine and theirs else "nothing measured"


def summary(agreements: list[Agreement]) -> str:
    """How many cells agree, in one line."""
    counts = Counter(one.word for one in agreements)
    compared = len(agreements) - counts["not comparable"]
    return (
        f"{counts['agrees']} of {compared} compared cells agree, {counts['differs']} differ, {counts['undecided']} are "
        f"undecided; {counts['not comparable']} are not comparable"
    )


def _contrast(a: RecordSet, b: RecordSet, model: str, precision: str, batch_size: int, apart: str) -> Contrast | str:
    sides = []
    for one in (a, b):
        state = one.state(model, precision, batch_size)
        if state.cell is None or state.record is None or state.status != "ok":
            return f"{one.label}: {state.reason}"
        sides.append((state.record, estimates.processes(state.cell)))
    (record_a, times_a), (record_b, times_b) = sides
    changed = _other_settings(record_a, record_b)
    if changed:
        return f"other {changed}"
    if not apart:
        moved = _moved(a, b, model, precision, batch_size)
        return verdicts.contrast(times_a, times_b, moved) or "one process: no interval"
    if precision == BASELINE:
        return f"{apart}: absolute figures don't compare"
    ratios = []
    for one, times in ((a, times_a), (b, times_b)):
        base = one.state(model, BASELINE, batch_size)
        if base.cell is None or base.status != "ok":
            return f"{one.label}: no FP32 cell ({base.reason})"
        other = one.state(model, precision, batch_size)
        assert other.cell is not None
        moved = moved_between(BASELINE, base.cell, precision, other.cell, one.shift)
        found = verdicts.contrast(estimates.processes(base.cell), times, moved)
        if found is None:
            return "one process: no interval"
        ratios.append(found)
    return _difference(*ratios)


def _moved(a: RecordSet, b: RecordSet, model: str, precision: str, batch_size: int) -> float:
    """How far the machines of two like sets were apart, by the drift sentinel."""
    one, other = a.state(model, precision, batch_size), b.state(model, precision, batch_size)
    return max(drift.between(one.cell, other.cell), a.shift, b.shift) if one.cell and other.cell else 0.0


def _other_settings(a: Record, b: Record) -> str:
    """Which settings of two records differ so that their figures mean different things."""
    pairs = {
        "model row": (a.settings.model, b.settings.model),
        "precision row": (a.settings.precision, b.settings.precision),
        "weights": (a.settings.weights.kind, b.settings.weights.kind),
        "attention": (a.settings.protocol.attention, b.settings.protocol.attention),
        "threads": (_threads(a), _threads(b)),
    }
    return ", ".join(name for name, (one, other) in pairs.items() if one != other)


def _threads(record: Record) -> set[int]:
    return {one.threads for cell in record.cells for one in cell.replicates}


def _difference(a: Contrast, b: Contrast) -> Contrast:
    """The contrast of two contrasts, with Welch's degrees of freedom over both."""
    total = a.error**2 + b.error**2
    df = total**2 / (a.error**4 / a.df + b.error**4 / b.df) if total > 0 else a.df + b.df
    return Contrast(
        a.effect - b.effect, math.sqrt(total), df, math.hypot(a.spread, b.spread), min(a.n, b.n), a.drift + b.drift
    )
