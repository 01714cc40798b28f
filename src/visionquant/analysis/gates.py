"""Two gates that a set of rounds has to pass: one on its ratios, one on its absolute times.

*Placebo*: FP32 against FP32 once more in the same blocks is one, whatever else the machine does. The set passes where
the interval over its cells lies within ``PLACEBO_BOUND``; a cell whose own interval lies outside it has no verdict, one
that is wider than the bound is not resolved and keeps it.

*Halves*: the first half of the rounds against the last, as if they were two runs: equal things, so what is called
different is a false alarm. Corrected verdicts differ in at most 1 - confidence of all sets, so not one may.
Uncorrected, each of n cells has that chance: more than the binomial's 95 % bound of them is more than chance. It gates
absolute times alone.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy import stats

from visionquant.analysis.comparison import Agreement, compare_times
from visionquant.analysis.frame import PLACEBO_BOUND as PLACEBO_BOUND
from visionquant.analysis.study import BASELINE, MachineSet, Study
from visionquant.records.record import Record

FEWEST = 20  # compared cells; fewer decide nothing of absolute times


@dataclass(frozen=True)
class PlaceboGate:
    """FP32 over its placebo, over all FP32 cells of a set, with the t interval of their logs; NaN without any.

    Counts are of all cells, each precision with the blocks that it was paired in.
    """

    ratio: float
    low: float
    high: float
    cells: int
    outside: int
    not_resolved: int

    @property
    def passed(self) -> bool:
        return self.low >= 1 / (1 + PLACEBO_BOUND) and self.high <= 1 + PLACEBO_BOUND

    @property
    def text(self) -> str:
        """The outcome in one sentence."""
        if math.isnan(self.ratio):
            return "No placebo was measured."
        return (
            f"Placebo {'passed' if self.passed else 'FAILED'}: FP32 over itself is {self.ratio:.3f} ({self.low:.3f} to "
            f"{self.high:.3f}), {100 * PLACEBO_BOUND:g} % is allowed; of {self.cells} cells {self.outside} lie "
            f"outside, {self.not_resolved} are not resolved."
        )


def placebo_gate(study: Study, machine_set: MachineSet) -> PlaceboGate:
    """The outcome of a set."""
    found = study.cells[(study.cells.source == machine_set.source) & (study.cells.quantity == "placebo")]
    words, base = Counter(found.verdict), found[found.precision == BASELINE]
    ratio, low, high = (float(base[name].mean()) for name in ("value", "low", "high"))
    if len(base) > 1:
        logs, confidence = np.log(base.value), study.params.statistics.confidence
        half = stats.t.ppf(0.5 + confidence / 2, len(base) - 1) * stats.sem(logs)
        ratio, low, high = (math.exp(logs.mean() + sign * half) for sign in (0, -1, 1))
    return PlaceboGate(ratio, low, high, len(found), words["outside"], words["not resolved"])


@dataclass(frozen=True)
class Halves:
    """First rounds over last: ``different`` cells after correction, ``uncorrected`` of at most ``bound`` without."""

    cells: tuple[Agreement, ...]
    compared: int
    different: int
    uncorrected: int
    bound: int

    @property
    def passed(self) -> bool:
        return self.compared >= FEWEST and self.different == 0 and self.uncorrected <= self.bound

    @property
    def text(self) -> str:
        """The outcome in one sentence."""
        if self.compared < FEWEST:
            return f"First rounds against last: {self.compared} cells can be compared, {FEWEST} are needed."
        outcome = "absolute times hold" if self.passed else "absolute times moved"
        return (
            f"First rounds against last: {outcome}; {self.different} of {self.compared} cells differ (corrected), "
            f"{self.uncorrected} before correction, of which {self.bound} may."
        )


def halves(study: Study, machine_set: MachineSet) -> Halves:
    """The outcome of a set; of cells before rounds nothing is compared."""
    first, last = (
        MachineSet(name, {pair: _half(record, late) for pair, record in machine_set.records.items()})
        for name, late in (("first", False), ("last", True))
    )
    cells, chance = compare_times(study, first, last), 1 - study.params.statistics.confidence
    bounds = [(one.low, one.high) for one in cells if one.low is not None and one.high is not None]
    return Halves(
        cells=tuple(cells),
        compared=len(bounds),
        different=sum(one.word == "differs" for one in cells),
        uncorrected=sum(not low <= 1 <= high for low, high in bounds),
        bound=max(0, int(stats.binom.ppf(0.95, len(bounds), chance))),
    )


def _half(record: Record, late: bool) -> Record:
    """A record with half of the rounds of each cell, of an odd number the greater half late."""
    cells = []
    for cell in record.cells:
        half = len(cell.rounds) // 2
        if cell.paired:
            cells.append(cell.model_copy(update={"rounds": cell.rounds[half:] if late else cell.rounds[:half]}))
    return record.model_copy(update={"cells": tuple(cells)})
