"""A pair made ready in a process of its own: weights loaded and quantised once, facts taken, replicates forked from it.

The process keeps to one thread and never opens a GPU, so that every replicate is a fork that starts afresh within
milliseconds, and its memory is that of one pair whatever else is being measured.
"""

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from visionquant.bench import (
    energy,
    fidelity,
    inputs,
    kernels,
    loading,
    memory,
    messages,
    outliers,
    output_audit,
    reference,
    reference_kernel,
    replicate,
    torch_flags,
    worker,
)
from visionquant.bench import model_size as size
from visionquant.bench import op_count as operations
from visionquant.bench.backends import convert, onnx_graph, ort
from visionquant.bench.cell_run import GIB, Host
from visionquant.core.paths import Project
from visionquant.records.record import Conversion, Fidelity, Settings, Size
from visionquant.settings.precision import Int8Precision, OnnxRuntimePrecision
from visionquant.weights import architectures, hub
from visionquant.weights.manifest import Manifest


@dataclass(frozen=True)
class Facts:
    """What every cell of a pair shares.

    No fidelity where there is no reference, or the pass over the images failed, as its cells will: ``fidelity_reason``.
    """

    conversion: Conversion
    size: Size
    fidelity: Fidelity | None
    operations: int | None
    outlier_layers: int | None
    fidelity_reason: str = ""
    calibration_ms: tuple[float, ...] = ()
    host_calibration_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Seen:
    facts: Facts
    features: np.ndarray | None
    alone: np.ndarray | None
    worst: float | None


Request = Literal["facts", "host"] | tuple[int, int, int]


def listening(device: str, serve: Callable[[], Callable[[Request], Any]]) -> Callable[[Request], Any]:
    """What ``serve`` (below) answers, the facts with what libraries said while it prepared; then they are silent."""
    torch_flags.quiet(device)
    with messages.heard() as said:
        answer = serve()

    def answered(request: Request) -> Any:
        found = answer(request)
        if request != "facts":
            return found
        proof: Conversion = found.conversion
        every = dict(messages.AT_IMPORT + said + Counter(proof.messages or {}))
        return replace(found, conversion=proof.model_copy(update={"messages": every}))

    return answered


def serve(
    project: Project,
    model: str,
    settings: Settings,
    manifest: Manifest,
    known_reference: reference.Reference,
    idle: energy.Idle | None,
    profiled: Set[int],
) -> Callable[[Request], Any]:
    """Prepare the pair in this process; the answer to "facts" is its :class:`Facts`, to "host" its :class:`Host`, and
    to (batch size, number, position) a replicate's :class:`~visionquant.records.cell.Run`. ``profiled`` are the batch
    sizes at which a GPU's pass is profiled.

    Raises:
        isolate.Failed: the model does not fit into memory, or can't be put into its precision here.
    """
    torch_flags.default_threads()
    torch.set_num_threads(1)
    _require_memory(project, model)
    protocol, precision, device = settings.protocol, settings.precision, settings.device
    net = loading.load(project, model, settings.model, manifest, protocol.attention, protocol.seed)
    folder = hub.resolve(project, manifest) if manifest.weights == "pretrained" else None
    prepared = loading.preprocessing(project, model, settings.model, folder)
    images = inputs.batch(len(inputs.crops()), prepared)
    if isinstance(precision, Int8Precision) and precision.outliers:
        outliers.plant(net, precision.outliers, images[:1])
    counts = (sum(one.numel() for one in net.parameters()), size.linear_layers(net), known_reference.macs)
    dtype = convert.dtype_of(precision, device)
    build = _builder(net, settings, images)
    head, _ = fidelity.head_of(project, manifest, protocol.seed)
    seen = worker.in_fork(lambda: _look(build, settings, dtype, images, known_reference, head, counts))
    if device == "cpu" and seen.facts.fidelity is not None and _has_nf4(net):
        _settle(build(), images[:1].to(dtype))
    known = output_audit.Known(seen.features, seen.alone, seen.worst, dtype == torch.float32)
    subject = replicate.Subject(
        build, precision, protocol, device, dtype, images, seen.facts.size.stored_weights, known, idle, profiled
    )
    readings = reference_kernel.calibrate(device, protocol)
    facts = replace(
        seen.facts,
        calibration_ms=tuple(kernel for kernel, _ in readings),
        host_calibration_ms=tuple(host for _, host in readings if host is not None),
    )

    def answer(request: Request) -> Any:
        if request == "facts":
            return facts
        if request == "host":
            return Host.now()
        assert not isinstance(request, str)
        return worker.in_fork(lambda: replicate.run(subject, *request))

    return answer


def _require_memory(project: Project, model: str) -> None:
    """Foresee that a model's FP32 weights don't fit into host memory, before they are loaded.

    Raises:
        isolate.Failed: they don't.
    """
    facts, available = architectures.facts(project, model), memory.available_host_bytes()
    needed = facts.model_bytes["fp32"] if facts else 0
    if needed > 0.9 * available:
        raise worker.Failed(
            "out_of_memory", f"foreseen: weights of {needed / GIB:.1f} GiB, {available / GIB:.1f} GiB free"
        )


def _builder(net: nn.Module, settings: Settings, images: torch.Tensor) -> Callable[[], nn.Module]:
    """How a replicate gets the converted model: inherited from this process on a CPU, made in its own on a GPU.

    For a GPU it is cast here once, so that a replicate only quantises and moves it. A graph is inherited and its
    session, which has threads, made in the replicate; the weights of ``net`` are let go.

    Raises:
        isolate.Failed: ONNX Runtime is not here, or not for this device.
    """
    precision, device = settings.precision, settings.device
    if isinstance(precision, OnnxRuntimePrecision):
        why = onnx_graph.unsupported(device)
        if why:
            raise worker.Failed("unsupported", why)
        graph = onnx_graph.export(net, precision, images[:2])
        net.to("meta")
        return lambda: ort.Network(graph, ort.options_of(precision))
    if device == "cuda":
        convert.cast(net, precision, device)
        return lambda: convert.convert(net, precision, device)
    converted = convert.convert(net, precision, device)
    return lambda: converted


def _has_nf4(net: nn.Module) -> bool:
    return any(type(module).__name__ == "Linear4bit" for module in net.modules())


def _settle(net: nn.Module, image: torch.Tensor) -> None:
    """One pass here, on one thread, so that NF4 layers are repacked once and not by every replicate.

    On CPUs with BF16 instructions bitsandbytes repacks each such layer at its first pass, which takes a large model
    seconds. The facts of the pair were taken before, in a fork.
    """
    with torch.inference_mode():
        net(image)


def _look(*given: Any) -> _Seen:
    with messages.heard() as said:
        seen = _seen(*given)
    conversion = seen.facts.conversion.model_copy(update={"messages": dict(said)})
    return replace(seen, facts=replace(seen.facts, conversion=conversion))


def _seen(
    build: Callable[[], nn.Module],
    settings: Settings,
    dtype: torch.dtype,
    images: torch.Tensor,
    known_reference: reference.Reference,
    head: fidelity.Head,
    counts: tuple[int, int, int | None],
) -> _Seen:
    torch_flags.require(settings.device)
    torch_flags.apply(settings.precision, settings.protocol)
    net = build()
    parameters, linear_layers, macs = counts
    conversion = convert.prove(net, settings.precision, settings.device)
    described = Size(
        parameters=parameters,
        linear_layers=linear_layers,
        macs=macs,
        stored_weights=size.stored_bytes(net),
        file_bytes=size.file_bytes(net),
    )
    facts = Facts(conversion, described, None, None, None, known_reference.reason)
    if known_reference.outputs is None:
        return _Seen(facts, None, None, None)
    count = len(known_reference.outputs.features)
    try:
        with kernels.Watch(net) as watch:
            found = fidelity.outputs(net, images[:count].to(settings.device, dtype), head, blocks=True)
        with operations.Counter() as counter, torch.inference_mode():
            alone = fidelity.features_of(net(images[:1].to(settings.device, dtype)))
    except (RuntimeError, MemoryError, NotImplementedError) as error:
        if worker.classify(error) is None:
            raise
        return _Seen(replace(facts, fidelity_reason=worker.first_line(error)), None, None, None)
    conversion = conversion.model_copy(update={"kernels": watch.counted()})
    agreement = fidelity.compare(known_reference.outputs, found, known_reference.logits_from)
    issued = net.kernels(images[:1]).total() if isinstance(net, ort.Network) else counter.count
    met = outliers.layers_meeting(net)
    pairs = zip(found.features, known_reference.outputs.features, strict=True)
    worst = max(output_audit.distance(mine, theirs) for mine, theirs in pairs)
    single = alone.float().cpu().numpy()
    return _Seen(Facts(conversion, described, agreement, issued, met), found.features, single, worst)
