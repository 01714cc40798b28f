"""How far a precision's outputs are from FP32's, on the same photographs.

Features are the last hidden state. Logits come through the checkpoint's own head where it has one, else through a fixed
seeded projection of the pooled features ("accuracy simulation"), and the record says which. On seeded weights all this
tells whether the conversion is right; it says nothing about accuracy.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import log_softmax
from torch import nn
from torch.utils._pytree import tree_leaves

from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.record import Fidelity
from visionquant.weights import sources
from visionquant.weights.sources import Manifest

CLASSES = 1000
OWN_HEAD = "the checkpoint's own head"


class NetworkOutput(SimpleNamespace):
    """Tensors of a network, on the CPU in FP32; as in transformers' own what is absent is None, a number counts."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, index: Any) -> Any:
        return tuple(vars(self).values())[index]


Head = Callable[[NetworkOutput], torch.Tensor]


class Outputs(NamedTuple):
    """Of n images: features (n, ...) and logits (n, classes); of the first of them what each block gave; float32."""

    features: np.ndarray
    logits: np.ndarray
    blocks: tuple[np.ndarray, ...] = ()


def image_count(macs: int, most: int, gmacs: float) -> int:
    """As many images as ``gmacs`` of arithmetic allow, between two and ``most``."""
    return max(2, min(most, int(gmacs * 1e9 / macs)))


def features_of(result: Any) -> torch.Tensor:
    """The last hidden state of what a model answered; a StudyError where there is none: it is no vision backbone."""
    features = getattr(result, "last_hidden_state", None)
    if not isinstance(features, torch.Tensor):
        found = f"its answer ({type(result).__name__}) has no last_hidden_state"
        raise StudyError("model", found, "study vision backbones alone")
    return features


def answer_of(result: Any) -> NetworkOutput:
    """What a head takes of what a model answered; errors as of :func:`features_of`."""
    features_of(result)
    named = result.items() if isinstance(result, Mapping) else vars(result).items()
    return NetworkOutput(**{name: value.float().cpu() for name, value in named if isinstance(value, torch.Tensor)})


def outputs(model: nn.Module, images: torch.Tensor, head: Head, blocks: bool = False) -> Outputs:
    """One pass over ``images``, and with ``blocks`` another over the first, block by block.

    The head runs in FP32 on the CPU whatever the precision.
    """
    with torch.inference_mode():
        answer = answer_of(model(images))
        logits = head(answer).numpy()
    return Outputs(answer.last_hidden_state.numpy(), logits, _after_blocks(model, images[:1]) if blocks else ())


def _after_blocks(model: nn.Module, image: torch.Tensor) -> tuple[np.ndarray, ...]:
    """What each block of the outermost list of blocks (layers of a transformer, stages of a MobileViT) answers."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 1)
    if (blocks := next(lists, None)) is None:
        return ()
    outputs: list[np.ndarray] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        tensor = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))
        outputs.append(tensor.float().cpu().numpy())

    with ExitStack() as hooks, torch.inference_mode():
        for block in blocks:
            hooks.enter_context(block.register_forward_hook(keep))
        model(image)
    return tuple(outputs)


def compare(reference: Outputs, found: Outputs, logits_from: str) -> Fidelity:
    """Cosine, SQNR in dB, top-1 agreement (0 to 1) and KL(reference || found) in nats.

    SQNR is the mean over the images that differ at all. Figures are None where the outputs hold NaN or infinity.
    """
    bad = int((~np.isfinite(found.features)).sum() + (~np.isfinite(found.logits)).sum())
    figures: dict[str, Any] = dict.fromkeys(("cosine", "sqnr_db", "top1_agreement", "kl_nats"))
    if not bad:
        ratios = [sqnr_db(a, b) for a, b in zip(reference.features, found.features, strict=True)]
        differing = [ratio for ratio in ratios if ratio is not None]
        p, q = (log_softmax(logits.astype(np.float64), axis=1) for logits in (reference.logits, found.logits))
        blocks = zip(reference.blocks, found.blocks, strict=True) if found.blocks else ()
        after_blocks = (sqnr_db(a, b) for a, b in blocks)
        figures = {
            "cosine": float(_cosines(reference.features, found.features).mean()),
            "sqnr_db": float(np.mean(differing)) if differing else None,
            "top1_agreement": float((reference.logits.argmax(1) == found.logits.argmax(1)).mean()),
            "kl_nats": float((np.exp(p) * (p - q)).sum(1).mean()),
            "blocks_sqnr_db": tuple(None if ratio is None else float(f"{ratio:.5g}") for ratio in after_blocks),
        }
    return Fidelity(images=len(reference.features), nan_count=bad, logits_from=logits_from, **figures)


def lowest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of the two images, of n, that agree least; a and b have shape (n, ...)."""
    cosines = _cosines(a, b)
    return min(1.0 if np.array_equal(x, y) else float(cosine) for x, y, cosine in zip(a, b, cosines, strict=True))


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each of n images, (n, ...); NaN where outputs are not finite."""
    x, y = (values.reshape(len(values), -1).astype(np.float64) for values in (a, b))
    with np.errstate(invalid="ignore"):
        cosines: np.ndarray = (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))
    return cosines


def sqnr_db(signal: np.ndarray, found: np.ndarray) -> float | None:
    """Signal to quantisation noise of two arrays, in dB; None where they are equal or the noise is no number."""
    a = signal.astype(np.float64)
    noise = float(((a - found) ** 2).sum())
    return 10 * float(np.log10((a**2).sum() / noise)) if noise > 0 and np.isfinite(noise) else None


def head_of(project: Project, manifest: Manifest, seed: int) -> tuple[Head, str]:
    """The head that turns features into logits, and its description."""
    if manifest.has_files and (own := _own_head(sources.resolve(project, manifest))):
        return own, OWN_HEAD

    def projection(answer: NetworkOutput) -> torch.Tensor:
        features = answer.last_hidden_state
        vectors = features.mean((2, 3)) if features.dim() == 4 else features[:, 0]
        weight = np.random.default_rng(seed + 1).standard_normal((vectors.shape[1], CLASSES), dtype=np.float32)
        return vectors @ torch.from_numpy(weight / np.float32(vectors.shape[1] ** 0.5))

    return projection, f"a fixed seeded projection to {CLASSES} classes"


class _Replay(nn.Module):
    """Stands in for the backbone of a classifier and gives an answer that was already computed.

    Where a classifier pools and ``AutoModel`` does not (Data2Vec), the backbone's own pooler does that.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.pooler = getattr(backbone, "pooler", None)
        self.answer = NetworkOutput()

    def forward(self, *_: Any, **__: Any) -> NetworkOutput:
        if self.answer.pooler_output is None and self.pooler is not None:
            self.answer.pooler_output = self.pooler(self.answer.last_hidden_state)
        return self.answer


def _own_head(folder: Path) -> Head | None:
    """The classifier of a checkpoint around a replayed backbone, or None for a checkpoint without one."""
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if not any("ImageClassification" in name for name in config.architectures or ()):
        return None
    full = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    name = next((part for part in (full.base_model_prefix, "vision_model") if hasattr(full, part)), None)
    if name is None:
        raise StudyError(f"the head of {type(full).__name__}", "no backbone found in it", "report this defect")
    replay = _Replay(getattr(full, name))
    setattr(full, name, replay)

    def head(answer: NetworkOutput) -> torch.Tensor:
        replay.answer = answer
        logits = full(pixel_values=torch.zeros(len(answer.last_hidden_state), 3, 1, 1)).logits
        assert isinstance(logits, torch.Tensor)
        return logits

    return head
