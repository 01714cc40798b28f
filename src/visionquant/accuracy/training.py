"""Small networks of three families of the study, and their training: AdamW under a one-cycle schedule, seeded.

A minute or so a fold on two cores in FP32; images are shifted by up to a pixel. How a single step is taken can be
given, as ``deploy.training_memory`` does. The weights stay out of git; what they are worth is in the scores.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from visionquant.accuracy import digits
from visionquant.bench import loading
from visionquant.core.errors import StudyError
from visionquant.core.files import save, shown
from visionquant.core.paths import Project
from visionquant.settings.params import Params
from visionquant.settings.trained_networks import NetworkSpec, Training

BATCH = 100  # images of an evaluation pass
# One step on (images, labels): the loss, detached, and whether the weights were changed.
Step = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, bool]]
Stepper = Callable[[nn.Module, torch.optim.Optimizer], Step]


@dataclass(frozen=True)
class Trained:
    """A network after training, its seconds, and on how many of the held-out images it is correct in FP32."""

    net: nn.Module
    seconds: float
    correct: int
    held_out: int


def build_network(spec: NetworkSpec, seed: int) -> nn.Module:
    """The library's own class of a row with seeded weights, in FP32 on the CPU.

    The library draws BatchNorm's weights near zero, where a MobileViT learns nothing for long; they start at one here.
    """
    from transformers import AutoModelForImageClassification, BeitConfig, MobileViTConfig, ViTConfig

    config: Any
    shared: dict[str, Any] = {"image_size": spec.image_size, "num_labels": digits.CLASSES}
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
    spec: NetworkSpec, training: Training, data: digits.Digits, fold: int, stepper: Stepper = full, device: str = "cpu"
) -> Trained:
    """Train on all folds but ``fold``; the network stays on ``device``.

    Raises:
        StudyError: the loss is no number.
    """
    begun = time.perf_counter()
    learned, held_out = digits.folds(data.labels, training.folds, training.seed)[fold]
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
            images = digits.shifted(data.images[batch], generator)
            loss, changed = take(images.to(device), data.labels[batch].to(device))
            if not torch.isfinite(loss):
                raise StudyError("training", f"the loss became {float(loss)}", "lower learning_rate in params.yaml")
            if changed:
                schedule.step()
    classes = logits_of(net.eval(), data.images[held_out], torch.float32, device).argmax(1)
    correct = int((classes == data.labels[held_out]).sum())
    return Trained(net, time.perf_counter() - begun, correct, len(held_out))


def logits_of(net: nn.Module, images: torch.Tensor, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    """Logits (n, classes), float32 on the CPU, of a network that lies on ``device`` in ``dtype``.

    Raises:
        StudyError: one is not finite.
    """
    with torch.inference_mode():
        batches = [net(batch.to(device, dtype)).logits.float().cpu() for batch in torch.split(images, BATCH)]
    logits = torch.cat(batches)
    if not torch.isfinite(logits).all():
        raise StudyError(f"logits of {type(net).__name__}", "not finite", "train it again, or leave the precision out")
    return logits


def save_trained(project: Project, name: str, fold: int, net: nn.Module) -> None:
    """Write the weights as ``NAME/foldN.safetensors`` among the trained ones."""
    from safetensors import torch as safetensors

    tensors = {key: tensor.contiguous() for key, tensor in net.state_dict().items()}
    save(project.weights(name, fold), safetensors.save(tensors))


def load_trained(project: Project, params: Params, name: str, fold: int) -> nn.Module:
    """The trained network of a fold, in FP32 on the CPU, in evaluation mode.

    Raises:
        StudyError: it was not trained yet, or the file holds another network.
    """
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
    """The file of a trained network's weights.

    Raises:
        StudyError: it was not trained yet.
    """
    path = project.weights(name, fold)
    if not path.is_file():
        asked, remedy = shown(path), f"run `visionquant train --network {name}`"
        raise StudyError(asked, "not trained yet", remedy)
    return path
