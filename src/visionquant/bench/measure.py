"""Pairs, model x precision, from manifest to record: one alone, or those of one model taking turns."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress

from visionquant.bench import energy, fingerprint, memory, reference_kernel, rounds, system_load, torch_flags, worker
from visionquant.bench.gpu_telemetry import Sampler
from visionquant.bench.pair_run import Session, edited
from visionquant.bench.rounds import OnCell, OnReplicate, TimeIsUp
from visionquant.core import lock
from visionquant.core.machine import Environment, require_declared
from visionquant.core.paths import Project
from visionquant.records.record import SCHEMA, Code, Record, Settings, Weights
from visionquant.settings.params import Params, Protocol, known
from visionquant.settings.precision import Int8Precision, MixedPrecision, Nf4Precision
from visionquant.weights import architectures, hub
from visionquant.weights.manifest import Manifest

OnPair = Callable[[Record], None]
MEMORY_SHARE = 0.5  # of free host memory that the pairs of one model may take together


@lock.alone
def measure(
    project: Project,
    params: Params,
    model: str,
    precisions: Sequence[str],
    batch_sizes: Sequence[int] | None = None,
    again: bool = False,
    on_cell: OnCell = lambda model, precision, found: None,
    on_replicate: OnReplicate = lambda model, precision, course: None,
    on_pair: OnPair = lambda record: None,
    before_s: float = 0.0,
    positions: Iterator[int] | None = None,
    until_s: float | None = None,
) -> list[Record]:
    """Measure the cells that the pairs of ``model`` lack and write their records.

    Pairs take turns where their weights fit into memory together, else one comes after the other.

    Args:
        batch_sizes: those to measure; the study's by default. Cells of other sizes are kept.
        again: measure all of them, though they are there already.
        on_cell: told of every new cell.
        on_replicate: told of every replicate that did not finish its cell.
        on_pair: told of every finished pair.
        before_s: seconds spent on this before (imports), for the share of timed time; they count for the first pair.
        positions: running number of the replicates of one command.
        until_s: when to begin no further replicate (``time.monotonic()``).

    Returns:
        The records as written.

    Raises:
        StudyError: settings, weights or machine are not what they should be, or the machine is busy.
        CodeChanged: the measuring code was edited meanwhile; nothing is written.
        TimeIsUp: it is past ``until_s``; finished replicates are kept.
    """
    known("study.models", [model], params.models)
    known("study.precisions", precisions, params.precisions)
    environment, checkout = require_declared(project, params.study.device), fingerprint.state(project.root)
    if fingerprint.measuring_sha256() != fingerprint.AT_IMPORT:
        raise edited(model, precisions[0])
    manifest = hub.manifest_of(project, params, model)
    positions = itertools.count() if positions is None else positions
    records = []
    for group in _groups(project, model, precisions):
        with ExitStack() as stack:
            sessions = [
                stack.enter_context(
                    Session(
                        project,
                        _blank(params, model, precision, manifest, environment, checkout),
                        batch_sizes or params.study.batch_sizes,
                        again,
                        before_s if precision == precisions[0] else 0.0,
                    )
                )
                for precision in group
            ]
            lacking = [session for session in sessions if not session.complete]
            if lacking:
                _measure(params, lacking, manifest, positions, until_s, on_cell, on_replicate)
            for session in sessions:
                records.append(session.finish())
                on_pair(records[-1])
    return records


def _measure(
    params: Params,
    sessions: Sequence[Session],
    manifest: Manifest,
    positions: Iterator[int],
    until_s: float | None,
    on_cell: OnCell,
    on_replicate: OnReplicate,
) -> None:
    settings = sessions[0].record.settings
    system_load.require_quiet(settings.protocol, settings.device)
    torch_flags.quiet(settings.device)
    bitsandbytes = any(
        isinstance(one.record.settings.precision, Int8Precision | Nf4Precision | MixedPrecision) for one in sessions
    )
    torch_flags.preload(settings.device, bitsandbytes)
    idle = _idle(settings.device, settings.protocol)
    if settings.device == "cuda":
        with suppress(worker.Failed, worker.Defect):  # it is tried again by each pair, which says why it failed
            reference_kernel.calibrate(settings.device, settings.protocol)
    sampler = Sampler.start() if settings.device == "cuda" else None
    try:
        ready = []
        for session in sessions:
            if until_s is not None and time.monotonic() >= until_s:
                raise TimeIsUp
            failed = session.prepare(params, manifest, idle)
            for cell in failed:
                on_cell(*session.name, cell)
            if not failed:
                ready.append(session)
        rounds.run(ready, settings.protocol.seed, positions, sampler, until_s, on_cell, on_replicate)
    finally:
        if sampler is not None:
            sampler.stop()


def _blank(
    params: Params, model: str, precision: str, manifest: Manifest, environment: Environment, checkout: Code
) -> Record:
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
        code=checkout,
        conversion=None,
        size=None,
        fidelity=None,
        operations=None,
        outlier_layers=None,
        cells=(),
        elapsed_s=0.0,
    )


def _groups(project: Project, model: str, precisions: Sequence[str]) -> list[list[str]]:
    """All together where FP32 weights for each fit into memory, else each alone."""
    facts = architectures.facts(project, model)
    needed = len(precisions) * facts.model_bytes["fp32"] if facts else 0
    if needed <= MEMORY_SHARE * memory.available_host_bytes():
        return [list(precisions)]
    return [[precision] for precision in precisions]


def _idle(device: str, protocol: Protocol) -> energy.Idle | None:
    """What the idle machine draws, where a window of energy is asked for and can be read."""
    counter = energy.find(device) if protocol.energy_s is not None else ""
    if isinstance(counter, str) or protocol.energy_s is None:
        return None
    return energy.idle(counter, protocol.energy_s)
