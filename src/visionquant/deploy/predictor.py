"""A quantised classifier that is ready to answer: loaded, converted, proved and warmed up, without HTTP.

What the guide's template leaves out is done here: weights come through the study's own loader (safetensors, every byte
checked; never ``torch.load``), the precision is proved on the converted model, and logits that are not finite are an
error. A backbone answers through the checkpoint's own head where it has one, else through the fidelity pass's fixed
seeded projection, and says which: with seeded weights the classes mean nothing.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from visionquant.accuracy import digits, training
from visionquant.bench import fidelity, inputs, kernels, loading, messages, outliers, torch_flags
from visionquant.bench.backends import convert
from visionquant.bench.preprocessing import Preprocessing
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.deploy import compute
from visionquant.settings.params import Params, known
from visionquant.settings.precision import FloatPrecision, Int8Precision
from visionquant.weights import architectures, hub

WARMUPS = 3  # passes at each batch size: the first ones allocate, and NF4 layers are repacked for some CPUs
Input = np.ndarray | torch.Tensor


@dataclass(frozen=True)
class Subject:
    """What is served, by name: a plain value that another process can build the network from."""

    project: Project
    params: Params
    name: str
    precision: str
    device: Literal["cpu", "cuda"]
    preprocessing: Preprocessing
    weights: Literal["pretrained", "seeded", "trained here"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one prepared image."""
        return self.preprocessing.shape


def model(project: Project, params: Params, name: str, precision: str, device: Literal["cpu", "cuda"]) -> Subject:
    """A row of ``models``, with the weights that the download stage found.

    Raises:
        StudyError: no such row, or nothing was downloaded, a file of it is missing or altered, or its
            preprocessing can't be followed.
    """
    known("models", [name], params.models)
    known("precisions", [precision], params.precisions)
    spec = params.models[name]
    manifest = hub.manifest_of(project, params, name)
    folder = hub.resolve(project, manifest) if manifest.weights == "pretrained" else None
    prepared = loading.preprocessing(project, name, spec, folder)
    prepared.check()
    return Subject(project, params, name, precision, device, prepared, manifest.weights)


def network(project: Project, params: Params, name: str, precision: str, device: Literal["cpu", "cuda"]) -> Subject:
    """A row of ``training.networks``, trained here: that of the first fold of ``training.run``.

    Raises:
        StudyError: no such row, or it was not trained yet.
    """
    known("training.networks", [name], params.training.networks)
    known("precisions", [precision], params.precisions)
    if not project.weights(name, params.training.run[0]).is_file():
        raise StudyError(f"network {name}", "not trained yet", f"run `visionquant train --network {name}`")
    prepared = digits.preprocessing(params.training.networks[name].image_size)
    prepared.check()  # else the first request would wait for it
    return Subject(project, params, name, precision, device, prepared, "trained here")


class QuantizedModelServer:
    """Answers with logits. Building one takes seconds; it is warm when it is built, and proved as it then is.

    ``labels`` are the checkpoint's own names of its classes, by number, where its own head answers.

    Args:
        subject: what to serve.
        batch_size: the largest batch that is warmed up for.

    Raises:
        StudyError: the weights do not load, the precision can't be put into effect, or the device can't be used.
    """

    def __init__(self, subject: Subject, batch_size: int = 1) -> None:
        self.subject = subject
        self.row = subject.params.precisions[subject.precision]
        self.dtype = convert.dtype_of(self.row, subject.device)
        self.tf32 = isinstance(self.row, FloatPrecision) and self.row.tf32
        torch_flags.require(subject.device)
        net, self.head, self.logits_from = _built(subject)
        self.labels = _labels(subject) if self.logits_from == fidelity.OWN_HEAD else {}
        with messages.heard() as said:
            self.net = convert.convert(net, self.row, subject.device, subject.shape)
            with kernels.watched(self.net) as counted:
                for size in sorted({1, batch_size}):
                    for _ in range(WARMUPS):
                        self.batch_predict(np.zeros((size, *subject.shape), np.float32))
        found = {"kernels": counted(), "messages": dict(said)}
        self.conversion = convert.prove(self.net, self.row, subject.device).model_copy(update=found)

    def predict(self, image: Input) -> torch.Tensor:
        """Logits (classes,) of one prepared image (channels, height, width); see :meth:`batch_predict`."""
        return self.batch_predict(torch.as_tensor(image)[None])[0]

    def batch_predict(self, images: Input) -> torch.Tensor:
        """Logits (n, classes), float32 on the CPU, of n prepared images (n, channels, height, width).

        Raises:
            StudyError: another shape, a value that is not finite, or such a logit.
        """
        logits = self.answer(images)
        if not torch.isfinite(logits).all():
            raise StudyError(f"precision {self.subject.precision}", "logits that are not finite", "serve another one")
        return logits

    def answer(self, images: Input) -> torch.Tensor:
        """As :meth:`batch_predict`; the logits of an image that overflowed inside the network are not finite."""
        batch = torch.as_tensor(images)
        if batch.ndim != 4 or tuple(batch.shape[1:]) != self.subject.shape or not len(batch):
            wanted = f"give (n, {', '.join(map(str, self.subject.shape))})"
            raise StudyError("predict", f"images of shape {tuple(batch.shape)}", wanted)
        if not torch.isfinite(batch).all():
            raise StudyError("predict", "an image holds NaN or infinity", "give finite pixels")
        with torch.inference_mode(), compute.switches(self.tf32, torch.backends.cudnn.benchmark):
            found = self.net(batch.to(self.subject.device, self.dtype))
            if self.head is None:
                logits: torch.Tensor = found.logits.float().cpu()
            else:
                logits = self.head(fidelity.answer_of(found))
        return logits


def _labels(subject: Subject) -> dict[int, str]:
    """The checkpoint's own names of its classes."""
    manifest = hub.manifest_of(subject.project, subject.params, subject.name)
    found: dict[str, Any] = json.loads((hub.resolve(subject.project, manifest) / hub.CONFIG).read_bytes())
    return architectures.labels(found)


def _built(subject: Subject) -> tuple[torch.nn.Module, fidelity.Head | None, str]:
    """The network in FP32 on the CPU, its head unless it has logits of its own, and where the logits come from."""
    project, params = subject.project, subject.params
    if subject.weights == "trained here":
        spec, fold = params.training.networks[subject.name], params.training.run[0]
        return training.restore(project, subject.name, spec, params.training, fold), None, "its own head, trained here"
    spec_, protocol = params.models[subject.name], params.protocol
    manifest = hub.manifest_of(project, params, subject.name)
    net = loading.load(project, subject.name, spec_, manifest, protocol.attention, protocol.seed)
    row = params.precisions[subject.precision]
    if isinstance(row, Int8Precision) and row.outliers:
        outliers.plant(net, row.outliers, inputs.batch(1, subject.preprocessing))
    return net, *fidelity.head_of(project, manifest, protocol.seed)
