"""A pair, model x precision, from manifest to record.

Weights are loaded and quantised once, in a process that keeps to one thread; every replicate is a fork of it, so a
fresh process costs milliseconds instead of the seconds that imports and weights take. Each finished cell is written
down at once: a run that is interrupted goes on with the cells it lacks, and the old record stays until the new one is
whole.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from visionquant import hub, zoo
from visionquant.bench import (
    backend,
    cell,
    code,
    convert,
    fidelity,
    isolate,
    load,
    memory,
    photographs,
    reference,
    size,
)
from visionquant.environment import require_declared
from visionquant.errors import CodeChanged, StudyError
from visionquant.manifest import Manifest
from visionquant.params import Nf4Precision, Params, known
from visionquant.paths import Project
from visionquant.records import Cell, Conversion, Fidelity, Record, Settings, Size, Weights, read, write

OnCell = Callable[[str, str, Cell], None]


@dataclass(frozen=True)
class _Facts:
    """What every cell of a pair shares; no fidelity where the pass over the images failed, as its cells will."""

    conversion: Conversion
    size: Size
    fidelity: Fidelity | None


def measure(
    project: Project,
    params: Params,
    model: str,
    precision: str,
    batch_sizes: Sequence[int] | None = None,
    again: bool = False,
    on_cell: OnCell = lambda model, precision, found: None,
    begun_s: float | None = None,
) -> Record:
    """Measure the cells that the pair lacks and write its record.

    Args:
        batch_sizes: those to measure; the study's by default. Cells of other sizes are kept.
        again: measure all of them, though they are there already.
        on_cell: told of every new cell.
        begun_s: when work on this pair began (``time.time()``), for the share of timed time; now by default.

    Returns:
        The record as written.

    Raises:
        StudyError: settings, weights or machine are not what they should be.
        CodeChanged: the measuring code was edited meanwhile; nothing is written.
        isolate.Defect: a replicate ended in a way that is no result.
    """
    begun_s = time.time() if begun_s is None else begun_s
    known("study.models", [model], params.models)
    known("study.precisions", [precision], params.precisions)
    environment = require_declared(project, params.study.device)
    manifest = Manifest.load(project.manifest(model), params.models[model].source)
    if code.measuring_sha256() != code.AT_IMPORT:
        raise _edited(model, precision)
    blank = Record(
        schema_version=1,
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
        code=code.state(project.root),
        conversion=None,
        size=None,
        fidelity=None,
        cells=(),
        elapsed_s=0.0,
    )
    asked = sorted(batch_sizes or params.study.batch_sizes)
    record = _resumed(project, blank, dropped=asked if again else [])
    if any(record.cell(batch_size) is None for batch_size in asked):
        record = _measure_missing(project, params, record, manifest, asked, on_cell, begun_s)
    if code.measuring_sha256() != blank.code.measuring_sha256:
        project.progress(model, precision).unlink(missing_ok=True)
        raise _edited(model, precision)
    if record != _existing(project, model, precision):
        write(project.record(model, precision), record)
    project.progress(model, precision).unlink(missing_ok=True)
    return record


def _edited(model: str, precision: str) -> CodeChanged:
    return CodeChanged(
        f"{model}-{precision}", "src/visionquant/bench was edited while it measured", "run the same command again"
    )


def _existing(project: Project, model: str, precision: str) -> Record | None:
    path = project.record(model, precision)
    return read(path) if path.is_file() else None


def _resumed(project: Project, blank: Record, dropped: Sequence[int]) -> Record:
    """``blank`` with all that an interrupted run or an earlier record of the same identity holds of it.

    Where nothing is kept, facts and elapsed time begin anew too.
    """
    for path in (project.progress(blank.model, blank.precision), project.record(blank.model, blank.precision)):
        if not path.is_file():
            continue
        try:
            found = read(path)
        except StudyError:
            if path == project.record(blank.model, blank.precision):
                raise
            continue  # half of a progress file is worth nothing: its cells are measured again
        if found.identity() == blank.identity() and found.conversion:
            kept = tuple(one for one in found.cells if one.batch_size not in dropped)
            return found.model_copy(update={"cells": kept}) if kept or not found.cells else blank
    return blank


def _measure_missing(
    project: Project,
    params: Params,
    record: Record,
    manifest: Manifest,
    asked: Sequence[int],
    on_cell: OnCell,
    begun_s: float,
) -> Record:
    settings, environment = record.settings, record.environment
    protocol, model = settings.protocol, record.model
    known_reference = reference.require(project, params, model, manifest, environment)
    backend.quiet(environment.device)
    backend.default_threads()
    torch.set_num_threads(1)
    try:
        _require_memory(project, model)
        net = load.load(project, model, settings.model, manifest, protocol.attention, protocol.seed)
        counts = (sum(one.numel() for one in net.parameters()), size.linear_layers(net), known_reference.macs)
        build = _builder(net, record)
    except isolate.Failed as failure:
        return _none_of(record, asked, failure, time.time() - begun_s, on_cell)
    except (RuntimeError, MemoryError, NotImplementedError) as error:
        cause = isolate.classify(error)
        if cause is None:
            raise
        return _none_of(record, asked, isolate.Failed(cause, str(error)), time.time() - begun_s, on_cell)
    folder = hub.resolve(project, manifest) if manifest.weights == "pretrained" else None
    prepared = load.preprocessing(project, model, folder)
    images = photographs.batch(len(photographs.crops()), prepared, settings.model.input_size)
    dtype = convert.dtype_of(settings.precision, environment.device)
    if record.conversion is None:
        head, _ = fidelity.head_of(project, manifest, protocol.seed)

        def look() -> _Facts:
            return _look(build(), settings, dtype, images, known_reference, head, counts)

        try:
            facts = isolate.in_fork(look)
        except isolate.Failed as failure:
            return _none_of(record, asked, failure, time.time() - begun_s, on_cell)
        record = record.model_copy(
            update={"conversion": facts.conversion, "size": facts.size, "fidelity": facts.fidelity}
        )
    assert record.size is not None
    if isinstance(settings.precision, Nf4Precision) and environment.device == "cpu" and record.fidelity is not None:
        _settle(build(), images[:1].to(dtype))
    before_s = record.elapsed_s
    subject = cell.Subject(
        build, settings.precision, protocol, environment.device, dtype, images, record.size.stored_weights
    )
    progress = project.progress(model, record.precision)
    write(progress, record)
    for batch_size in asked:
        if record.cell(batch_size) is not None:
            continue
        smaller = [found for found in record.cells if found.batch_size < batch_size]
        found = cell.measure(subject, batch_size, smaller)
        cells = sorted((*record.cells, found), key=lambda one: one.batch_size)
        record = record.model_copy(
            update={"cells": tuple(cells), "elapsed_s": round(before_s + time.time() - begun_s, 3)}
        )
        write(progress, record)
        on_cell(model, record.precision, found)
    return record


def _require_memory(project: Project, model: str) -> None:
    """Foresee that a model's FP32 weights don't fit into host memory, before they are loaded.

    Raises:
        isolate.Failed: they don't.
    """
    facts, available = zoo.facts(project, model), memory.available_host_bytes()
    needed = facts.model_bytes["fp32"] if facts else 0
    if needed > 0.9 * available:
        raise isolate.Failed(
            "out_of_memory", f"foreseen: weights of {needed / cell.GIB:.1f} GiB, {available / cell.GIB:.1f} GiB free"
        )


def _builder(net: nn.Module, record: Record) -> Callable[[], nn.Module]:
    """How a replicate gets the converted model: inherited from this process on a CPU, made in its own on a GPU."""
    precision, device = record.settings.precision, record.settings.device
    if device == "cuda":
        return lambda: convert.convert(net, precision, device)
    converted = convert.convert(net, precision, device)
    return lambda: converted


def _settle(net: nn.Module, image: torch.Tensor) -> None:
    """One pass here, on one thread, so that NF4 layers are repacked once and not by every replicate.

    On CPUs with BF16 instructions bitsandbytes repacks each such layer at its first pass, which takes a large model
    seconds. The facts of the pair were taken before, in a fork.
    """
    with torch.inference_mode():
        net(image)


def _look(
    net: nn.Module,
    settings: Settings,
    dtype: torch.dtype,
    images: torch.Tensor,
    known_reference: reference.Reference,
    head: fidelity.Head,
    counts: tuple[int, int, int | None],
) -> _Facts:
    backend.require(settings.device)
    backend.apply(settings.precision, settings.protocol)
    parameters, linear_layers, macs = counts
    conversion = convert.prove(net, settings.precision, settings.device)
    described = Size(
        parameters=parameters,
        linear_layers=linear_layers,
        macs=macs,
        stored_weights=size.stored_bytes(net),
        file_bytes=size.file_bytes(net),
    )
    if known_reference.outputs is None:
        return _Facts(conversion, described, None)
    count = len(known_reference.outputs.features)
    try:
        found = fidelity.outputs(net, images[:count].to(settings.device, dtype), head)
    except (RuntimeError, MemoryError, NotImplementedError) as error:
        if isolate.classify(error) is None:
            raise
        return _Facts(conversion, described, None)
    agreement = fidelity.compare(known_reference.outputs, found, known_reference.logits_from)
    return _Facts(conversion, described, agreement)


def _none_of(
    record: Record, asked: Sequence[int], failure: isolate.Failed, elapsed_s: float, on_cell: OnCell
) -> Record:
    """Every cell that is lacking with the same reason: the model could not even be put into its precision."""
    lacking = [size_ for size_ in asked if record.cell(size_) is None]
    cells = [Cell(batch_size=size_, status=failure.cause, reason=failure.reason) for size_ in lacking]
    for found in cells:
        on_cell(record.model, record.precision, found)
    every = sorted((*record.cells, *cells), key=lambda one: one.batch_size)
    return record.model_copy(update={"cells": tuple(every), "elapsed_s": round(record.elapsed_s + elapsed_s, 3)})
