"""The probe's task for a search: its linear head, and images that it has not learned from, in parts that share none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from visionquant.accuracy import fashion, probe
from visionquant.accuracy.fashion import LabelledImages
from visionquant.accuracy.model_source import ModelSource
from visionquant.accuracy.probe import Pictures
from visionquant.bench.fidelity import NetworkOutput
from visionquant.core.errors import StudyError

LEAST_SHARE = 1e-30  # of which a logarithm is taken


class LabelledPart(NamedTuple):
    """Prepared images (n, channels, height, width), float32, and their classes (n,)."""

    images: torch.Tensor
    labels: np.ndarray


@dataclass(frozen=True)
class ProbeTask:
    """``linear`` gives the probabilities (n, classes) of pooled features (n, width) of images of ``patches``."""

    linear: Callable[[np.ndarray], np.ndarray]
    patches: int
    parts: tuple[LabelledPart, ...]

    def head(self, answer: NetworkOutput) -> torch.Tensor:
        """Log probabilities (n, classes), float32, by the linear head."""
        shares = self.linear(probe.pooled(answer.last_hidden_state, self.patches).numpy())
        return torch.from_numpy(np.log(np.maximum(shares, LEAST_SHARE)).astype(np.float32))

    def accuracy(self, net: nn.Module, part: LabelledPart, dtype: torch.dtype, device: str) -> float:
        """The share of a part's images that is classified correctly by features of ``net``, 0 to 1."""
        batches = torch.split(part.images, probe.BATCH)
        found = self.linear(probe.features(net, batches, self.patches, dtype, device))
        return float((found.argmax(1) == part.labels).mean())


def fitted(source: ModelSource, net: nn.Module, device: str, counts: Sequence[int]) -> ProbeTask:
    """The head that the probe fits on features of ``net`` (FP32, on ``device``), and parts of so many training images.

    Raises:
        StudyError: the data set is not to be had, or has too few images.
    """
    choice, (training, _) = source.params.evaluation.probe, fashion.load(source.project)
    total, drawn = len(training.labels), choice.training_images + sum(counts)
    if drawn > total:
        found = f"it has {total:,}, of which the head learns from {choice.training_images:,}"
        raise StudyError(f"{sum(counts):,} other images of {probe.TASK}", found, "ask for fewer --images")
    pictures = Pictures(source, choice.pixels)
    learned, known = learned_features(source, net, device, training)
    linear = probe.fit(known, training.labels[learned], choice.neighbours).linear
    others = np.setdiff1d(probe.drawn(drawn, total, choice.seed), learned)
    parts = (
        LabelledPart(pictures.batch(training.images[part]), training.labels[part])
        for part in np.split(others, np.cumsum(counts)[:-1])
    )
    return ProbeTask(linear, probe.patch_count(net, *pictures.size), tuple(parts))


def learned_features(
    source: ModelSource, net: nn.Module, device: str, training: LabelledImages
) -> tuple[np.ndarray, np.ndarray]:
    """Which training images the probe's heads learn from (n,), and the features (n, width) of ``net`` in FP32."""
    choice = source.params.evaluation.probe
    pictures = Pictures(source, choice.pixels)
    learned = probe.drawn(choice.training_images, len(training.labels), choice.seed)
    parts = (learned[at : at + probe.BATCH] for at in range(0, len(learned), probe.BATCH))
    batches = (pictures.batch(training.images[part]) for part in parts)
    patches = probe.patch_count(net, *pictures.size)
    return learned, probe.features(net, batches, patches, torch.float32, device)
