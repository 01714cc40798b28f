"""What a run would do, before it starts: the cells that are missing, how long they take, and how much memory they need.

Times come from what was measured before on the same hardware, in this order: the cell itself, the pair at another batch
size (in proportion), the precision on other models (by arithmetic). Without any of that a time is unknown, and said to
be. Memory is the stored weights by arithmetic, or what the pair's process needed at most when it was measured.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment, probe
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.records.cell import Cell
from visionquant.records.record import Record, current, stale, under_way
from visionquant.settings.params import Params, Protocol
from visionquant.weights import architectures, hub

Pair = tuple[str, str]


@dataclass(frozen=True)
class PlannedPair:
    """One pair: batch sizes to measure, their seconds (None: unknown), and bytes of host memory (None: unknown)."""

    model: str
    precision: str
    batch_sizes: tuple[int, ...]
    seconds: float | None
    memory: int | None


@dataclass(frozen=True)
class Plan:
    """All pairs of a run."""

    pairs: tuple[PlannedPair, ...]

    @property
    def cells(self) -> int:
        return sum(len(pair.batch_sizes) for pair in self.pairs)

    @property
    def seconds(self) -> float:
        """Of all pairs whose time is known."""
        return sum(pair.seconds or 0.0 for pair in self.pairs)

    @property
    def unknown(self) -> int:
        """Pairs with something to measure whose time is not known."""
        return sum(bool(pair.batch_sizes) and pair.seconds is None for pair in self.pairs)

    @property
    def text(self) -> str:
        """The plan in one line."""
        if not self.cells:
            return "nothing to measure"
        guessed = (
            f"about {self.seconds / 60:.1f} min" if self.unknown < sum(bool(p.batch_sizes) for p in self.pairs) else ""
        )
        unknown = f"{self.unknown} pairs were never measured on this hardware: time unknown" if self.unknown else ""
        memory = max((pair.memory or 0 for pair in self.pairs if pair.batch_sizes), default=0)
        needed = f"largest process about {memory / 2**30:.1f} GiB" if memory else ""
        return "; ".join(filter(None, (f"{self.cells} cells to measure", guessed, unknown, needed)))


def up_to_date(
    project: Project, params: Params, pairs: Iterable[Pair], here: Environment, measuring_sha256: str
) -> dict[Pair, set[int]]:
    """Batch sizes of each pair that a run would keep: same settings, weights, machine and code; unfinished ones too.

    What failed unexpectedly is tried again.

    Raises:
        StudyError: a record is broken.
    """
    kept: dict[Pair, set[int]] = {}
    for model, precision in pairs:
        progress = under_way(project.progress(model, precision))
        for found in (progress.record if progress else None, current(project.record(model, precision))):
            if found is None:
                continue
            alike = found.environment.same_machine(here) and found.code.measuring_sha256 == measuring_sha256
            if alike and not stale(found, params) and _same_weights(project, params, found):
                cells = (cell.batch_size for cell in found.cells if cell.status != "failed")
                kept.setdefault((model, precision), set()).update(cells)
    return kept


def _same_weights(project: Project, params: Params, record: Record) -> bool:
    try:
        manifest = hub.manifest_of(project, params, record.model)
    except StudyError:
        return False
    return manifest.sha256() == record.settings.weights.manifest_sha256


def of_study(
    project: Project,
    params: Params,
    models: Sequence[str],
    precisions: Sequence[str],
    batch_sizes: Sequence[int],
    measuring_sha256: str,
    again: bool = False,
) -> Plan:
    """The plan of a sweep on this machine; ``measuring_sha256`` is the digest of the measuring code.

    Raises:
        StudyError: a record is broken, or the device that is asked for is not there.
    """
    pairs = [(model, precision) for model in models for precision in precisions]
    here = probe(params.study.device)
    done = {} if again else up_to_date(project, params, pairs, here, measuring_sha256)
    history = [record for pair in pairs if (record := current(project.record(*pair)))]
    history += [record for one in archive.read_all(project).values() for record in one.values()]
    alike = [record for record in history if record.environment.same_hardware(here)]
    return make(project, params, pairs, batch_sizes, done, alike)


def make(
    project: Project,
    params: Params,
    pairs: Iterable[Pair],
    batch_sizes: Sequence[int],
    done: Mapping[Pair, set[int]],
    history: Sequence[Record],
) -> Plan:
    """Plan a run.

    Args:
        done: batch sizes that need no measuring, see :func:`up_to_date`.
        history: records of the same hardware, newest first.
    """
    known = _Times(project, history)
    planned = []
    for model, precision in pairs:
        missing = tuple(size for size in batch_sizes if size not in done.get((model, precision), ()))
        times = [_cell_s(params.protocol, known.pass_s(model, precision, size)) for size in missing]
        whole = None if any(time is None for time in times) else sum(time or 0.0 for time in times) + known.overhead_s
        planned.append(
            PlannedPair(model, precision, missing, whole if missing else 0.0, known.memory(model, precision, missing))
        )
    return Plan(tuple(planned))


def _cell_s(protocol: Protocol, pass_s: float | None) -> float | None:
    """Seconds that the protocol spends on a cell whose pass takes ``pass_s``."""
    if pass_s is None:
        return None
    fewest = protocol.replicates * (protocol.warmup_iterations + protocol.minimum_iterations + 1) * pass_s
    if protocol.limit_s is not None and fewest > protocol.limit_s:
        return 0.0
    counted = protocol.replicates * protocol.warmup_iterations + protocol.iterations * (1 + protocol.throughput_share)
    most = counted * pass_s
    return max(fewest, min(most, protocol.budget_s)) if protocol.budget_s is not None else most


class _Times:
    """What earlier records tell of cells that are not measured yet."""

    def __init__(self, project: Project, history: Sequence[Record]) -> None:
        self.project, self.history = project, history
        spare = [record.elapsed_s - sum(cell.timed_s() for cell in record.cells) for record in history]
        self.overhead_s = median(spare) if spare else 0.0

    def pass_s(self, model: str, precision: str, batch_size: int) -> float | None:
        own = [r for r in self.history if (r.model, r.precision) == (model, precision)]
        for record in own:
            timed = [cell for cell in record.cells if cell.replicates]
            if timed:
                nearest = min(timed, key=lambda cell: abs(cell.batch_size - batch_size))
                return _median_s(nearest) * batch_size / nearest.batch_size
        facts = architectures.facts(self.project, model)
        rates = [
            _median_s(cell) / (cell.batch_size * record.size.macs)
            for record in self.history
            if record.precision == precision and record.size and record.size.macs
            for cell in record.cells
            if cell.replicates
        ]
        return median(rates) * facts.macs * batch_size if facts and rates else None

    def memory(self, model: str, precision: str, batch_sizes: Sequence[int]) -> int | None:
        """Bytes of host memory of the largest of these cells."""
        peaks = [
            cell.memory.host_peak
            for record in self.history
            if (record.model, record.precision) == (model, precision)
            for cell in record.cells
            if cell.batch_size in batch_sizes and cell.memory and cell.memory.host_peak
        ]
        if peaks:
            return max(peaks)
        facts = architectures.facts(self.project, model)
        return facts.model_bytes.get(precision) if facts else None


def _median_s(cell: Cell) -> float:
    return median(ms for replicate in cell.replicates for ms in replicate.wall_ms) / 1e3
