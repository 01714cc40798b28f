"""Does a rerun agree? Two machine sets, cell by cell: agrees, differs, undecided or not comparable.

Between like machines (the same GPU, or the same CPU with as many cores, and the same recorded settings of its speed)
the median latency is compared; between others only the speedup over FP32, which each set takes on its own machine. The
unit is the process, as in verdicts: a cell agrees where both are equivalent within the margin, differs where the
corrected test says so, and is undecided where the processes at hand carry neither; the interval stands beside it.
Holm's correction is over all compared cells.

An A/A run is such a comparison of equal things, so it tells of false alarms and of the machine's noise floor. Corrected
verdicts differ in at most 1 - confidence of all runs, so not one may. Uncorrected, each of n cells has that chance:
more than the binomial's 95 % bound of them is more than chance.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from visionquant.analysis.estimators import ONE_PROCESS, contrasts, logs, summary, wall_times
from visionquant.analysis.frame import Sides, shared_rounds
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.analysis.verdicts import decide, grounds
from visionquant.core.errors import StudyError
from visionquant.core.intervals import half_width, log_medians
from visionquant.records import drift
from visionquant.records.record import Record

AgreementWord = Literal["agrees", "differs", "undecided", "not comparable"]
WORDS: dict[str, AgreementWord] = {
    "SAME": "agrees", "FASTER": "differs", "SLOWER": "differs", "UNDECIDED": "undecided",
}  # fmt: skip
FEWEST = 20  # compared cells of an A/A run; fewer decide nothing


@dataclass(frozen=True)
class Agreement:
    """One cell of two sets; ``ratio`` is A over B of ``quantity`` with its interval, empty where not comparable."""

    model: str
    precision: str
    batch_size: int
    quantity: str
    word: AgreementWord
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


def set_named(study: Study, name: str) -> MachineSet:
    """A set by its name: "local", or a machine of ``data/machines``.

    Raises:
        StudyError: there is none, or it holds nothing.
    """
    held = {one.source.removeprefix("recorded:"): one for one in study.sets if one.records}
    if name not in held:
        raise StudyError(f"compare: {name}", "no set of records has this name", f"sets: {', '.join(held) or 'none'}")
    return held[name]


def compare(study: Study, a: MachineSet, b: MachineSet, one_set: bool = False) -> list[Agreement]:
    """Every cell that either set measured, in the order of ``a``, then what only ``b`` has.

    ``one_set``: both are passes of one set, whose machine is one by all that was recorded.
    """
    machines = a.environment, b.environment
    apart = machines[0].why_unlike(machines[1]) if machines[0] and machines[1] else "nothing measured"
    apart, choice = "" if one_set else apart, study.params.statistics
    quantity = "speedup" if apart else "latency_median"
    cells = ((*pair, cell.batch_size) for one in (a, b) for pair, found in one.records.items() for cell in found.cells)
    sides = {key: _sides(a, b, *key, apart) for key in dict.fromkeys(cells)}
    compared = {key: side for key, side in sides.items() if not isinstance(side, str)}
    contrast = _contrasts([side[0] for side in compared.values()])
    if apart:
        contrast = _difference(contrast, _contrasts([side[1] for side in compared.values()]))
    half = stats.t.ppf(0.5 + choice.confidence / 2, contrast.df) * contrast.error
    words = decide(contrast.assign(all=1), ["all"], choice.confidence, choice.equivalence_margin)
    why = grounds(contrast, words, choice.confidence, choice.equivalence_margin)
    ratios = (np.exp(contrast.effect + sign * half) for sign in (0, -1, 1))
    reasons = {key: side if isinstance(side, str) else ONE_PROCESS for key, side in sides.items()}
    agreements = {key: Agreement(*key, quantity, "not comparable", why=reason) for key, reason in reasons.items()}
    for key, word, ratio, low, high, ground in zip(compared, words.verdict, *ratios, why, strict=True):
        if not np.isnan(low):
            bounds = {"ratio": ratio, "low": low, "high": high}
            agreements[key] = replace(agreements[key], word=WORDS[word], why=ground, **bounds)
    return list(agreements.values())


def counted(agreements: list[Agreement]) -> str:
    """How many cells agree, in one line."""
    counts = Counter(one.word for one in agreements)
    apart = counts["not comparable"]
    agree = f"{counts['agrees']} of {len(agreements) - apart} compared cells agree, {counts['differs']} differ"
    return f"{agree}, {counts['undecided']} are undecided; {apart} are not comparable"


def _sides(a: MachineSet, b: MachineSet, model: str, precision: str, batch_size: int, apart: str) -> list[Sides] | str:
    """What to compare: a cell of A with B's, or in each set FP32 with the precision; or why nothing can be."""
    states, bases = ([one.state(model, name, batch_size) for one in (a, b)] for name in (precision, BASELINE))
    for one, state in zip((a, b), states, strict=True):
        if state.status != "ok":
            return f"{one.label}: {state.reason}"
    (record_a, cell_a), (record_b, cell_b) = (state.measured for state in states)
    if changed := _other_settings(record_a, record_b):
        return f"other {changed}"
    if not apart:
        return [Sides(cell_a.replicates, cell_b.replicates, max(drift.between(cell_a, cell_b), a.shift, b.shift))]
    if precision == BASELINE:
        return f"{apart}: absolute figures don't compare"
    sides = []
    for one, base, cell in zip((a, b), bases, (cell_a, cell_b), strict=True):
        if base.status != "ok":
            return f"{one.label}: no FP32 cell ({base.reason})"
        sides.append(shared_rounds(base.measured[1], cell, precision, one.shift))
    return sides


def _other_settings(a: Record, b: Record) -> str:
    """Which settings of two records differ so that their figures mean different things."""
    pairs = {
        "model row": (a.settings.model, b.settings.model),
        "precision row": (a.settings.precision, b.settings.precision),
        "weights": (a.settings.weights.kind, b.settings.weights.kind),
        "attention": (a.settings.protocol.attention, b.settings.protocol.attention),
        "threads": tuple({one.threads for cell in record.cells for one in cell.replicates} for record in (a, b)),
    }
    return ", ".join(name for name, (here, there) in pairs.items() if here != there)


def _contrasts(sides: list[Sides]) -> pd.DataFrame:
    base, other = logs(wall_times(side.base) for side in sides), logs(wall_times(side.other) for side in sides)
    return contrasts(base, other).assign(drift=np.array([side.drift for side in sides], float))


def _difference(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The contrasts of two contrasts, with Welch's degrees of freedom over both."""
    total = a.error**2 + b.error**2
    df = (total**2 / (a.error**4 / a.df + b.error**4 / b.df)).where(total > 0, a.df + b.df)
    found = pd.DataFrame({"effect": a.effect - b.effect, "error": total**0.5, "df": df, "drift": a.drift + b.drift})
    return found.assign(spread=np.hypot(a.spread, b.spread), n=np.minimum(a.n, b.n))


@dataclass(frozen=True)
class RepeatedRun:
    """Cells of an A/A run with the gate: ``different`` after correction, ``uncorrected`` of at most ``bound`` without.

    ``floor`` are half-widths (shares) of the median's interval, of every cell in both passes.
    """

    cells: tuple[Agreement, ...]
    compared: int
    different: int
    uncorrected: int
    bound: int
    floor: tuple[float, ...]
    protocol: str
    processes: tuple[int, ...]

    @property
    def passed(self) -> bool:
        return self.compared >= FEWEST and self.different == 0 and self.uncorrected <= self.bound

    @property
    def text(self) -> str:
        """The outcome in one sentence."""
        found, width = summary(self.floor), "not known"
        if found:
            middle, least, most = (100 * found[name] for name in ("median", "min", "max"))
            width = f"{middle:.1f} % in the middle ({least:.1f} to {most:.1f} %)"
        return (
            f"{self.different} of {self.compared} compared cells called different (corrected), {self.uncorrected} "
            f"before correction (at most {self.bound} expected); half-width of a median's interval {width}"
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """Every cell, then the outcome."""
        return (*(one.text for one in self.cells), f"A/A {'passed' if self.passed else 'FAILED'}: {self.text}")


def repeated_run(study: Study, machine_set: MachineSet) -> RepeatedRun:
    """The outcome of a set's A/A run.

    Raises:
        StudyError: the set has none.
    """
    if machine_set.aa is None:
        raise StudyError("aa-test", "no A/A run", "run `visionquant aa-test`")
    first, second = (MachineSet(name, rows) for name, rows in zip(("first", "second"), machine_set.aa, strict=True))
    cells, confidence = compare(study, first, second, one_set=True), study.params.statistics.confidence
    bounds = [(one.low, one.high) for one in cells if one.low is not None and one.high is not None]
    records = [record for one in machine_set.aa for record in one.values()]
    timed = [cell for record in records for cell in record.cells]
    widths = [half_width(log_medians(wall_times(cell.replicates)), confidence) for cell in timed]
    protocols = {record.settings.protocol for record in records}
    names = [name for name, row in study.params.protocols.items() if row in protocols]
    return RepeatedRun(
        cells=tuple(cells),
        compared=len(bounds),
        different=sum(one.word == "differs" for one in cells),
        uncorrected=sum(not low <= 1 <= high for low, high in bounds),
        bound=max(0, int(stats.binom.ppf(0.95, len(bounds), 1 - confidence))),
        floor=tuple(width for width in widths if width is not None),
        protocol=", ".join(names) or "one that params.yaml no longer has",
        processes=tuple(sorted({len(cell.replicates) for cell in timed})),
    )
