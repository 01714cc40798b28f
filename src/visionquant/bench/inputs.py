"""Real photographs, cropped and prepared as a model asks.

Two photographs ship with scikit-learn (a temple and a flower, 427 x 640 pixels, CC BY). Square crops of them, at fixed
places, are the inputs of every timed iteration and of the fidelity pass: real statistics, no download.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from visionquant.bench.preprocessing import Preprocessing
from visionquant.core.errors import StudyError

SIDE = 320


@cache
def whole() -> tuple[Image.Image, ...]:
    """The two photographs, 640 pixels wide and 427 high."""
    return tuple(Image.open(_folder() / name).convert("RGB") for name in ("china.jpg", "flower.jpg"))


@cache
def crops() -> tuple[Image.Image, ...]:
    """Thirty-two overlapping square crops, 320 pixels a side, the two photographs in turn."""
    places = [(x, y) for y in (0, 107, 53, 80) for x in (0, 320, 107, 213)]
    return tuple(photograph.crop((x, y, x + SIDE, y + SIDE)) for x, y in places for photograph in whole())


def _folder() -> Path:
    """Where scikit-learn keeps its photographs; the library itself, a second of imports, is not needed for them."""
    spec = find_spec("sklearn")
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0]) / "datasets" / "images" if places else Path()
    if not (folder / "china.jpg").is_file():
        raise StudyError("photographs", "scikit-learn's sample images are not installed", "install scikit-learn")
    return folder


def batch(count: int, preprocessing: Preprocessing, first: int = 0) -> torch.Tensor:
    """``count`` prepared crops from number ``first`` on, going round: float32, (count, channels, height, width)."""
    chosen = [(first + i) % len(crops()) for i in range(count)]
    prepared = {i: preprocessing.prepare(crops()[i]) for i in set(chosen)}
    return torch.from_numpy(np.stack([prepared[i] for i in chosen]))
