"""Every claim with its verdicts: one internal, one for each set of records; as rows of a CSV file.

Internal: does a claim follow from what the supplement itself prints, with the bounds that rounding leaves? "follows":
the figure and what its formula gives overlap within rounding and the claim's tolerance, or the sentence holds.
"contradicted": they can't both be true. "underdetermined": both may be, because a row that is needed is not printed,
because rounding leaves it open, or because nothing printed bears on it. A claim with several readings follows if one of
them does and is contradicted only if all are.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from visionquant.analysis.claims import claim as claims
from visionquant.analysis.claims import formula
from visionquant.analysis.claims.claim import FILE, Claim, SectionRow
from visionquant.analysis.claims.formula import CountsMissing, Key, Names
from visionquant.analysis.claims.interval import Bounded, Contradiction
from visionquant.analysis.claims.reproduction import Evidence, Reproduction
from visionquant.analysis.study import Study
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


@dataclass(frozen=True)
class CheckedClaim:
    """One claim with its verdicts."""

    claim: Claim
    internal: InternalCheck
    reproductions: tuple[Reproduction, ...]

    @property
    def anchor(self) -> str:
        """The id of its row on the claims page."""
        return "claim-" + self.claim.id.replace("/", "-").replace(".", "-")

    @property
    def reproduction(self) -> str:
        """The word of the set behind the "measured" columns."""
        return self.reproductions[0].word


@dataclass(frozen=True)
class Ledger:
    """All claims of the supplement, checked, in its order."""

    sections: tuple[SectionRow, ...]
    claims: tuple[CheckedClaim, ...]

    def counted(self, verdict: str) -> Counter[str]:
        """How many claims have which word as "internal" or "reproduction"."""
        internal = verdict == "internal"
        return Counter(str(one.internal.word) if internal else one.reproduction for one in self.claims)

    def contradictions(self) -> tuple[CheckedClaim, ...]:
        """What is contradicted, strongest first: by how far the figures are apart, then sentences, then listings."""

        def order(checked: CheckedClaim) -> tuple[float, bool]:
            gap = checked.internal.gap
            return math.inf if gap is None else -gap, bool(checked.claim.entry.outcome)

        return tuple(sorted((one for one in self.claims if one.internal.word == "contradicted"), key=order))


def check_claims(study: Study) -> Ledger:
    """Check every claim on the published tables and on every set of records that is shown.

    Raises:
        StudyError: claims.yaml is broken.
    """
    names = formula.all_names(study.project, study.published, study.params.report.workspace_mib)
    sections, loaded = claims.load_claims(study.project, names)
    sets = study.shown
    reproductions = [tuple(Evidence(study, machine_set, claim).reproduce() for machine_set in sets) for claim in loaded]
    internal = [check_internally(claim, names) for claim in loaded]
    return Ledger(sections, tuple(map(CheckedClaim, loaded, internal, reproductions)))


def validation(study: Study) -> list[tuple[Claim, Reproduction]]:
    """The metrics that the supplement's own validation expects, on every set of records that is shown."""
    names = formula.all_names(study.project, study.published, study.params.report.workspace_mib)
    expected = [one for one in claims.load_claims(study.project, names)[1] if one.entry.table == "validation"]
    return [(one, Evidence(study, machine_set, one).reproduce()) for machine_set in study.shown for one in expected]


def contents(study: Study, ledger: Ledger) -> dict[Path, str]:
    """``claims.csv`` with what belongs into it; where several sets are shown, "source: word" of each is joined."""
    rows = [
        {
            "id": one.claim.id,
            "section": one.claim.entry.section,
            "kind": one.claim.entry.kind,
            "published": one.claim.printed.text if one.claim.printed else "",
            "recomputed": _nine_digits(one.internal.value),
            "low": _nine_digits(one.internal.low),
            "high": _nine_digits(one.internal.high),
            "internal": one.internal.word,
            "reproduction": "; ".join(f"{found.source}: {found.word}" for found in one.reproductions),
            "why": one.internal.why,
        }
        for one in ledger.claims
    ]
    return {study.project.tables / "claims.csv": pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")}


def check_internally(claim: Claim, names: Names) -> InternalCheck:
    """Check one claim on the published tables and on counts; no measurement is looked at.

    Raises:
        StudyError: its formula is broken, or names what is not there.
    """
    names = names.of(claim.entry.table, claim.row)
    if claim.entry.table:
        names.cell(claim.entry.table, claim.entry.column)
    return replace(_checked(claim, names), inputs=tuple(names.used.items()))


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
    if not entry.formula:
        return InternalCheck("underdetermined", entry.why or "a measurement: nothing else that is printed implies it")
    checks = [_reading(claim, f"{name}: " if name else "", text, names) for name, text in entry.formula.items()]
    best = min(checks, key=lambda check: BEST_FIRST.index(check.word))
    why = best.why
    if len(checks) > 1 and best.word == "contradicted":
        best = min(checks, key=lambda check: math.inf if check.gap is None else check.gap)
        why = "; ".join(check.why for check in checks)
    return replace(best, why=f"{why}. {entry.why}" if entry.why else why)


def _reading(claim: Claim, label: str, text: str, names: Names) -> InternalCheck:
    try:
        value = formula.evaluate(text, names)
    except CountsMissing as error:
        return InternalCheck("underdetermined", f"{label}{error}")
    except Contradiction as error:
        return InternalCheck("contradicted", f"{label}{error}", gap=None)
    if value is None or isinstance(value, bool):
        word, sentence = SENTENCES[value]
        return InternalCheck(word, f"{label}{sentence}", gap=None if value is False else 0.0)
    allowed, printed = claim.allowed, claim.printed
    if allowed is None or printed is None or not isinstance(value, Bounded):
        found = "no truth, which a sentence needs" if isinstance(value, Bounded) else "a column, no figure"
        raise StudyError(f"{FILE}: {claim.id}", f"{text!r} gives {found}", "mend the formula")
    low, high = (side if math.isfinite(side) else None for side in (value.low, value.high))
    figures = f"{label}{number(value.value)}" + (
        f" ({number(value.low)} to {number(value.high)})" if low is not None else ""
    )
    if not allowed.overlaps(value):
        off = allowed.low - value.high if value.high < allowed.low else value.low - allowed.high
        gap = off / abs(printed.value) if printed.value else None
        return InternalCheck("contradicted", f"{figures}, printed {printed.text}", value.value, low, high, gap)
    if value.open:
        return InternalCheck("underdetermined", f"{figures}, which leaves it open", value.value, low, high)
    return InternalCheck("follows", figures, value.value, low, high)


def number(value: float) -> str:
    """A figure for a sentence: six digits, no exponent below a million."""
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.0f}"


def _nine_digits(value: float | None) -> str:
    return "" if value is None else repr(float(f"{value:.9g}"))
