"""Crops of the two photographs in two halves that share no pixel: one to search on, the other to check."""

from math import ceil, sqrt

import numpy as np
import torch

from visionquant.bench import inputs
from visionquant.bench.inputs import Preprocessing
from visionquant.core.errors import StudyError

SIDE = 224  # pixels


def halves(count: int, preprocessing: Preprocessing) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` prepared crops, float32, (count / 2, channels, height, width) each: of the left halves, of the right.

    They overlap within a half; photographs take turns. Raises StudyError: ``count`` is no multiple of four.
    """
    each, odd = divmod(count, 4)
    if odd or each < 1:
        raise StudyError(f"{count} crops", "two halves of two photographs want a multiple of four", "ask for e.g. 64")
    left, right = (_crops(each, half, preprocessing) for half in (0, 1))
    return left, right


def _crops(each: int, half: int, preprocessing: Preprocessing) -> torch.Tensor:
    """``each`` places, spread evenly over a grid in that half of both photographs."""
    steps, prepared = ceil(sqrt(each)), []
    for number in np.linspace(0, steps**2 - 1, each).round().astype(int):
        for photograph in inputs.whole():
            width, height = photograph.width // 2, photograph.height
            row, column = divmod(int(number), steps)
            x, y = ((length - SIDE) * at // max(1, steps - 1) for length, at in ((width, column), (height, row)))
            x += half * width
            prepared.append(preprocessing.prepare(photograph.crop((x, y, x + SIDE, y + SIDE))))
    return torch.from_numpy(np.stack(prepared))
