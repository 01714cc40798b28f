"""Does a claim follow from what the supplement itself prints? Formulas evaluated with the bounds that rounding leaves.

"follows": the figure and what its formula gives overlap within rounding and the claim's tolerance, or the sentence
holds. "contradicted": they can't both be true. "underdetermined": both may be, because a row that is needed is not
printed, because rounding leaves it open, or because nothing printed bears on it. A claim with several readings follows
if one of them does and is contradicted only if all are.
"""

import math
from dataclasses import dataclass
from typing import Literal

from visionquant.analysis.claims import bounded, formula
from visionquant.analysis.claims.bounded import Bounded
from visionquant.analysis.claims.claim import Claim
from visionquant.analysis.claims.tables import Lookup, Tables, with_rounding

Internal = Literal["follows", "contradicted", "underdetermined"]


@dataclass(frozen=True)
class Judgement:
    """``recomputed`` with its bounds, ``inputs`` as (cell, text), and ``gap``: how far apart, as a share of the figure.

    ``gap`` is 0 where there is no contradiction, None where a sentence is contradicted.
    """

    internal: Internal
    recomputed: float | None
    low: float | None
    high: float | None
    why: str
    inputs: tuple[tuple[str, str], ...]
    gap: float | None = 0.0


def judge(claim: Claim, tables: Tables) -> Judgement:
    """Judge one claim on the published tables and on counts; no measurement is looked at.

    Raises:
        StudyError: its formula is broken, or names what is not there.
    """
    entry = claim.entry
    lookup = Lookup(tables, entry.table, claim.row)
    if entry.table:
        lookup.value(f"row.{entry.column}")
    if entry.outcome:
        word: Internal = "follows" if entry.outcome == "works" else "contradicted"
        return Judgement(word, None, None, None, entry.why, (), 0.0 if word == "follows" else None)
    if entry.requires:
        try:
            possible = formula.evaluate(entry.requires, lookup)
        except bounded.Absent as error:
            return Judgement("underdetermined", None, None, None, str(error), tuple(lookup.used.items()))
        if possible is False:
            why = f"not possible: {entry.requires} does not hold"
            return Judgement("contradicted", None, None, None, why, tuple(lookup.used.items()), None)
    if not claim.readings:
        why = entry.why or "a measurement: nothing else that is printed implies it"
        return Judgement("underdetermined", None, None, None, why, tuple(lookup.used.items()))
    found = [_reading(claim, name, text, lookup) for name, text in claim.readings]
    best = min(found, key=lambda one: ("follows", "underdetermined", "contradicted").index(one.internal))
    if len(found) > 1 and best.internal == "contradicted":
        best = min(found, key=lambda one: float("inf") if one.gap is None else one.gap)
        whys = "; ".join(one.why for one in found)
    else:
        whys = best.why
    why = f"{whys}. {entry.why}" if entry.why else whys
    return Judgement(best.internal, best.recomputed, best.low, best.high, why, tuple(lookup.used.items()), best.gap)


def stretched(claim: Claim) -> Bounded:
    """The claim's printed figure with its rounding and its tolerance."""
    if claim.printed is None:
        raise ValueError(f"{claim.id} has no figure")
    entry = claim.entry
    base, tolerance = with_rounding(claim.printed, entry.table, claim.row, entry.column), entry.tolerance
    if tolerance is None:
        return base
    share = abs(base.value) * tolerance.share
    # The value may lie below or above the arithmetic: a figure that exceeds it by `above` still fits.
    return Bounded(base.value, base.low - tolerance.above - share, base.high + tolerance.below + share)


def _reading(claim: Claim, name: str, text: str, lookup: Lookup) -> Judgement:
    said = f"{name}: " if name else ""
    try:
        value = formula.evaluate(text, lookup)
    except bounded.Absent as error:
        return Judgement("underdetermined", None, None, None, f"{said}{error}", ())
    except formula.Impossible as error:
        return Judgement("contradicted", None, None, None, f"{said}{error}", (), None)
    if claim.printed is None or not isinstance(value, Bounded):
        return _sentence(claim, said, value)
    printed = stretched(claim)
    bounds = f" ({number(value.low)} to {number(value.high)})" if math.isfinite(value.low) else ""
    figures = f"{said}{number(value.value)}{bounds}"
    if not printed.overlaps(value):
        off = printed.low - value.high if value.high < printed.low else value.low - printed.high
        gap = off / abs(claim.printed.value) if claim.printed.value else None
        return Judgement("contradicted", value.value, value.low, value.high, f"{figures}, printed {claim.printed.text}",
                         (), gap)  # fmt: skip
    word: Internal = "underdetermined" if value.open else "follows"
    tail = ", which leaves it open" if value.open else ""
    low, high = (one if math.isfinite(one) else None for one in (value.low, value.high))
    return Judgement(word, value.value, low, high, figures + tail, ())


def _sentence(claim: Claim, said: str, value: object) -> Judgement:
    if isinstance(value, Bounded) or value not in (True, False, None):
        raise ValueError(f"{claim.id}: a sentence needs a truth")
    word: Internal = "underdetermined" if value is None else "follows" if value else "contradicted"
    told = {
        "follows": "holds",
        "contradicted": "does not hold",
        "underdetermined": "is left open by rounding or missing rows",
    }[word]
    gap = None if word == "contradicted" else 0.0
    return Judgement(word, None, None, None, f"{said}{told}", (), gap)


def number(value: float) -> str:
    """A figure for a sentence: six digits, no exponent below a million."""
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.0f}"
