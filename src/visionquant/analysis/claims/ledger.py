"""Every claim with its verdicts: one internal, one for each set of records; as rows of a CSV file.

The columns are fixed: id, section, kind, published, recomputed, low, high, internal, reproduction, why. Where several
sets of records are shown, ``reproduction`` joins "source: word" for each.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from visionquant.analysis import study as studies
from visionquant.analysis.claims import claim as claims
from visionquant.analysis.claims import formula
from visionquant.analysis.claims.claim import Claim, SectionRow
from visionquant.analysis.claims.internal import InternalCheck, check_internally
from visionquant.analysis.claims.reproduction import Evidence, Reproduction
from visionquant.analysis.study import Study
from visionquant.core import files
from visionquant.core.paths import Project
from visionquant.settings.params import Params


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

    @property
    def row(self) -> dict[str, str]:
        """Its row in ``claims.csv``."""
        claim, check = self.claim, self.internal
        figures = {"recomputed": check.value, "low": check.low, "high": check.high}
        return {
            "id": claim.id,
            "section": claim.entry.section,
            "kind": claim.entry.kind,
            "published": claim.printed.text if claim.printed else "",
            **{name: "" if value is None else repr(float(f"{value:.9g}")) for name, value in figures.items()},
            "internal": check.word,
            "reproduction": "; ".join(f"{found.source}: {found.word}" for found in self.reproductions),
            "why": check.why,
        }


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
    checked = []
    for claim in loaded:
        reproductions = tuple(Evidence(study, machine_set, claim).reproduce() for machine_set in study.shown)
        checked.append(CheckedClaim(claim, check_internally(claim, names), reproductions))
    return Ledger(sections, tuple(checked))


def write_claims(project: Project, params: Params) -> Ledger:
    """Write ``reports/tables/claims.csv``.

    Raises:
        StudyError: claims.yaml, a record or a published table is broken, or the folder can't be written.
    """
    study = studies.gather(project, params)
    ledger = check_claims(study)
    for path, content in contents(study, ledger).items():
        files.save(path, content)
    return ledger


def contents(study: Study, ledger: Ledger) -> dict[Path, str]:
    """The file of this module with what belongs into it."""
    rows = pd.DataFrame([checked.row for checked in ledger.claims])
    return {study.project.tables / "claims.csv": rows.to_csv(index=False, lineterminator="\n")}
