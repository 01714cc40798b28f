"""Training of one fold: AdamW under a one-cycle schedule, images shifted by up to a pixel; seeded.

A minute or so on two cores in FP32. How a single step is taken can be given, which is how training in mixed precision
shares this loop (``deploy.amp``). The weights are a safetensors file that stays out of git; what they are worth is in
the scores, which are committed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from visionquant.accuracy import digits, networks
from visionquant.accuracy.digits import Digits
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project, write_atomically
from visionquant.settings.trained_networks import NetworkSpec, Training

# One step on (images, labels): the loss, detached, and whether the weights were changed.
Step = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, bool]]
Stepper = Callable[[nn.Module, torch.optim.Optimizer], Step]


@dataclass(frozen=True)
class Trained:
    """A network after training, its seconds, and how many of the held-out images it names rightly in FP32."""

    net: nn.Module
    seconds: float
    correct: int
    held_out: int


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
    spec: NetworkSpec, training: Training, data: Digits, fold: int, stepper: Stepper = full, device: str = "cpu"
) -> Trained:
    """Train on all folds but ``fold``; the network stays on ``device``.

    Raises:
        StudyError: the loss is no number.
    """
    begun = time.perf_counter()
    learn, held = digits.folds(data.labels, training.folds, training.seed)[fold]
    net = networks.build(spec, training.seed + fold).to(device)
    generator = torch.Generator().manual_seed(training.seed + fold)
    optimizer = torch.optim.AdamW(net.parameters(), lr=spec.learning_rate, weight_decay=training.weight_decay)
    steps = spec.epochs * -(-len(learn) // training.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=spec.learning_rate, total_steps=steps)
    net.train()
    take = stepper(net, optimizer)
    for _ in range(spec.epochs):
        shuffled = learn[torch.randperm(len(learn), generator=generator)]
        for batch in torch.split(shuffled, training.batch_size):
            images = digits.shifted(data.images[batch], generator)
            loss, changed = take(images.to(device), data.labels[batch].to(device))
            if not torch.isfinite(loss):
                raise StudyError("training", f"the loss became {float(loss)}", "lower learning_rate in params.yaml")
            if changed:
                schedule.step()
    net.eval()
    right = 0
    with torch.inference_mode():
        for part in torch.split(held, 100):
            found = net(data.images[part].to(device)).logits.argmax(1).cpu()
            right += int((found == data.labels[part]).sum())
    return Trained(net, time.perf_counter() - begun, right, len(held))


def save(project: Project, network: str, fold: int, net: nn.Module) -> None:
    """Write the weights as ``data/trained/NETWORK/foldN.safetensors``."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    write_atomically(project.weights(network, fold), save(tensors))


def restore(project: Project, network: str, spec: NetworkSpec, training: Training, fold: int) -> nn.Module:
    """The trained network of a fold, in FP32 on the CPU, in evaluation mode.

    Raises:
        StudyError: it was not trained yet, or the file holds another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = project.weights(network, fold)
    if not path.is_file():
        raise StudyError(
            f"data/trained/{network}/{path.name}", "not trained yet", f"run `visionquant train --network {network}`"
        )
    net = networks.build(spec, training.seed + fold)
    try:
        net.load_state_dict(load_file(str(path)))
    except (RuntimeError, SafetensorError):
        raise StudyError(f"data/trained/{network}/{path.name}", "holds another network", "train it again") from None
    return net.eval()
