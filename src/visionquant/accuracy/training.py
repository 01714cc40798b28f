"""Small networks of three families of the study, trained on real labelled images.

The quick task is scikit-learn's 1,797 handwritten digits, 8 x 8 pixels; in five stratified, seeded folds each is held
out once, and a fold takes a minute or so on two cores. The long one is Fashion-MNIST (:mod:`.fashion`): 60,000 images
to learn from, and its own 10,000 held out, as the one fold that it has. Images are scaled to what a network takes.
Training is AdamW under a one-cycle schedule in FP32, seeded, on images shifted by up to a source pixel. The weights
stay out of git; what they are worth is in the scores.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from visionquant.accuracy import fashion, freed_memory
from visionquant.bench import loading
from visionquant.bench.inputs import DEFAULT, Preprocessing
from visionquant.core.errors import StudyError
from visionquant.core.files import save, shown
from visionquant.core.paths import Project
from visionquant.settings.params import Params
from visionquant.settings.sections import NetworkSpec, Training

CLASSES = 10
DIGITS_SIDE, FASHION_SIDE = 8, fashion.SIDE
FASHION_MEAN, FASHION_DEVIATION = 0.2860, 0.3530  # of all pixels that it is learned from, 0 to 1
BATCH = 100  # images of an evaluation pass
# One step on (images, labels): the loss, detached, and whether the weights were changed.
Step = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, bool]]
Stepper = Callable[[nn.Module, torch.optim.Optimizer], Step]


class TrainingImages(NamedTuple):
    """``images`` (n, 3, side, side) with zero mean and unit deviation, ``labels`` (n,) from 0 to 9.

    They were ``source_side`` pixels a side; the last ``held_out`` of them are never learned from, 0 where folds decide.
    """

    images: torch.Tensor
    labels: torch.Tensor
    source_side: int
    held_out: int = 0

    def splits(self, training: Training) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """(training, held-out) indices of each fold; one fold where the data set has test images of its own."""
        if self.held_out:
            learned = len(self.labels) - self.held_out
            return ((torch.arange(learned), torch.arange(learned, len(self.labels))),)
        return folds(self.labels, training.folds, training.seed)


class Trained(NamedTuple):
    """A network after training, its seconds, and on how many of the held-out images it is correct in FP32."""

    net: nn.Module
    seconds: float
    correct: int
    held_out: int


def load(project: Project, spec: NetworkSpec) -> TrainingImages:
    """The images of a row's task, as its network takes them.

    Raises:
        StudyError: the data set can't be had.
    """
    return load_digits(spec.image_size) if spec.task == "digits" else load_fashion(project, spec.image_size)


def folds_of(spec: NetworkSpec, training: Training, every: bool) -> tuple[int, ...]:
    """The folds that are trained: those of ``training.run``, or all; the one of a task that has no more."""
    count = training.fold_count(spec)
    return tuple(range(count)) if every or count == 1 else training.run


def load_fashion(project: Project, side: int) -> TrainingImages:
    """All of Fashion-MNIST, its test images last, bilinearly scaled to ``side`` pixels, grey in three channels."""
    parts = fashion.load(project)
    grey = torch.from_numpy(np.concatenate([part.images for part in parts]).astype(np.float32) / 255)[:, None]
    scaled = functional.interpolate(grey, size=(side, side), mode="bilinear", align_corners=False)
    scaled.sub_(FASHION_MEAN).div_(FASHION_DEVIATION)
    labels = torch.from_numpy(np.concatenate([part.labels for part in parts]).astype(np.int64))
    return TrainingImages(scaled.expand(-1, 3, -1, -1), labels, FASHION_SIDE, len(parts[1].labels))


def load_digits(side: int) -> TrainingImages:
    """All digits, bilinearly scaled to ``side`` pixels, grey in three channels."""
    from sklearn import datasets

    data = datasets.load_digits()
    grey = torch.from_numpy(data.images.astype(np.float32) / 16)[:, None]
    scaled = functional.interpolate(grey, size=(side, side), mode="bilinear", align_corners=False)
    scaled = (scaled - grey.mean()) / grey.std()
    labels = torch.from_numpy(data.target.astype(np.int64))
    return TrainingImages(scaled.expand(-1, 3, -1, -1).contiguous(), labels, DIGITS_SIDE)


def preprocessing(spec: NetworkSpec) -> Preprocessing:
    """What makes an image file an input of a row's network; :func:`load` scales alike."""
    if spec.task == "digits":
        return digit_preprocessing(spec.image_size)
    statistics = {"image_mean": [FASHION_MEAN] * 3, "image_std": [FASHION_DEVIATION] * 3}
    return Preprocessing(DEFAULT | statistics, (3, spec.image_size, spec.image_size))


def digit_preprocessing(side: int) -> Preprocessing:
    """What makes an image file such an input; :func:`load_digits` scales alike."""
    from sklearn import datasets

    grey = datasets.load_digits().images / 16
    mean, deviation = float(grey.mean()), float(grey.std(ddof=1))
    return Preprocessing(DEFAULT | {"image_mean": [mean] * 3, "image_std": [deviation] * 3}, (3, side, side))


def folds(labels: torch.Tensor, count: int, seed: int) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """(training, held-out) indices of each fold."""
    from sklearn.model_selection import StratifiedKFold

    split = StratifiedKFold(count, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels.numpy())
    return tuple((torch.from_numpy(learned), torch.from_numpy(held_out)) for learned, held_out in split)


def shifted(images: torch.Tensor, generator: torch.Generator, source_side: int = DIGITS_SIDE) -> torch.Tensor:
    """Each image moved by up to one source pixel along both axes, the border repeated: (n, 3, side, side)."""
    side = images.shape[-1]
    step = side // source_side
    corners = (step + torch.randint(-step, step + 1, (len(images), 2), generator=generator)).tolist()
    padded = functional.pad(images, (step, step, step, step), mode="replicate")
    return torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, corners, strict=True)])


def build_network(spec: NetworkSpec, seed: int) -> nn.Module:
    """The library's own class of a row with seeded weights, in FP32 on the CPU.

    The library draws BatchNorm's weights near zero, where a MobileViT learns nothing for long; they start at one here.
    """
    from transformers import AutoModelForImageClassification, BeitConfig, MobileViTConfig, ViTConfig

    config: Any
    shared: dict[str, Any] = {"image_size": spec.image_size, "num_labels": CLASSES}
    if spec.family == "mobilevit":
        neck = [16, 16, 24, 48, 64, 80, 320]
        shared |= {"patch_size": 2, "hidden_sizes": [64, 80, 96], "neck_hidden_sizes": neck, "expand_ratio": 2.0}
        config = MobileViTConfig(**shared, num_attention_heads=4, mlp_ratio=2.0)
    else:
        shared |= {"patch_size": spec.patch_size, "hidden_size": spec.hidden_size, "num_hidden_layers": spec.layers}
        shared |= {"num_attention_heads": spec.hidden_size // 32, "intermediate_size": 2 * spec.hidden_size}
        if spec.family == "beit":
            shared |= {"use_relative_position_bias": True, "use_absolute_position_embeddings": True}
            shared |= {"use_mean_pooling": True, "layer_scale_init_value": 0.1}
        config = (BeitConfig if spec.family == "beit" else ViTConfig)(**shared)
    attention = "eager" if spec.family == "mobilevit" else "sdpa"
    net: nn.Module = AutoModelForImageClassification.from_config(config, attn_implementation=attention)
    loading.seed_weights(net, seed)
    return net


def loss_of(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a batch with smoothed labels, in FP32 whatever the logits are in."""
    return functional.cross_entropy(net(images).logits.float(), labels, label_smoothing=0.05)


def full(net: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """Steps in FP32."""

    def step(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, bool]:
        loss = loss_of(net, images, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach(), True

    return step


def train(
    spec: NetworkSpec, training: Training, data: TrainingImages, fold: int, stepper: Stepper = full, device: str = "cpu"
) -> Trained:
    """Train on all folds but ``fold``; the network stays on ``device``. Raises StudyError: the loss is no number."""
    begun = time.perf_counter()
    learned, held_out = data.splits(training)[fold]
    net = build_network(spec, training.seed + fold).to(device)
    generator = torch.Generator().manual_seed(training.seed + fold)
    optimizer = torch.optim.AdamW(net.parameters(), lr=spec.learning_rate, weight_decay=training.weight_decay)
    steps = spec.epochs * -(-len(learned) // training.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=spec.learning_rate, total_steps=steps)
    net.train()
    take = stepper(net, optimizer)
    for _ in range(spec.epochs):
        shuffled = learned[torch.randperm(len(learned), generator=generator)]
        for batch in torch.split(shuffled, training.batch_size):
            images = shifted(data.images[batch], generator, data.source_side)
            loss, changed = take(images.to(device), data.labels[batch].to(device))
            if not torch.isfinite(loss):
                raise StudyError("training", f"the loss became {float(loss)}", "lower learning_rate in params.yaml")
            if changed:
                schedule.step()
    classes = logits_of(net.eval(), data.images[held_out], torch.float32, device).argmax(1)
    correct = int((classes == data.labels[held_out]).sum())
    return Trained(net, time.perf_counter() - begun, correct, len(held_out))


def logits_of(net: nn.Module, images: torch.Tensor, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    """Finite logits (n, classes), float32 on the CPU, of a network that lies on ``device`` in ``dtype``."""
    found = []
    with torch.inference_mode():
        for batch in torch.split(images, BATCH):
            found.append(net(batch.to(device, dtype)).logits.float().cpu())
            freed_memory.give_back()
    logits = torch.cat(found)
    if not torch.isfinite(logits).all():
        raise StudyError(f"logits of {type(net).__name__}", "not finite", "train it again, or leave the precision out")
    return logits


def save_trained(project: Project, name: str, fold: int, net: nn.Module) -> None:
    """Write the weights as ``NAME/foldN.safetensors`` among the trained ones."""
    from safetensors import torch as safetensors

    tensors = {key: tensor.contiguous() for key, tensor in net.state_dict().items()}
    save(project.weights(name, fold), safetensors.save(tensors))


def load_trained(project: Project, params: Params, name: str, fold: int) -> nn.Module:
    """The trained network of a fold, in FP32 on the CPU, in evaluation mode."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = require_trained(project, name, fold)
    net = build_network(params.training.networks[name], params.training.seed + fold)
    try:
        net.load_state_dict(load_file(str(path)))
    except (RuntimeError, SafetensorError):
        raise StudyError(shown(path), "holds another network", "train it again") from None
    return net.eval()


def require_trained(project: Project, name: str, fold: int) -> Path:
    """The file of a trained network's weights. Raises StudyError: it was not trained yet."""
    path = project.weights(name, fold)
    if not path.is_file():
        raise StudyError(shown(path), "not trained yet", f"run `visionquant train --network {name}`")
    return path
