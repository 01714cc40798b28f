"""Does a rerun agree? Two machine sets, cell by cell: agrees, differs, undecided or not comparable.

Between like machines (the same GPU, or the same CPU with as many cores, and the same recorded settings of its speed)
the median latency is compared; between any two the speedup over FP32, which each set takes on its own machine. The unit
is the round, as in verdicts: a cell agrees where both are equivalent within the margin, differs where the corrected
test says so, and is undecided where the rounds at hand carry neither; the interval of the ratio stands beside it.
Holm's correction is over all compared cells of a quantity. Of a speedup it is also told whether both sets give the same
verdict, and whether the second lies where the first foresaw it.

Source: B. L. Welch, Biometrika 34 (1947) 28, on the logs of both sides.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from visionquant.analysis import ratios
from visionquant.analysis.estimators import ONE_ROUND, logs
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.analysis.verdicts import decide, grounds
from visionquant.core.errors import StudyError
from visionquant.core.machine import HARDWARE
from visionquant.records.cell import Cell
from visionquant.records.record import Record

AgreementWord = Literal["agrees", "differs", "undecided", "not comparable"]
WORDS: dict[str, AgreementWord] = {
    "SAME": "agrees", "FASTER": "differs", "SLOWER": "differs", "UNDECIDED": "undecided",
}  # fmt: skip
Key = tuple[str, str, int]
VERSIONS = ("driver", "cuda_driver", "python", "torch", "transformers")


@dataclass(frozen=True)
class Agreement:
    """One cell of two sets; ``ratio`` is A over B of ``quantity`` with its interval, empty where not comparable.

    Of a speedup also whether both ``verdicts`` are one, and whether B's value is ``foreseen`` by A; else None.
    """

    model: str
    precision: str
    batch_size: int
    quantity: str
    word: AgreementWord
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""
    same_verdict: bool | None = None
    foreseen: bool | None = None

    @property
    def text(self) -> str:
        """The agreement as one line."""
        cell = f"{self.model} {self.precision} {self.batch_size}"
        if self.ratio is None:
            return f"{cell}: {self.word} ({self.why})"
        return f"{cell}: {self.word}, {self.quantity} ratio {self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


def set_named(study: Study, name: str) -> MachineSet:
    """A set by its name: "local", or a machine of ``data/machines``.

    Raises:
        StudyError: there is none, or it holds nothing.
    """
    held = {one.source.removeprefix("recorded:"): one for one in study.sets if one.records}
    if name not in held:
        raise StudyError(f"compare: {name}", "no set of records has this name", f"sets: {', '.join(held) or 'none'}")
    return held[name]


def by_versions(study: Study) -> Iterator[tuple[MachineSet, MachineSet, list[str]]]:
    """Each set with the next one of the same hardware in time, where versions differ, and which do."""
    last: dict[object, MachineSet] = {}
    timed = [run for run in study.shown if run.environment and run.rounds]
    for run in sorted(timed, key=lambda one: min(each.started_at or "" for each in one.rounds)):
        here = run.environment
        assert here is not None
        key = tuple(getattr(here, name) for name in (*HARDWARE, "cpu_isa"))
        before = last.get(key)
        if before and before.environment:
            names = {*VERSIONS, *here.libraries, *before.environment.libraries}
            if changed := here.differs_from(before.environment, sorted(names)):
                yield before, run, changed
        last[key] = run


def compare(study: Study, a: MachineSet, b: MachineSet) -> list[Agreement]:
    """Every cell that either set measured, in the order of ``a``, then what only ``b`` has: times, then speedups."""
    machines = a.environment, b.environment
    apart = machines[0].why_unlike(machines[1]) if machines[0] and machines[1] else "nothing measured"
    if apart:
        return _speedups(study, a, b, f"{apart}: absolute figures don't compare")
    speedups = _speedups(study, a, b, "")
    return [*compare_times(study, a, b), *(one for one in speedups if one.precision != BASELINE)]


def compare_times(study: Study, a: MachineSet, b: MachineSet) -> list[Agreement]:
    """The median latency of every cell of two sets of one machine."""
    why = {key: _why_not(a, b, *key) for key in _keys(a, b)}
    sides = [logs(cell.times_ms(key[1]) for key, cell in _cells(one, why)) for one in (a, b)]
    return _agreements(study, "latency_median", why, *sides)


def _speedups(study: Study, a: MachineSet, b: MachineSet, of_fp32: str) -> list[Agreement]:
    why = {key: (key[1] == BASELINE and of_fp32) or _why_not(a, b, *key, paired=True) for key in _keys(a, b)}
    sides = []
    for one in (a, b):
        cells = _cells(one, why)
        turned = ratios.turns((cell, key[1]) for key, cell in cells)
        rounds = ratios.rounds_of(turned, ratios.over_fp32(turned, ratios.TIMES))
        family = pd.Series([f"{precision} {size}" for (_, precision, size), _ in cells], dtype=object)
        sides.append(ratios.contrasts(rounds, family))
    found = []
    for agreement in _agreements(study, "speedup", why, *sides):
        key = agreement.model, agreement.precision, agreement.batch_size
        mine, other = (study.row(side.source, *key, "speedup") for side in (a, b))
        ahead = study.row(a.source, *key, "speedup_prediction")
        if agreement.ratio is not None and None not in (ahead.low, ahead.high, other.value):
            foreseen = ahead.low <= other.value <= ahead.high  # type: ignore[operator]
            agreement = replace(agreement, same_verdict=mine.verdict == other.verdict, foreseen=foreseen)
        found.append(agreement)
    return found


def counted(agreements: list[Agreement]) -> str:
    """How many cells agree, in one line."""
    counts = Counter(one.word for one in agreements)
    apart = counts["not comparable"]
    agree = f"{counts['agrees']} of {len(agreements) - apart} compared cells agree, {counts['differs']} differ"
    agree = f"{agree}, {counts['undecided']} are undecided; {apart} are not comparable"
    speedups = [one for one in agreements if one.foreseen is not None]
    if not speedups:
        return agree
    same, outside = sum(bool(one.same_verdict) for one in speedups), sum(not one.foreseen for one in speedups)
    return f"{agree}; of {len(speedups)} speedups {same} have the same verdict, {outside} lie outside the prediction"


def _keys(a: MachineSet, b: MachineSet) -> dict[Key, None]:
    cells = ((*pair, cell.batch_size) for one in (a, b) for pair, found in one.records.items() for cell in found.cells)
    return dict.fromkeys(cells)


def _cells(one: MachineSet, why: dict[Key, str]) -> list[tuple[Key, Cell]]:
    return [(key, one.state(*key).measured[1]) for key, reason in why.items() if not reason]


def _why_not(a: MachineSet, b: MachineSet, model: str, precision: str, batch_size: int, paired: bool = False) -> str:
    """Why a cell of A is not compared with B's, or empty."""
    states = [one.state(model, precision, batch_size) for one in (a, b)]
    for one, state in zip((a, b), states, strict=True):
        if state.status != "ok":
            return f"{one.label}: {state.reason}"
        if paired and not state.measured[1].paired:
            return f"{one.label}: before rounds"
    changed = _other_settings(states[0].measured[0], states[1].measured[0])
    return f"other {changed}" if changed else ""


def _other_settings(a: Record, b: Record) -> str:
    """Which settings of two records differ so that their figures mean different things."""
    protocols = [dict(record.settings.protocol) for record in (a, b)]
    pairs = {
        "model row": (a.settings.model, b.settings.model),
        "precision row": (a.settings.precision, b.settings.precision),
        "weights": (a.settings.weights.kind, b.settings.weights.kind),
        "attention": tuple(protocol["attention"] for protocol in protocols),
        "threads": tuple({one.threads for cell in record.cells for one in cell.rounds} for record in (a, b)),
    }
    return ", ".join(name for name, (here, there) in pairs.items() if here != there)


def _agreements(study: Study, quantity: str, why: dict[Key, str], a: pd.DataFrame, b: pd.DataFrame) -> list[Agreement]:
    """A word on each cell from both sides' effects (log), errors and degrees of freedom."""
    choice = study.params.statistics
    contrast = _difference(a, b)
    half = stats.t.ppf(0.5 + choice.confidence / 2, contrast.df) * contrast.error
    words = decide(contrast.assign(all=1), ["all"], choice.confidence, choice.equivalence_margin)
    reasons = grounds(contrast, words, choice.confidence, choice.equivalence_margin)
    ends = (np.exp(contrast.effect + sign * half) for sign in (0, -1, 1))
    found = {key: Agreement(*key, quantity, "not comparable", why=reason or ONE_ROUND) for key, reason in why.items()}
    compared = [key for key, reason in why.items() if not reason]
    for key, word, ratio, low, high, ground in zip(compared, words.verdict, *ends, reasons, strict=True):
        if not np.isnan(low):
            found[key] = replace(found[key], word=WORDS[word], ratio=ratio, low=low, high=high, why=ground)
    return list(found.values())


def _difference(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The contrast of two sides, with Welch's degrees of freedom; a side of one round has no error."""
    errors = [side.error.mask(side.n < 2) for side in (a, b)]
    total = errors[0] ** 2 + errors[1] ** 2
    df = (total**2 / (errors[0] ** 4 / a.df + errors[1] ** 4 / b.df)).where(total > 0, a.df + b.df)
    n = np.minimum(a.n, b.n)
    return pd.DataFrame({"effect": a.effect - b.effect, "error": total**0.5, "df": df, "n": n})
