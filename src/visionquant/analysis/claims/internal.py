"""Does a claim follow from what the supplement itself prints? Formulas evaluated with the bounds that rounding leaves.

"follows": the figure and what its formula gives overlap within rounding and the claim's tolerance, or the sentence
holds. "contradicted": they can't both be true. "underdetermined": both may be, because a row that is needed is not
printed, because rounding leaves it open, or because nothing printed bears on it. A claim with several readings follows
if one of them does and is contradicted only if all are.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from visionquant.analysis.claims import formula
from visionquant.analysis.claims.claim import FILE, Claim
from visionquant.analysis.claims.formula import CountsMissing, Key, Names
from visionquant.analysis.claims.interval import Bounded, Contradiction
from visionquant.core.errors import StudyError

InternalWord = Literal["follows", "contradicted", "underdetermined"]
SENTENCES: dict[bool | None, tuple[InternalWord, str]] = {
    True: ("follows", "holds"),
    False: ("contradicted", "does not hold"),
    None: ("underdetermined", "is left open by rounding or missing rows"),
}
BEST_FIRST: tuple[InternalWord, ...] = ("follows", "underdetermined", "contradicted")


@dataclass(frozen=True)
class InternalCheck:
    """The verdict; ``value`` is what the formula gives, with its bounds, ``inputs`` the cells it used with their texts.

    ``gap`` is how far apart, as a share of the printed figure: 0 where there is no contradiction, None where a sentence
    is contradicted.
    """

    word: InternalWord
    why: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    gap: float | None = 0.0
    inputs: tuple[tuple[Key, str], ...] = ()


def check_internally(claim: Claim, names: Names) -> InternalCheck:
    """Check one claim on the published tables and on counts; no measurement is looked at.

    Raises:
        StudyError: its formula is broken, or names what is not there.
    """
    entry = claim.entry
    names = names.of(entry.table, claim.row)
    if entry.table:
        names.cell(entry.table, entry.column)
    check = _checked(claim, names)
    return replace(check, inputs=tuple(names.used.items()))


def _checked(claim: Claim, names: Names) -> InternalCheck:
    entry = claim.entry
    if entry.outcome:
        fails = entry.outcome == "fails"
        return InternalCheck("contradicted" if fails else "follows", entry.why, gap=None if fails else 0.0)
    try:
        if entry.requires and formula.evaluate(entry.requires, names) is False:
            return InternalCheck("contradicted", f"not possible: {entry.requires} does not hold", gap=None)
    except CountsMissing as error:
        return InternalCheck("underdetermined", str(error))
    if not claim.readings:
        return InternalCheck("underdetermined", entry.why or "a measurement: nothing else that is printed implies it")
    checks = [_reading(claim, name, text, names) for name, text in claim.readings]
    best = min(checks, key=lambda check: BEST_FIRST.index(check.word))
    why = best.why
    if len(checks) > 1 and best.word == "contradicted":
        best = min(checks, key=lambda check: math.inf if check.gap is None else check.gap)
        why = "; ".join(check.why for check in checks)
    return replace(best, why=f"{why}. {entry.why}" if entry.why else why)


def _reading(claim: Claim, name: str, text: str, names: Names) -> InternalCheck:
    label = f"{name}: " if name else ""
    try:
        value = formula.evaluate(text, names)
    except CountsMissing as error:
        return InternalCheck("underdetermined", f"{label}{error}")
    except Contradiction as error:
        return InternalCheck("contradicted", f"{label}{error}", gap=None)
    if value is None or isinstance(value, bool):
        word, sentence = SENTENCES[value]
        return InternalCheck(word, f"{label}{sentence}", gap=None if value is False else 0.0)
    if claim.printed is None or not isinstance(value, Bounded):
        found = "no truth, which a sentence needs" if isinstance(value, Bounded) else "a column, no figure"
        raise StudyError(f"{FILE}: {claim.id}", f"{text!r} gives {found}", "mend the formula")
    allowed, finite = claim.allowed, math.isfinite(value.low)
    figures = f"{label}{number(value.value)}" + (f" ({number(value.low)} to {number(value.high)})" if finite else "")
    if not allowed.overlaps(value):
        off = allowed.low - value.high if value.high < allowed.low else value.low - allowed.high
        gap = off / abs(claim.printed.value) if claim.printed.value else None
        why = f"{figures}, printed {claim.printed.text}"
        return InternalCheck("contradicted", why, value.value, value.low, value.high, gap)
    low, high = (side if math.isfinite(side) else None for side in (value.low, value.high))
    if value.open:
        return InternalCheck("underdetermined", f"{figures}, which leaves it open", value.value, low, high)
    return InternalCheck("follows", figures, value.value, low, high)


def number(value: float) -> str:
    """A figure for a sentence: six digits, no exponent below a million."""
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.0f}"
