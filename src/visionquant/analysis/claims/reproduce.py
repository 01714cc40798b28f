"""Does a measurement support a claim? Judged on each set of records, with the interval behind the word.

Times compare only with the published card, so on another machine they are "not comparable", with what was measured
there beside them. Bytes and counts are the same on every machine. A sentence that names none ("universal") is judged
wherever something was measured. "supported" needs the whole interval within the tolerance, "refuted" the whole of it
outside; in between the word is "undecided", and says so rather than choosing. A claim with several readings (which
group, which percentile) is refuted only if every one of them is.

What can be measured is in ``measures``.
"""

from dataclasses import dataclass

from visionquant.analysis.claims import judge
from visionquant.analysis.claims.claim import FILE, Claim
from visionquant.analysis.claims.measures import FIGURES, SENTENCES, Court, Figure, Word
from visionquant.core.errors import StudyError

_BEST_FIRST: tuple[Word, ...] = ("supported", "undecided", "not comparable", "refuted", "not measured")
SHARE = 0.05  # a measured time within so much of the published one supports it: the supplement's own tolerance


@dataclass(frozen=True)
class Reproduction:
    """One claim on one set of records: the word, the measured figure with its bounds, and why."""

    source: str
    word: Word
    value: float | None
    low: float | None
    high: float | None
    why: str


def reproduce(claim: Claim, court: Court) -> Reproduction:
    """Judge one claim on one set.

    Raises:
        StudyError: the claim measures something that is not known here.
    """
    source = court.records.source
    if claim.entry.outcome:
        return Reproduction(source, "not measured", None, None, None, f"decided by a run: {claim.entry.shown_by}")
    if not claim.entry.measures:
        return Reproduction(source, "not measured", None, None, None, "no measurement here bears on it")
    verb, *arguments = claim.entry.measures.split("/")
    try:
        if verb in SENTENCES:
            word, why = SENTENCES[verb](court, *arguments)
            return Reproduction(source, word, None, None, None, why)
        figures = FIGURES[verb](court, claim, *arguments)
    except (KeyError, TypeError):
        known = ", ".join([*FIGURES, *SENTENCES])
        raise StudyError(FILE, f"{claim.id} measures {claim.entry.measures}", f"known: {known}") from None
    judged = [(*_word(claim, court, one), one) for one in figures]
    word, why, found = min(judged, key=lambda one: _BEST_FIRST.index(one[0]))
    return Reproduction(source, word, found.value, found.low, found.high, why)


def _word(claim: Claim, court: Court, found: Figure) -> tuple[Word, str]:
    if found.value is None or claim.printed is None:
        return "not measured", found.why
    if not found.anywhere and court.why_not:
        return "not comparable", court.why_not
    printed = judge.stretched(claim)
    share = 0.0 if found.anywhere else SHARE * abs(claim.printed.value)
    low, high = printed.low - share - found.slack, printed.high + share + found.slack
    if found.low is None or found.high is None:
        if not found.anywhere:
            return "undecided", f"{found.why}; one process: no interval".lstrip("; ")
        return ("supported" if low <= found.value <= high else "refuted"), found.why
    if found.high < low or found.low > high:
        return "refuted", found.why
    if low <= found.low and found.high <= high:
        return "supported", found.why
    return "undecided", f"{found.why}; the interval reaches the published figure".lstrip("; ")
