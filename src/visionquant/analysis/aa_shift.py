"""What an A/A run says: false alarms of the verdict, and the noise floor of the machine.

Corrected verdicts of equal things differ in at most 1 - confidence of all runs, so not one may. Uncorrected, each of n
cells has that chance: more than the binomial's 95 % bound of them is more than chance.
"""

from collections import Counter
from dataclasses import dataclass

from scipy import stats

from visionquant.analysis import comparison, estimates, statistics
from visionquant.analysis.comparison import Agreement
from visionquant.analysis.study import Evidence, RecordSet
from visionquant.core.errors import StudyError
from visionquant.core.intervals import half_width, log_medians

FEWEST = 20


@dataclass(frozen=True)
class Outcome:
    """Cells of an A/A run with the gate: ``different`` after correction, ``uncorrected`` of at most ``bound`` without.

    Fewer than ``FEWEST`` compared cells decide nothing.

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
        found = statistics.summary(self.floor)
        width = f"{100 * found['median']:.1f} % in the middle" if found else "not known"
        floor = f"half-width of a median's interval {width}"
        span = f" ({100 * found['min']:.1f} to {100 * found['max']:.1f} %)" if found else ""
        return (
            f"{self.different} of {self.compared} compared cells called different (corrected), {self.uncorrected} "
            "before "
            f"correction (at most {self.bound} expected); {floor}{span}"
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """Every cell, then the outcome."""
        return (*(one.text for one in self.cells), f"A/A {'passed' if self.passed else 'FAILED'}: {self.text}")


def judge(evidence: Evidence, records_: RecordSet) -> Outcome:
    """The outcome of a set's A/A run.

    Raises:
        StudyError: the set has none.
    """
    if records_.aa is None:
        raise StudyError("aa-test", "no A/A run", "run `visionquant aa-test`")
    first, second = (RecordSet(name, found, {}) for name, found in zip(("first", "second"), records_.aa, strict=True))
    cells = comparison.compare(evidence, first, second, one_set=True)
    compared = [one for one in cells if one.ratio is not None]
    counts = Counter(one.word for one in cells)
    confidence = evidence.params.statistics.confidence
    records = [record for passed in records_.aa for record in passed.values()]
    widths = [
        half_width(log_medians(estimates.processes(cell)), confidence) for record in records for cell in record.cells
    ]
    protocols = {record.settings.protocol for record in records}
    names = [name for name, row in evidence.params.protocols.items() if row in protocols]
    return Outcome(
        cells=tuple(cells),
        compared=len(compared),
        different=counts["differs"],
        uncorrected=sum(not (one.low or 0.0) <= 1 <= (one.high or 0.0) for one in compared),
        bound=max(0, int(stats.binom.ppf(0.95, len(compared), 1 - confidence))),
        floor=tuple(width for width in widths if width is not None),
        protocol=", ".join(names) or "one that params.yaml no longer has",
        processes=tuple(sorted({len(cell.replicates) for record in records for cell in record.cells})),
    )
