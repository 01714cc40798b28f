"""A model made ready for its rounds, once: loaded, converted into a precision, proved, and compared with FP32.

Each step has a process of its own, so that one that dies takes no other with it. Converted weights are kept in a folder
for the processes of every round; what can't be kept (a graph's session, a network on a GPU), or is soon converted
(another floating-point type), each process converts from the FP32 weights again: so the files of a study stay in the
page cache. A command that leaves nothing to do removes the folder; one that goes on uses it again.
"""

import pickle
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from visionquant.bench import audit, fidelity, host, inputs, loading, op_count, torch_flags, worker
from visionquant.bench import device as devices
from visionquant.bench.audit import ExpectedOutput
from visionquant.bench.backends import convert
from visionquant.bench.inputs import Preprocessing
from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.cell import BASELINE
from visionquant.records.record import Settings, Size
from visionquant.settings.params import Protocol
from visionquant.settings.precision import FP32, FloatPrecision, PrecisionRow
from visionquant.weights import architectures, sources
from visionquant.weights.sources import Manifest

FACTS = "facts.pickle"  # of this project's own, below the folder that git ignores
REPEATS = 0.999999  # cosine of two FP32 passes over the same image, at least
GIB = 2**30


@dataclass(frozen=True)
class Reference:
    """FP32 outputs on the fidelity images of one model; ``macs`` are multiply-accumulates of one image.

    Where FP32 could not be computed here, ``outputs`` is None and ``reason`` says why: pairs are timed all the same.
    ``fault`` is what is wrong with the outputs in any precision, or empty: FP32 must repeat itself, and a network whose
    two passes over the same images differ (ViT-MAE masks at random) gives nothing to compare with.
    """

    outputs: fidelity.Outputs | None
    logits_from: str
    macs: int | None
    reason: str = ""
    fault: str = ""


class PairFacts(NamedTuple):
    """Fields of a pair's record by name, and what its timed outputs are held against."""

    of_record: dict[str, Any]
    expected: ExpectedOutput


@dataclass(frozen=True)
class BenchModel:
    """One model as a command measures it; ``folder`` takes what is kept of it."""

    project: Project
    model: str
    settings: Settings
    manifest: Manifest
    folder: Path

    @property
    def device(self) -> devices.Device:
        return devices.of(self.settings.device)

    @property
    def protocol(self) -> Protocol:
        assert isinstance(self.settings.protocol, Protocol)  # of a pair that is measured
        return self.settings.protocol

    def preprocessing(self) -> Preprocessing:
        folder = sources.resolve(self.project, self.manifest) if self.manifest.has_files else None
        return loading.preprocessing(self.project, self.model, self.settings.model, folder)

    def images(self) -> torch.Tensor:
        """The crops as this network is fed them, prepared once: float32, (crops, channels, height, width)."""
        path = self.folder / "images.tensor"
        if not path.is_file():
            torch.save(inputs.batch(len(inputs.crops()), self.preprocessing()), path)
        made: torch.Tensor = torch.load(path, mmap=True)
        return made

    def kept(self, precision: str) -> Path:
        """The file of the network in a precision, by the name of its row."""
        return self.folder / f"{precision}.pt"


class Kept(NamedTuple):
    """What is known of a model whose weights are in its folder: by precision for which settings, and its facts."""

    reference: Reference
    facts: dict[str, tuple[str, PairFacts]]


def remember(source: BenchModel, kept: Kept) -> None:
    """Write beside the weights what is known of them, for a command that goes on."""
    files.save(source.folder / FACTS, pickle.dumps(kept))


def recall(source: BenchModel) -> Kept | None:
    """What an earlier command of this machine left, None where it left nothing whole."""
    if not source.kept(BASELINE).is_file():
        return None
    try:
        return pickle.loads(files.content(source.folder / FACTS))  # noqa: S301
    except (StudyError, pickle.UnpicklingError, AttributeError, ImportError, EOFError, TypeError):
        return None


def preload(device: str, engines: Set[str]) -> None:
    """Import what every process needs and takes seconds, once, before they are forked; after ``torch_flags.quiet``.

    ONNX Runtime, whose import starts a thread, is left to each process.
    """
    with torch_flags.heard() as said:
        import transformers.modeling_utils
        import transformers.models.auto.modeling_auto  # noqa: F401

        for engine in sorted(engines):
            convert.backend_of(engine).preload(device)
    torch_flags.AT_IMPORT.update(said)


def load(source: BenchModel) -> Reference:
    """Load the model, keep its FP32 weights, and compute the reference; in a process of its own.

    Raises:
        worker.Failed: it does not fit into memory, or its package could not be had.
        StudyError: weights are missing or altered.
        worker.Defect: it failed as nobody foresaw.
    """
    if source.manifest.weights == "missing":
        raise worker.Failed("unsupported", source.manifest.reason)
    needed, available = fp32_bytes(source.project, source.manifest), host.available_bytes()
    if needed > 0.9 * available:
        foreseen = f"foreseen: weights of {needed / GIB:.1f} GiB, {available / GIB:.1f} GiB free"
        raise worker.Failed("out_of_memory", foreseen)
    source.folder.mkdir(parents=True, exist_ok=True)
    worker.in_fork(lambda: _load(source))
    facts = architectures.facts(source.project, source.model)
    without = Reference(None, "", facts.macs if facts else None)
    try:
        return worker.in_fork(lambda: _reference(source, without))
    except worker.Failed as error:
        return replace(without, reason=f"FP32: {error.reason}")


def _load(source: BenchModel) -> None:
    protocol = source.protocol
    torch_flags.apply(FP32, protocol)
    net = loading.load(
        source.project, source.model, source.settings.model, source.manifest, protocol.attention, protocol.seed
    )
    torch.save(net, source.kept(BASELINE))


def _reference(source: BenchModel, without: Reference) -> Reference:
    source.device.require()
    protocol, kind = source.protocol, source.device.kind
    torch_flags.apply(FP32, protocol)
    net, images = _read(source.kept(BASELINE)), source.images()
    head, logits_from = fidelity.head_of(source.project, source.manifest, protocol.seed)
    try:
        macs = op_count.macs(net, shape_of(images)) if without.macs is None else without.macs
        count = fidelity.image_count(macs, protocol.fidelity_images, protocol.fidelity_gmacs)
        converted, batch = convert.convert(net, FP32, kind), images[:count].to(kind)
        first, second = (fidelity.outputs(converted, batch, head, blocks=blocks) for blocks in (True, False))
    except Exception as error:
        why = "" if isinstance(error, StudyError) or worker.classify(error) else _misfit(net, source)
        defect = worker.Defect.of(error)
        raise worker.Defect(f"{why}{defect.line}", str(defect)) if why else error from None
    made = replace(without, logits_from=logits_from, macs=macs)
    if not (np.isfinite(first.features).all() and np.isfinite(first.logits).all()):
        return replace(made, reason="FP32 outputs are not finite")
    if (cosine := fidelity.lowest_cosine(first.features, second.features)) >= REPEATS:
        return replace(made, outputs=first)
    why = f"FP32 does not repeat itself: two passes over the same image agree to a cosine of {cosine:.6f}"
    return replace(made, reason=why, fault=why)


def _misfit(net: nn.Module, source: BenchModel) -> str:
    """What to say before the error of a network that was fed another size than its config names; else nothing."""
    config = net.config.to_dict()  # type: ignore[union-attr, operator]
    if not config.get("image_size"):
        return ""
    shapes = architectures.shape(config), source.settings.model.shape(3)
    made, fed = (" x ".join(map(str, shape[1:])) for shape in shapes)
    return f"made for {made} pixels, fed {fed} (input_size of its row): " if made != fed else ""


def convert_pair(source: BenchModel, precision: str, row: PrecisionRow, reference: Reference) -> PairFacts:
    """Convert the model into a precision, keep it where it can be kept, and take its facts; in a process of its own.

    Raises:
        worker.Failed: it does not fit into memory, or can't be put into its precision here.
        StudyError, worker.Defect: as of :func:`load`.
    """
    if why := convert.backend_of(row.engine).unsupported(source.device.kind):
        raise worker.Failed("unsupported", why)
    return worker.in_fork(lambda: _convert_pair(source, precision, row, reference))


def _convert_pair(source: BenchModel, precision: str, row: PrecisionRow, reference: Reference) -> PairFacts:
    device, protocol = source.device, source.protocol
    backend, dtype = convert.backend_of(row.engine), convert.dtype_of(row, device.kind)
    exact = reference.outputs
    expected = ExpectedOutput(None, None, None, dtype == torch.float32)
    found: dict[str, Any] = dict.fromkeys(("fidelity", "outlier_layers", "operations"))
    found["fidelity_reason"] = reference.reason
    ran: dict[str, int] | None = None
    with torch_flags.heard() as said:
        device.require()
        torch_flags.apply(row, protocol)
        images = source.images()
        base = _read(source.kept(BASELINE))
        backend.plant_outliers(base, row, images[:1])
        parameters = sum(parameter.numel() for parameter in base.parameters())
        counts: dict[str, Any] = {
            "parameters": parameters,
            "linear_layers": op_count.linear_layers(base),
            "macs": reference.macs,
        }
        net, proof = backend.proved(base, row, device.kind, shape_of(images))
        proof = proof or backend.prove(net, row, device.kind)
        stored, file = backend.bytes_of(net)
        found["size"] = Size(**counts, stored_weights=stored, file_bytes=file)
        if exact is not None:
            head, _ = fidelity.head_of(source.project, source.manifest, protocol.seed)
            try:
                with backend.watch(net) as kernels:
                    outputs = fidelity.outputs(net, images[: len(exact.features)].to(device.kind, dtype), head, True)
                with op_count.OperationCounter() as counter, torch.inference_mode():
                    alone = fidelity.features_of(net(images[:1].to(device.kind, dtype)))
            except (RuntimeError, MemoryError, NotImplementedError) as error:
                if worker.classify(error) is None:
                    raise
                found["fidelity_reason"] = worker.first_line(error)
            else:
                worst = max(map(audit.distance, outputs.features, exact.features))
                expected = ExpectedOutput(outputs.features, alone.float().cpu().numpy(), worst, expected.in_float32)
                found["fidelity"] = fidelity.compare(exact, outputs, reference.logits_from)
                found["outlier_layers"] = backend.outlier_layers(net)
                found["operations"] = backend.operations(net, images[:1], counter.count)
                ran = kernels()
                if device.a_process_an_arm and not isinstance(row, FloatPrecision):
                    backend.settle(net, images[:1].to(dtype))
                    _keep(net, source.kept(precision))
    every = dict(torch_flags.AT_IMPORT + said)
    found["conversion"] = proof.model_copy(update={"kernels": ran, "messages": every})
    return PairFacts(found, expected)


def network_of(source: BenchModel, precision: str, row: PrecisionRow, image: torch.Tensor) -> nn.Module:
    """The network in a precision on the device: as it was kept, else converted from the FP32 weights again."""
    if row != FP32 and source.kept(precision).is_file():
        return _read(source.kept(precision))
    # What is converted leaves nothing of the file in memory, so it is not copied there first; FP32 runs from a copy.
    net, backend = _read(source.kept(BASELINE), mapped=row != FP32), convert.backend_of(row.engine)
    backend.plant_outliers(net, row, image)
    return backend.proved(net, row, source.device.kind, shape_of(image)).net


def shape_of(images: torch.Tensor) -> inputs.Shape:
    """Channels, height and width of a batch."""
    _, channels, height, width = images.shape
    return channels, height, width


def _keep(net: nn.Module, path: Path) -> None:
    """Write the network; one that can't be written, or for which there is no space, is not kept."""
    partial = path.with_suffix(".partial")
    try:
        torch.save(net, partial)
        partial.replace(path)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError, OSError):
        partial.unlink(missing_ok=True)


def _read(path: Path, mapped: bool = False) -> nn.Module:
    net: nn.Module = torch.load(path, weights_only=False, mmap=mapped)  # of this machine's own folder
    return net.eval()


def fp32_bytes(project: Project, manifest: Manifest) -> int:
    """Bytes of a model's FP32 weights: by its committed counts, else those of its files; 0 where neither is known."""
    facts = architectures.facts(project, manifest.model)
    return facts.model_bytes["fp32"] if facts else sum(file.bytes for file in manifest.files)
