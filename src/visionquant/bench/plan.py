"""What of a matrix is there already, and what the rest would take, before it starts: time and memory.

Times come from what was measured before on the same hardware, in this order: the cell itself, the pair at another batch
size (in proportion), the precision on other models (by arithmetic). Without any of that a time is unknown, and said to
be. Memory is the stored weights by arithmetic, or what the pair's process needed at most when it was measured.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

from visionquant.bench import pair_fingerprint
from visionquant.bench.command import Matrix
from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment, probe
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.records.cell import Cell, Pending
from visionquant.records.record import SCHEMA, PartialRecord, Record, Settings, Weights, current, under_way
from visionquant.settings.params import Params, Protocol
from visionquant.weights import architectures, sources
from visionquant.weights.manifest import Manifest


def blank(
    project: Project, params: Params, pair: tuple[str, str], manifest: Manifest, environment: Environment
) -> Record:
    """The record of a pair of which nothing is measured: what is asked for."""
    model, precision = pair
    return Record(
        schema_version=SCHEMA,
        model=model,
        precision=precision,
        settings=Settings(
            model=params.models[model],
            precision=params.precisions[precision],
            protocol=params.protocol,
            device=environment.device,
            weights=Weights(kind=manifest.weights, source=manifest.source, manifest_sha256=manifest.sha256()),
        ),
        environment=environment,
        code=pair_fingerprint.state(project.root, params.precisions[precision]),
        conversion=None,
        size=None,
        fidelity=None,
        operations=None,
        outlier_layers=None,
        cells=(),
        elapsed_s=0.0,
    )


def kept(project: Project, asked: Record, matrix: Matrix) -> PartialRecord:
    """What a run keeps of an interrupted run of the pair ``asked`` for, or of its record, if they are of one identity.

    Of the batch sizes of ``matrix``, cells that failed are not kept, and none is with ``again``. Where nothing is kept,
    facts and elapsed time begin anew too.

    Raises:
        StudyError: the record is broken.
    """
    pair = asked.model, asked.precision
    progress = under_way(project.progress(*pair))
    if progress is None or not progress.record.goes_on_as(asked):
        record = current(project.record(*pair))
        progress = PartialRecord(record=record if record is not None and record.goes_on_as(asked) else asked)

    def lasts(part: Cell | Pending) -> bool:
        return part.batch_size not in matrix.batch_sizes or not (
            matrix.again or getattr(part, "status", "") == "failed"
        )

    pending, cells = tuple(filter(lasts, progress.pending)), tuple(filter(lasts, progress.record.cells))
    anew = progress.record.cells and not cells and not pending
    return PartialRecord(record=asked if anew else progress.record.model_copy(update={"cells": cells}), pending=pending)


def fp32_bytes(project: Project, manifest: Manifest) -> int:
    """Bytes of a model's FP32 weights: by its committed counts, else those of its files; 0 where neither is known."""
    facts = architectures.facts(project, manifest.model)
    return facts.model_bytes["fp32"] if facts else sum(file.bytes for file in manifest.files)


def pass_s(cells: Iterable[Cell], batch_size: int) -> float | None:
    """Seconds of a pass at ``batch_size``, in proportion to the nearest of a pair's timed cells; None without any."""
    timed = [cell for cell in cells if cell.replicates]
    if not timed:
        return None
    nearest = min(timed, key=lambda cell: abs(cell.batch_size - batch_size))
    return _median_s(nearest) * batch_size / nearest.batch_size


def fewest_passes(protocol: Protocol) -> int:
    """Forward passes of a cell at least: warm-up, timed, and one in each replicate's throughput window."""
    return protocol.replicates * (protocol.warmup_iterations + protocol.minimum_iterations + 1)


def spent_s(protocol: Protocol, pass_s: float) -> float:
    """Seconds that the protocol spends on a cell whose pass takes ``pass_s``."""
    most = protocol.replicates * protocol.warmup_iterations + protocol.iterations * (1 + protocol.throughput_share)
    return max(fewest_passes(protocol) * pass_s, min(most * pass_s, protocol.budget_s or math.inf))


@dataclass(frozen=True)
class PlannedPair:
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
    """The pairs of which a run on this machine would measure something.

    Raises:
        StudyError: a record is broken, or the device that is asked for is not there.
    """
    here = probe(params.study.device)
    records = [record for pair in matrix.pairs if (record := current(project.record(*pair)))]
    records += [record for machine in archive.recorded(project) for record in machine.records.values()]
    history = [record for record in records if record.environment.same_hardware(here)]
    planned = []
    for model in matrix.models:
        manifest = None
        with suppress(StudyError):  # without its weights nothing of a model is kept
            manifest = sources.manifest_of(project, params, model)
        for pair in itertools.product([model], matrix.precisions):
            cells = kept(project, blank(project, params, pair, manifest, here), matrix).record.cells if manifest else ()
            if sizes := [size for size in matrix.batch_sizes if size not in {cell.batch_size for cell in cells}]:
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
        _median_s(cell) / (cell.batch_size * record.size.macs)
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


def _median_s(cell: Cell) -> float:
    return median(ms for replicate in cell.replicates for ms in replicate.wall_ms) / 1e3
