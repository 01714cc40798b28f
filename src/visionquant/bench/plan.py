"""What a command would take before it starts: time and memory of what lacks.

Times come from what was measured before on the same hardware, in this order: the cell itself, the pair at another batch
size (in proportion), the precision on other models (by arithmetic). Without any of that a time is unknown, and said to
be. Memory is the stored weights by arithmetic, or what the pair's process needed at most when it was measured.
"""

import itertools
import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from visionquant.bench.cell_run import fewest_passes, median_s, pass_s, spent_s
from visionquant.bench.command import Matrix, blank, kept
from visionquant.core.errors import StudyError
from visionquant.core.machine import probe
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.records.record import Record, current
from visionquant.settings.params import Params, Protocol
from visionquant.weights import architectures, sources


class PlannedPair(NamedTuple):
    """One pair: batch sizes to measure, their seconds (None: unknown), and bytes of host memory (None: unknown)."""

    model: str
    precision: str
    batch_sizes: tuple[int, ...]
    seconds: float | None
    memory: int | None

    @property
    def text(self) -> str:
        time = "time unknown" if self.seconds is None else f"about {self.seconds:.0f} s"
        memory = "memory unknown" if self.memory is None else f"{self.memory / 2**30:.2f} GiB"
        return f"{self.model} {self.precision}: batch {' '.join(map(str, self.batch_sizes))}; {time}; {memory}"


def of_study(project: Project, params: Params, matrix: Matrix) -> list[PlannedPair]:
    """The pairs of which a run here would measure something; StudyError: a record is broken, the device lacks."""
    here = probe(params.study.device)
    records = [record for pair in matrix.pairs if (record := current(project.record(*pair)))]
    records += [record for machine in archive.recorded(project) for record in machine.records.values()]
    history = [record for record in records if record.environment.same_hardware(here)]
    planned = []
    for pair in matrix.pairs:
        try:
            manifest = sources.manifest_of(project, params, pair[0])
        except StudyError:  # without its weights nothing of a model is kept
            there: set[int] = set()
        else:
            cells = kept(project, blank(project, params, pair, manifest, here), matrix).record.cells
            there = {cell.batch_size for cell in cells}
        if sizes := [size for size in matrix.batch_sizes if size not in there]:
            planned.append(estimate(project, params.protocol, pair, sizes, history))
    return planned


def estimate(
    project: Project, protocol: Protocol, pair: tuple[str, str], batch_sizes: Sequence[int], history: Sequence[Record]
) -> PlannedPair:
    """Time and memory of these cells, from records of the same hardware, of which the first tell most."""
    model, precision = pair
    facts = architectures.facts(project, model)
    own = [record.cells for record in history if (record.model, record.precision) == pair]
    timed = next((cells for cells in own if any(cell.replicates for cell in cells)), ())
    rates = [
        median_s(cell) / (cell.batch_size * record.size.macs)
        for record in history
        if record.precision == precision and record.size and record.size.macs
        for cell in record.cells
        if cell.replicates
    ]
    by_arithmetic = median(rates) * facts.macs if facts and rates else None
    spare = [record.elapsed_s - sum(cell.timed_s() for cell in record.cells) for record in history]
    seconds: float | None = median(spare or [0.0])
    for size in batch_sizes:
        known_s = pass_s(timed, size) if timed else by_arithmetic and by_arithmetic * size
        if known_s is None or seconds is None:
            seconds = None
        elif fewest_passes(protocol) * known_s <= (protocol.limit_s or math.inf):  # else it will be over budget
            seconds += spent_s(protocol, known_s)
    used = (cell.memory for cell in itertools.chain(*own) if cell.batch_size in batch_sizes)
    peaks = [memory.host_peak for memory in used if memory and memory.host_peak]
    by_counts = facts.model_bytes.get(precision) if facts else None
    return PlannedPair(model, precision, tuple(batch_sizes), seconds, max(peaks, default=by_counts))


def summary(planned: Sequence[PlannedPair]) -> str:
    """A plan in one line."""
    if not planned:
        return "nothing to measure"
    known = [pair.seconds for pair in planned if pair.seconds is not None]
    unknown, memory = len(planned) - len(known), max(pair.memory or 0 for pair in planned)
    parts = (
        f"{sum(len(pair.batch_sizes) for pair in planned)} cells to measure",
        f"about {sum(known) / 60:.1f} min" if known else "",
        f"{unknown} pairs were never measured on this hardware: time unknown" if unknown else "",
        f"largest process about {memory / 2**30:.1f} GiB" if memory else "",
    )
    return "; ".join(filter(None, parts))
