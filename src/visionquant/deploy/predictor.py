"""A quantised classifier that is ready to answer: loaded, converted, proved and warmed up, without HTTP.

A backbone answers through the checkpoint's own head where it has one, else through the fidelity pass's fixed seeded
projection, and says which: with seeded weights the classes mean nothing.
"""

import numpy as np
import torch

from visionquant.accuracy.model_source import ModelSource
from visionquant.bench import device as devices
from visionquant.bench import fidelity, inputs, torch_flags
from visionquant.bench.backends import convert
from visionquant.core.errors import StudyError
from visionquant.deploy import compute
from visionquant.settings.params import known

WARMUPS = 3  # passes at each batch size: the first ones allocate, and NF4 layers are repacked for some CPUs
Input = np.ndarray | torch.Tensor


class Predictor:
    """Answers with logits. Building one takes seconds; it is warm when it is built, and proved as it then is.

    ``labels`` are the checkpoint's own names of its classes, by number, where its own head answers.

    Args:
        source: the model, from :func:`visionquant.accuracy.model_source.open_model` or ``open_network``.
        precision: a row of ``precisions``.
        batch_size: the largest batch that is warmed up for.

    Raises:
        StudyError: the weights do not load, the precision can't be put into effect, or the device can't be used.
    """

    def __init__(self, source: ModelSource, precision: str, device: str = "cpu", batch_size: int = 1) -> None:
        known("precisions", [precision], source.params.precisions)
        self.source, self.precision, self.device = source, precision, device
        row = source.params.precisions[precision]
        self.dtype = convert.dtype_of(row, device)
        self.tf32 = row.uses_tf32
        devices.of(device).require()
        net = source.build()
        backend = convert.backend_of(row.engine)
        backend.plant_outliers(net, row, inputs.batch(1, source.preprocessing))
        self.head, self.logits_from = source.head()
        self.labels = source.labels() if self.logits_from == fidelity.OWN_HEAD else {}
        with torch_flags.heard() as heard:
            self.net = convert.convert(net, row, device, source.shape)
            with backend.watch(self.net) as counted:
                for size in sorted({1, batch_size}):
                    for _ in range(WARMUPS):
                        self.batch_predict(np.zeros((size, *source.shape), np.float32))
        observed = {"kernels": counted(), "messages": dict(heard)}
        self.conversion = convert.prove(self.net, row, device).model_copy(update=observed)

    def predict(self, image: Input) -> torch.Tensor:
        """Logits (classes,) of one prepared image (channels, height, width); see :meth:`batch_predict`."""
        return self.batch_predict(torch.as_tensor(image)[None])[0]

    def batch_predict(self, images: Input) -> torch.Tensor:
        """Logits (n, classes), float32 on the CPU, of n prepared images (n, channels, height, width).

        Raises:
            StudyError: another shape, a value that is not finite, or such a logit.
        """
        logits = self.logits(images)
        if not torch.isfinite(logits).all():
            raise StudyError(f"precision {self.precision}", "logits that are not finite", "serve another one")
        return logits

    def logits(self, images: Input) -> torch.Tensor:
        """As :meth:`batch_predict`; the logits of an image that overflowed inside the network are not finite."""
        batch = torch.as_tensor(images)
        if batch.ndim != 4 or tuple(batch.shape[1:]) != self.source.shape or not len(batch):
            wanted = f"give (n, {', '.join(map(str, self.source.shape))})"
            raise StudyError("predict", f"images of shape {tuple(batch.shape)}", wanted)
        if not torch.isfinite(batch).all():
            raise StudyError("predict", "an image holds NaN or infinity", "give finite pixels")
        with torch.inference_mode(), compute.switches(self.tf32, torch.backends.cudnn.benchmark):
            output = self.net(batch.to(self.device, self.dtype))
            logits: torch.Tensor = self.head(fidelity.answer_of(output)) if self.head else output.logits.float().cpu()
        return logits
