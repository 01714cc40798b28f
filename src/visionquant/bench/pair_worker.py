"""A pair made ready in a process of its own: weights loaded and quantised once, facts taken, replicates forked from it.

The process keeps to one thread and never opens a GPU, so that every replicate is a fork that starts afresh within
milliseconds, and its memory is that of one pair whatever else is being measured.
"""

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from visionquant.bench import device as devices
from visionquant.bench import (
    energy,
    fidelity,
    inputs,
    loading,
    memory,
    messages,
    model_size,
    op_count,
    plan,
    reference,
    reference_kernel,
    replicate,
    torch_flags,
    worker,
)
from visionquant.bench.backends import convert
from visionquant.bench.cell_run import GIB, Host
from visionquant.bench.output_audit import ExpectedOutput, distance
from visionquant.core.paths import Project
from visionquant.records.record import Conversion, Fidelity, Settings, Size
from visionquant.weights import sources
from visionquant.weights.manifest import Manifest


@dataclass(frozen=True)
class PairFacts:
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


Request = Literal["facts", "host"] | tuple[int, int, int, float]


def preload(device: str, engines: Set[str]) -> None:
    """Import what every pair's process needs and takes seconds, once, before they are forked; after ``quiet``.

    ONNX Runtime, whose import starts a thread, is left to each process.
    """
    with messages.heard() as said:
        import transformers.modeling_utils
        import transformers.models.auto.modeling_auto  # noqa: F401

        for engine in sorted(engines):
            convert.backend_of(engine).preload(device)
    messages.AT_IMPORT.update(said)


def listening(device: str, serve: Callable[[], Callable[[Request], Any]]) -> Callable[[Request], Any]:
    """What ``serve`` (below) answers, the facts with what libraries said while it prepared; then they are silent."""
    torch_flags.quiet(device)
    with messages.heard() as said:
        answer = serve()

    def answered(request: Request) -> Any:
        result = answer(request)
        if request != "facts":
            return result
        proof: Conversion = result.conversion
        every = dict(messages.AT_IMPORT + said + Counter(proof.messages or {}))
        return replace(result, conversion=proof.model_copy(update={"messages": every}))

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
    """Prepare the pair in this process; the answer to "facts" is its :class:`PairFacts`, to "host" its :class:`Host`,
    and to (batch size, number, position, seconds it may take) a replicate's :class:`~visionquant.records.cell.Run`.
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
    counts = {"parameters": parameters, "linear_layers": model_size.linear_layers(net), "macs": known_reference.macs}
    build = backend.builder(net, precision, device.kind, prepared.shape)
    head, _ = fidelity.head_of(project, manifest, protocol.seed)
    examination = _Examination(backend, settings, images, known_reference, head)
    facts, known = worker.in_fork(lambda: examination.run(build, counts))
    dtype = convert.dtype_of(precision, device.kind)
    if device.forks_warm and facts.fidelity is not None:
        backend.settle(build, images[:1].to(dtype))
    pair = replicate.ReadyPair(lambda: build().net, precision, protocol, device, dtype, images, known, idle, profiled)
    readings = reference_kernel.calibrate(device.kind, protocol)
    facts = replace(
        facts,
        calibration_ms=tuple(kernel for kernel, _ in readings),
        host_calibration_ms=tuple(host for _, host in readings if host is not None),
    )

    def answer(request: Request) -> Any:
        if request == "facts":
            return facts
        if request == "host":
            return Host.now()
        assert not isinstance(request, str)
        batch_size, number, position, limit_s = request
        return worker.in_fork(lambda: replicate.run(pair, batch_size, number, position), limit_s)

    return answer


def _require_memory(project: Project, manifest: Manifest) -> None:
    """Foresee that a model's FP32 weights don't fit into host memory, before they are loaded."""
    needed, available = plan.fp32_bytes(project, manifest), memory.available_host_bytes()
    if needed > 0.9 * available:
        foreseen = f"foreseen: weights of {needed / GIB:.1f} GiB, {available / GIB:.1f} GiB free"
        raise worker.Failed("out_of_memory", foreseen)


@dataclass(frozen=True)
class _Examination:
    """What a fork of the pair's process finds out of the converted network, once, before it is timed."""

    backend: convert.Backend
    settings: Settings
    images: torch.Tensor
    known_reference: reference.Reference
    head: fidelity.Head

    def run(self, build: Callable[[], convert.Converted], counts: dict[str, Any]) -> tuple[PairFacts, ExpectedOutput]:
        """``counts`` are those of the network before its conversion, by the names of :class:`Size`."""
        precision, device = self.settings.precision, devices.of(self.settings.device)
        with messages.heard() as said:
            device.require()
            torch_flags.apply(precision, self.settings.protocol)
            net, proof = build()
            proof = proof or self.backend.prove(net, precision, device.kind)
            stored, file = self.backend.stored_bytes(net), self.backend.file_bytes(net)
            size = Size(**counts, stored_weights=stored, file_bytes=file)
            facts, known = self._compared(net, PairFacts(proof, size, None, None, None, self.known_reference.reason))
        conversion = facts.conversion.model_copy(update={"messages": dict(said)})
        return replace(facts, conversion=conversion), known

    def _compared(self, net: nn.Module, facts: PairFacts) -> tuple[PairFacts, ExpectedOutput]:
        """With what the outputs tell, where there is a reference and the pass succeeds."""
        dtype = convert.dtype_of(self.settings.precision, self.settings.device)
        expected, device = self.known_reference.outputs, self.settings.device
        unknown = ExpectedOutput(None, None, None, dtype == torch.float32)
        if expected is None:
            return facts, unknown
        try:
            with self.backend.watch(net) as kernels:
                batch = self.images[: len(expected.features)].to(device, dtype)
                outputs = fidelity.outputs(net, batch, self.head, blocks=True)
            with op_count.OperationCounter() as counter, torch.inference_mode():
                alone = fidelity.features_of(net(self.images[:1].to(device, dtype)))
        except (RuntimeError, MemoryError, NotImplementedError) as error:
            if worker.classify(error) is None:
                raise
            return replace(facts, fidelity_reason=worker.first_line(error)), unknown
        pairs = zip(outputs.features, expected.features, strict=True)
        known = replace(
            unknown,
            features=outputs.features,
            alone=alone.float().cpu().numpy(),
            worst=max(distance(features, exact) for features, exact in pairs),
        )
        facts = replace(
            facts,
            conversion=facts.conversion.model_copy(update={"kernels": kernels()}),
            fidelity=fidelity.compare(expected, outputs, self.known_reference.logits_from),
            outlier_layers=self.backend.outlier_layers(net),
            operations=self.backend.operations(net, self.images[:1], counter.count),
        )
        return facts, known
