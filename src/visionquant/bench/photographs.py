"""Real photographs, cropped and prepared as a model asks.

Two photographs ship with scikit-learn (a temple and a flower, 427 x 640 pixels, CC BY). Square crops of them, at fixed
places, are the inputs of every timed iteration and of the fidelity pass: real statistics, no download. Preprocessing
follows ``preprocessor_config.json`` with Pillow alone, because the hub's own processors want torchvision; the crop is
scaled so that the result has the row's input size.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from visionquant.errors import StudyError

SIDE = 320
DEFAULT: dict[str, Any] = {
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "resample": 2,
}


@cache
def crops() -> tuple[Image.Image, ...]:
    """Thirty-two overlapping square crops, 320 pixels a side, the two photographs in turn."""
    photographs = [Image.open(_folder() / name).convert("RGB") for name in ("china.jpg", "flower.jpg")]
    places = [(x, y) for y in (0, 107, 53, 80) for x in (0, 320, 107, 213)]
    return tuple(photograph.crop((x, y, x + SIDE, y + SIDE)) for x, y in places for photograph in photographs)


def _folder() -> Path:
    """Where scikit-learn keeps its photographs; the library itself, a second of imports, is not needed for them."""
    found = find_spec("sklearn")
    places = list(found.submodule_search_locations or ()) if found else []
    folder = Path(places[0]) / "datasets" / "images" if places else Path()
    if not (folder / "china.jpg").is_file():
        raise StudyError("photographs", "scikit-learn's sample images are not installed", "install scikit-learn")
    return folder


def prepare(image: Image.Image, preprocessing: dict[str, Any], input_size: int) -> np.ndarray:
    """One image as the model wants it.

    Args:
        image: any RGB image.
        preprocessing: a hub ``preprocessor_config.json``.
        input_size: side of the result in pixels.

    Returns:
        float32 array of shape (3, input_size, input_size).
    """
    preprocessing = {name: value for name, value in preprocessing.items() if value is not None}
    resample = Image.Resampling(int(preprocessing.get("resample", 2)))
    image = image.convert("RGB")
    if preprocessing.get("do_center_crop"):
        crop = _side(preprocessing.get("crop_size", input_size))
        asked = _side(preprocessing.get("size", crop))
        short = max(input_size, round(input_size * asked / crop))
        image = _resize_shortest(image, short, resample)
        left, top = (image.width - input_size) // 2, (image.height - input_size) // 2
        image = image.crop((left, top, left + input_size, top + input_size))
    else:
        image = image.resize((input_size, input_size), resample)
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
    if preprocessing.get("do_rescale", True):
        pixels = pixels * np.float32(preprocessing.get("rescale_factor", 1 / 255))
    if preprocessing.get("do_normalize"):
        mean, std = (
            np.asarray(preprocessing.get(name, DEFAULT[name]), dtype=np.float32)[:, None, None]
            for name in ("image_mean", "image_std")
        )
        pixels = (pixels - mean) / std
    if preprocessing.get("do_flip_channel_order"):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def batch(count: int, preprocessing: dict[str, Any], input_size: int, first: int = 0) -> torch.Tensor:
    """``count`` prepared crops from number ``first`` on, going round: float32, shape (count, 3, size, size)."""
    chosen = [(first + i) % len(crops()) for i in range(count)]
    made = {i: prepare(crops()[i], preprocessing, input_size) for i in set(chosen)}
    return torch.from_numpy(np.stack([made[i] for i in chosen]))


def _side(size: Any) -> int:
    if isinstance(size, dict):
        return int(size.get("shortest_edge") or size["height"])
    return int(size)


def _resize_shortest(image: Image.Image, short: int, resample: Image.Resampling) -> Image.Image:
    scale = short / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), resample)
