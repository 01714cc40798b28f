"""A pair made ready in a process of its own: weights loaded and quantised once, facts taken, replicates forked from it.

The process keeps to one thread and never opens a GPU, so that every replicate is a fork that starts afresh within
milliseconds, and its memory is that of one pair whatever else is being measured.
"""

from collections import Counter
from collections.abc import Callable, Sequence, Set
from typing import Any, Literal, NamedTuple

import torch

from visionquant.bench import device as devices
from visionquant.bench import (
    fidelity,
    host,
    inputs,
    loading,
    op_count,
    reference,
    reference_kernel,
    replicate,
    telemetry,
    torch_flags,
    worker,
)
from visionquant.bench.backends import convert
from visionquant.bench.cell_run import GIB
from visionquant.bench.command import fp32_bytes
from visionquant.bench.replicate import ExpectedOutput, distance
from visionquant.core.paths import Project
from visionquant.records.record import Settings, Size
from visionquant.weights import sources
from visionquant.weights.sources import Manifest

Request = Literal["facts", "host"] | tuple[int, int, int, float]


class PairFacts(NamedTuple):
    """What every cell of a pair shares: fields of its record by name, and the noise of the reference kernel."""

    of_record: dict[str, Any]
    calibration: tuple[reference_kernel.Reading, ...]


def preload(device: str, engines: Set[str]) -> None:
    """Import what every pair's process needs and takes seconds, once, before they are forked; after ``quiet``.

    ONNX Runtime, whose import starts a thread, is left to each process.
    """
    with torch_flags.heard() as said:
        import transformers.modeling_utils
        import transformers.models.auto.modeling_auto  # noqa: F401

        for engine in sorted(engines):
            convert.backend_of(engine).preload(device)
    torch_flags.AT_IMPORT.update(said)


def listening(device: str, asked: Sequence[Any]) -> Callable[[Request], Any]:
    """What ``serve(*asked)`` answers, the facts with what libraries said while it prepared; then they are silent."""
    torch_flags.quiet(device)
    with torch_flags.heard() as said:
        answer = serve(*asked)
        conversion = answer("facts").of_record["conversion"]
    every = dict(torch_flags.AT_IMPORT + said + Counter(conversion.messages))
    answer("facts").of_record["conversion"] = conversion.model_copy(update={"messages": every})
    return answer


def serve(
    project: Project,
    model: str,
    settings: Settings,
    manifest: Manifest,
    known_reference: reference.Reference,
    idle: telemetry.Idle | None,
    profiled: Set[int],
) -> Callable[[Request], Any]:
    """Prepare the pair in this process; the answer to "facts" is its :class:`PairFacts`, to "host" its memory, and to
    (batch size, number, position, seconds it may take) a replicate's :class:`~visionquant.records.cell.Run`.
    ``profiled`` are the batch sizes at which a GPU's pass is profiled.

    Raises:
        worker.Failed: the model does not fit into memory, or can't be put into its precision here.
    """
    torch_flags.default_threads()
    torch.set_num_threads(1)
    _require_memory(project, manifest)
    protocol, precision, device = settings.protocol, settings.precision, devices.of(settings.device)
    backend = convert.backend_of(precision.engine)
    if why := backend.unsupported(device.kind):
        raise worker.Failed("unsupported", why)
    net = loading.load(project, model, settings.model, manifest, protocol.attention, protocol.seed)
    folder = sources.resolve(project, manifest) if manifest.weights == "pretrained" else None
    prepared = loading.preprocessing(project, model, settings.model, folder)
    images = inputs.batch(len(inputs.crops()), prepared)
    backend.plant_outliers(net, precision, images[:1])
    parameters = sum(parameter.numel() for parameter in net.parameters())
    counts = {"parameters": parameters, "linear_layers": op_count.linear_layers(net), "macs": known_reference.macs}
    build = backend.builder(net, precision, device.kind, prepared.shape)
    head, _ = fidelity.head_of(project, manifest, protocol.seed)
    found, expected = worker.in_fork(lambda: _examined(build, settings, images, known_reference, head, counts))
    dtype = convert.dtype_of(precision, device.kind)
    if device.forks_warm and found["fidelity"] is not None:
        backend.settle(build, images[:1].to(dtype))
    pair = replicate.ReadyPair(
        lambda: build().net, precision, protocol, device, dtype, images, expected, idle, profiled
    )
    facts = PairFacts(found, reference_kernel.calibrate(device.kind, protocol))

    def answer(request: Request) -> Any:
        if request == "facts":
            return facts
        if request == "host":
            return host.HostMemory(host.available_bytes(), host.resident_bytes())
        assert not isinstance(request, str)
        batch_size, number, position, limit_s = request
        return worker.in_fork(lambda: replicate.run(pair, batch_size, number, position), limit_s)

    return answer


def _require_memory(project: Project, manifest: Manifest) -> None:
    """Foresee that a model's FP32 weights don't fit into host memory, before they are loaded."""
    needed, available = fp32_bytes(project, manifest), host.available_bytes()
    if needed > 0.9 * available:
        foreseen = f"foreseen: weights of {needed / GIB:.1f} GiB, {available / GIB:.1f} GiB free"
        raise worker.Failed("out_of_memory", foreseen)


def _examined(
    build: Callable[[], convert.Converted],
    settings: Settings,
    images: torch.Tensor,
    known_reference: reference.Reference,
    head: fidelity.Head,
    counts: dict[str, Any],
) -> tuple[dict[str, Any], ExpectedOutput]:
    """What a fork finds out of the converted network, once, before it is timed: fields of the record, and its outputs.

    There is no fidelity without a reference, or where the pass over the images failed, as its cells will. ``counts``
    are those of the network before its conversion, by the names of :class:`Size`.
    """
    precision, device, reference_outputs = settings.precision, devices.of(settings.device), known_reference.outputs
    backend, dtype = convert.backend_of(precision.engine), convert.dtype_of(precision, device.kind)
    expected = ExpectedOutput(None, None, None, dtype == torch.float32)
    found: dict[str, Any] = dict.fromkeys(("fidelity", "outlier_layers", "operations"))
    found["fidelity_reason"] = known_reference.reason
    ran: dict[str, int] | None = None
    with torch_flags.heard() as said:
        device.require()
        torch_flags.apply(precision, settings.protocol)
        net, proof = build()
        proof = proof or backend.prove(net, precision, device.kind)
        stored, file = backend.bytes_of(net)
        found["size"] = Size(**counts, stored_weights=stored, file_bytes=file)
        if reference_outputs is not None:
            exact = reference_outputs.features
            try:
                with backend.watch(net) as kernels:
                    outputs = fidelity.outputs(net, images[: len(exact)].to(device.kind, dtype), head, blocks=True)
                with op_count.OperationCounter() as counter, torch.inference_mode():
                    alone = fidelity.features_of(net(images[:1].to(device.kind, dtype)))
            except (RuntimeError, MemoryError, NotImplementedError) as error:
                if worker.classify(error) is None:
                    raise
                found["fidelity_reason"] = worker.first_line(error)
            else:
                worst = max(map(distance, outputs.features, exact))
                alone_on_cpu = alone.float().cpu().numpy()
                expected = ExpectedOutput(outputs.features, alone_on_cpu, worst, expected.in_float32)
                found["fidelity"] = fidelity.compare(reference_outputs, outputs, known_reference.logits_from)
                found["outlier_layers"] = backend.outlier_layers(net)
                found["operations"] = backend.operations(net, images[:1], counter.count)
                ran = kernels()
    found["conversion"] = proof.model_copy(update={"kernels": ran, "messages": dict(said)})
    return found, expected
