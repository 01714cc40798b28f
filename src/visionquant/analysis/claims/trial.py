"""Every claim with its verdicts: one internal, one for each set of records; the ledger as rows of a CSV file.

The columns are fixed: id, section, kind, published, recomputed, low, high, internal, reproduction, why. Where several
sets of records are shown, ``reproduction`` joins "source: word" for each.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visionquant.analysis import study as evidence
from visionquant.analysis.claims import claim as claims
from visionquant.analysis.claims import judge, measures, reproduce, tables
from visionquant.analysis.claims.claim import Claim, Ledger
from visionquant.analysis.claims.judge import Judgement
from visionquant.analysis.claims.reproduce import Reproduction
from visionquant.analysis.claims.tables import Tables
from visionquant.analysis.study import Evidence
from visionquant.core.paths import Project, write_atomically
from visionquant.settings.params import Params

COLUMNS = ("id", "section", "kind", "published", "recomputed", "low", "high", "internal", "reproduction", "why")


@dataclass(frozen=True)
class Tried:
    """One claim with what became of it."""

    claim: Claim
    judgement: Judgement
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
class Trial:
    """All claims of the supplement, tried."""

    ledger: Ledger
    tried: tuple[Tried, ...]

    def counted(self, kind: str) -> Counter[str]:
        """Claims by "internal", "reproduction" or "kind"."""
        return Counter(
            {"internal": one.judgement.internal, "reproduction": one.reproduction, "kind": one.claim.entry.kind}[kind]
            for one in self.tried
        )

    def contradictions(self) -> tuple[Tried, ...]:
        """What is contradicted, strongest first: by how far the figures are apart, then sentences, then listings."""
        found = [one for one in self.tried if one.judgement.internal == "contradicted"]

        def strength(one: Tried) -> tuple[int, float]:
            gap = one.judgement.gap
            return (0, -gap) if gap is not None else (2 if one.claim.entry.outcome else 1, 0.0)

        return tuple(sorted(found, key=strength))


def internal(ledger: Ledger, texts: Tables) -> tuple[Judgement, ...]:
    """The internal verdict on every claim, in the order of the ledger."""
    return tuple(judge.judge(claim, texts) for claim in ledger.claims)


def opened(study: Evidence) -> tuple[Ledger, Tables]:
    """The claims of a study, and the tables that they speak of."""
    texts = tables.load(study.project, study.published.peaks, study.params.report.workspace_mib)
    return claims.load(study.project, texts), texts


def hold(study: Evidence) -> Trial:
    """Try every claim on the published tables and on every set of records that is shown.

    Raises:
        StudyError: claims.yaml is broken.
    """
    ledger, texts = opened(study)
    courts = [measures.court(study, records_) for records_ in study.shown]
    tried = [
        Tried(claim, judgement, tuple(reproduce.reproduce(claim, court) for court in courts))
        for claim, judgement in zip(ledger.claims, internal(ledger, texts), strict=True)
    ]
    return Trial(ledger, tuple(tried))


def write(project: Project, params: Params) -> Trial:
    """Write ``reports/tables/claims.csv``.

    Raises:
        StudyError: claims.yaml, a record or a published table is broken, or the folder can't be written.
    """
    study = evidence.gather(project, params)
    trial = hold(study)
    for path, content in contents(study, trial).items():
        write_atomically(path, content)
    return trial


def contents(study: Evidence, trial: Trial) -> dict[Path, str]:
    """The file of this module with what belongs into it."""
    return {study.project.tables / "claims.csv": text(trial.tried)}


def text(tried: Sequence[Tried]) -> str:
    """The claims as CSV with a header line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in tried:
        claim, found = one.claim, one.judgement
        words = "; ".join(f"{each.source}: {each.word}" for each in one.reproductions)
        writer.writerow([
            claim.id, claim.entry.section, claim.entry.kind, claim.printed.text if claim.printed else "",
            *(_digits(value) for value in (found.recomputed, found.low, found.high)), found.internal, words, found.why,
        ])  # fmt: skip
    return buffer.getvalue()


def _digits(value: float | None) -> str:
    return "" if value is None else repr(float(f"{value:.9g}"))
