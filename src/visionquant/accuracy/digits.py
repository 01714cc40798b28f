"""Real labelled images that ship with a dependency: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels.

They are scaled up to what a network takes. Folds are stratified and seeded; in five folds each image is held out once.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from visionquant.bench.preprocessing import DEFAULT, Preprocessing

CLASSES = 10
SIDE = 8


@dataclass(frozen=True)
class Digits:
    """``images`` (1797, 3, side, side) with zero mean and unit deviation, ``labels`` (1797,) from 0 to 9."""

    images: torch.Tensor
    labels: torch.Tensor


def load_digits(side: int) -> Digits:
    """All digits, bilinearly scaled to ``side`` pixels, grey in three channels."""
    from sklearn import datasets

    data = datasets.load_digits()
    grey = torch.from_numpy(data.images.astype(np.float32) / 16)[:, None]
    scaled = functional.interpolate(grey, size=(side, side), mode="bilinear", align_corners=False)
    scaled = (scaled - grey.mean()) / grey.std()
    return Digits(scaled.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(data.target.astype(np.int64)))


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


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to one source pixel along both axes, the border repeated: (n, 3, side, side)."""
    side = images.shape[-1]
    step = side // SIDE
    corners = step + torch.randint(-step, step + 1, (len(images), 2), generator=generator)
    padded = functional.pad(images, (step, step, step, step), mode="replicate")
    return torch.stack(
        [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, corners.tolist(), strict=True)]
    )
