"""Pairs, model x precision, from manifest to record: those of one model are interleaved where they fit into memory.

Their replicates come in rounds, each in a seeded order of its own: what disturbs the machine for a while disturbs all
precisions alike then. A pair that is measured alone is interleaved with nothing; the drift sentinel carries its
comparisons. What is measured with the settings in force is kept: the same command goes on with an interrupted one.
"""

import random
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress

from visionquant.bench import device as devices
from visionquant.bench import host, pair_worker, reference, reference_kernel, telemetry, torch_flags, worker
from visionquant.bench.cell_run import CellRun
from visionquant.bench.command import Command, Matrix, TimeIsUp, blank, fp32_bytes
from visionquant.bench.device import Device
from visionquant.bench.pair_run import PairRun
from visionquant.core import lock, machine
from visionquant.core.paths import Project
from visionquant.records.cell import Cell
from visionquant.records.record import Record
from visionquant.settings.params import Params, Protocol
from visionquant.weights import checkpoint, sources
from visionquant.weights.sources import Manifest

MEMORY_SHARE = 0.5  # of free host memory that the pairs of one model may take together


@lock.alone
def sweep(project: Project, params: Params, matrix: Matrix, command: Command | None = None) -> bool:
    """The study without DVC: model by model its weights, its FP32 reference, and every precision that lacks a cell.

    Returns whether all of it is measured; False where the time was up before.

    Raises:
        StudyError: settings, weights or machine are not what they should be; finished cells are kept.
    """
    command = command or Command()
    machine.declare(project, machine.probe(params.study.device))
    try:
        for part in matrix.by_model():
            checkpoint.download(project, params, *part.models)
            reference.make(project, params, *part.models)
            measure(project, params, part, command)
    except TimeIsUp:
        return False
    return True


@lock.alone
def measure(project: Project, params: Params, matrix: Matrix, command: Command | None = None) -> list[Record]:
    """Measure the cells that the pairs of ``matrix`` lack, write their records and return them; other cells are kept.

    Raises:
        StudyError: settings, weights or machine are not what they should be, or the machine is busy.
        CodeChanged: the measuring code was edited meanwhile; nothing is written.
        TimeIsUp: it is past the command's ``until_s``; finished replicates are kept.
    """
    command = command or Command()
    environment = machine.require_declared(project, params.study.device)
    records = []
    for model in matrix.models:
        manifest = sources.manifest_of(project, params, model)
        for group in _groups(project, manifest, matrix.precisions):
            with ExitStack() as stack:
                runs = []
                for precision in group:
                    asked = blank(project, params, (model, precision), manifest, environment)
                    before_s, command.before_s = command.before_s, 0.0
                    run = PairRun(project, params, manifest, asked, matrix, before_s)
                    runs.append(stack.enter_context(closing(run)))
                if lacking := [run for run in runs if any(map(run.lacks, matrix.batch_sizes))]:
                    _measure(lacking, params.protocol, devices.of(environment.device), command)
                for run in runs:
                    records.append(run.finish())
                    command.observer.pair(records[-1])
    return records


def _measure(runs: Sequence[PairRun], protocol: Protocol, device: Device, command: Command) -> None:
    """Prepare the pairs of one model, then measure what they lack, the smallest batch size first."""
    host.require_quiet(protocol, device)
    torch_flags.quiet(device.kind)
    pair_worker.preload(device.kind, {run.record.settings.precision.engine for run in runs})
    idle = None  # what the idle machine draws, where a window of energy is asked for and can be read
    if protocol.energy_s is not None:
        with device.energy_counter() as counter:
            idle = None if isinstance(counter, str) else telemetry.idle(counter, protocol.energy_s)
    if not device.forks_warm:
        with suppress(worker.Failed, worker.Defect):  # it is tried again by each pair, which says why it failed
            reference_kernel.calibrate(device.kind, protocol)
    ready = []
    with ExitStack() as stack:
        sampler = device.sampler()
        if sampler is not None:
            stack.callback(sampler.stop)
        for run in runs:
            command.require_time()
            failed = run.prepare(idle)
            for cell in failed:
                command.observer.cell(run.pair, cell)
            ready += [] if failed else [run]
        order = random.Random(protocol.seed)
        for batch_size in runs[0].batch_sizes:
            _interleave([run for run in ready if run.lacks(batch_size)], batch_size, order, sampler, command)


def _interleave(
    runs: Sequence[PairRun], batch_size: int, order: random.Random, sampler: telemetry.Sampler | None, command: Command
) -> None:
    """The cells of one batch size: round after round a replicate of each that is not finished; may raise TimeIsUp."""
    courses: dict[PairRun, CellRun] = {}
    for run in runs:
        begun = run.begin(batch_size)
        if isinstance(begun, Cell):
            command.observer.cell(run.pair, begun)
        else:
            courses[run] = begun
    while courses:
        precisions = [run.record.precision for run in courses]
        for run in order.sample(list(courses), len(courses)):
            command.require_time()
            others = tuple(name for name in precisions if name != run.record.precision)
            cell = run.replicate(courses[run], next(command.positions), others, sampler)
            if cell is None:
                command.observer.replicate(run.pair, courses[run])
            else:
                del courses[run]
                command.observer.cell(run.pair, cell)


def _groups(project: Project, manifest: Manifest, precisions: Sequence[str]) -> list[list[str]]:
    """All together where FP32 weights for each fit into memory, else each alone."""
    together = len(precisions) * fp32_bytes(project, manifest) <= MEMORY_SHARE * host.available_bytes()
    return [list(precisions)] if together else [[precision] for precision in precisions]
