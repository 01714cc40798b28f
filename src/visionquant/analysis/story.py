"""The claims in one screen: what holds, what doesn't, what could not be tested. Sentences made of the verdicts."""

from dataclasses import dataclass

from visionquant.analysis.claims.measures import counts
from visionquant.analysis.claims.trial import Trial, Tried

SHOWN = 5


@dataclass(frozen=True)
class Part:
    """One of the three answers: a sentence, and (words, anchor of the claim) of its strongest cases."""

    heading: str
    sentence: str
    cases: tuple[tuple[str, str], ...]


def tell(trial: Trial) -> tuple[Part, ...]:
    """The three answers."""
    internal, measured = trial.counted("internal"), trial.counted("reproduction")
    total, runs = len(trial.tried), sum(bool(one.claim.entry.outcome) for one in trial.tried)
    counted = sum(one.reproduction == "supported" and counts(one.claim.entry.measures) for one in trial.tried)
    works = sum(one.claim.entry.outcome == "works" for one in trial.tried)
    return (
        Part(
            "What holds",
            f"Of {total} claims {internal['follows']} follow from what the supplement itself prints, from counts of "
            f"its networks or from a run of a listing ({works} of {runs}). {measured['supported']} are supported here, "
            f"{counted} of them by bytes and parameters counted, which are the same on every machine.",
            _cases([one for one in trial.tried if _holds(one)]),
        ),
        Part(
            "What doesn't",
            f"{internal['contradicted']} are contradicted by the supplement's own figures, by counts of its networks, "
            f"by a release list, or by running listings like its own ({runs - works} of {runs} fail). "
            f"{measured['refuted']} are refuted here.",
            _cases(list(trial.contradictions())),
        ),
        Part(
            "What could not be tested",
            f"{internal['underdetermined']} can't be decided from what is printed. {measured['not comparable']} "
            f"need the published card, {measured['not measured']} were not measured or can't be, "
            f"{measured['undecided']} are undecided.",
            _cases([one for one in trial.tried if one.reproduction == "not comparable"]),
        ),
    )


def _holds(one: Tried) -> bool:
    return one.judgement.internal == "follows" and one.reproduction == "supported"


def _cases(tried: list[Tried]) -> tuple[tuple[str, str], ...]:
    """The first case of each entry, with how many more it stands for."""
    by_entry: dict[int, list[Tried]] = {}
    for one in tried:
        by_entry.setdefault(id(one.claim.entry), []).append(one)
    found = []
    for members in list(by_entry.values())[:SHOWN]:
        first = members[0]
        figure = f": printed {first.claim.printed.text}" if first.claim.printed else ""
        if first.judgement.internal == "contradicted" and first.judgement.recomputed is not None:
            figure += f", by its formula {first.judgement.recomputed:,.6g}"
        more = f" (and {len(members) - 1} like it)" if len(members) > 1 else ""
        found.append((f"{first.claim.says}{figure}{more}", first.anchor))
    return tuple(found)
