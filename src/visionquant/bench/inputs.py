"""What a network is fed: real photographs, prepared by the checkpoint's own processor, as transformers builds it.

Two photographs ship with scikit-learn (a temple and a flower, 427 x 640 pixels, CC BY). Square crops of them, at fixed
places, are the inputs of every timed iteration and of the fidelity pass: real statistics, no download.

``preprocessor_config.json`` is read by the class that it names, else by that of the model's type, in its Pillow form
(torchvision is needed by the few that have none). So pixels are the hub's to the last bit, whatever the configuration
holds, and what the library refuses is refused here. A network is fed images of one shape, its row's. Where the
processor makes another one, every length in its configuration is scaled, so that the same part of the picture is seen;
where it makes none that is fixed (a shortest edge without a crop, patches, several crops), it is refused.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from visionquant.core.errors import StudyError

SIDE = 320
DEFAULT: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "resample": 2,
}
Shape = tuple[int, int, int]


@cache
def whole() -> tuple[Image.Image, ...]:
    """The two photographs, 640 pixels wide and 427 high; scikit-learn itself, a second of imports, is not loaded."""
    spec = find_spec("sklearn")
    folder = Path(str(spec and spec.origin)).parent / "datasets" / "images"
    if not (folder / "china.jpg").is_file():
        raise StudyError("photographs", "scikit-learn's sample images are not installed", "install scikit-learn")
    return tuple(Image.open(folder / name).convert("RGB") for name in ("china.jpg", "flower.jpg"))


@cache
def crops() -> tuple[Image.Image, ...]:
    """Thirty-two overlapping square crops, 320 pixels a side, the two photographs in turn."""
    places = [(x, y) for y in (0, 107, 53, 80) for x in (0, 320, 107, 213)]
    return tuple(photograph.crop((x, y, x + SIDE, y + SIDE)) for x, y in places for photograph in whole())


@dataclass(frozen=True)
class Preprocessing:
    """``settings`` are a hub ``preprocessor_config.json``, ``shape`` is (channels, height, width) of what they make.

    A network of one channel is given the luminance. ``model_type`` tells the processor where the settings don't;
    ``model`` is whose they are, for messages.
    """

    settings: dict[str, Any]
    shape: Shape
    model_type: str = ""
    model: str = ""

    @property
    def note(self) -> str:
        """What to tell of settings that nobody gave, else empty."""
        assumed = "pixels are resized, with mean and deviation of one half"
        return f"{self.model} has no preprocessor_config.json: {assumed}" if self.settings == DEFAULT else ""

    def check(self) -> None:
        """Build the processor, which takes seconds the first time.

        Raises:
            StudyError: transformers has no such processor or refuses it, or it does not make images of ``shape``.
        """
        self._processor()

    def prepare(self, image: Image.Image) -> np.ndarray:
        """One image as the network wants it, float32 of shape ``shape``; raises as :meth:`check`."""
        return _made(self._processor(), image, self.shape)

    def _processor(self) -> Any:
        return _fitted(json.dumps(self.settings, sort_keys=True), self.shape, self.model_type, self.model)


def batch(count: int, preprocessing: Preprocessing, first: int = 0) -> torch.Tensor:
    """``count`` prepared crops from number ``first`` on, going round: float32, (count, channels, height, width)."""
    chosen = [(first + i) % len(crops()) for i in range(count)]
    prepared = {i: preprocessing.prepare(crops()[i]) for i in set(chosen)}
    return torch.from_numpy(np.stack([prepared[i] for i in chosen]))


@cache
def _fitted(settings: str, shape: Shape, model_type: str, model: str) -> Any:
    """The processor that makes images of ``shape``, whatever the sides of those that it is given."""
    given = json.loads(settings)
    asked = f"preprocessing of {model or 'an image'}"
    name = _name(asked, given, model_type)
    try:
        processor = _class(name).from_dict(given)
        if shape[0] == 1:
            processor.do_convert_rgb = False
            for statistic in ("image_mean", "image_std"):
                values = getattr(processor, statistic)  # of several channels, where they are the same
                if isinstance(values, list | tuple) and len(set(values)) == 1:
                    setattr(processor, statistic, [values[0]])
        found = _shapes(processor, shape)
        if len(found) == 1 and found != {shape} and len(next(iter(found))) == 3:
            _scale(processor, shape, next(iter(found)))
            found = _shapes(processor, shape)
    except Exception as error:  # whatever the library makes of a configuration that it can't follow
        why = next(iter(str(error).strip().splitlines()), type(error).__name__).partition(". ")[0]
        raise StudyError(asked, f"{name}: {why}", "mend its preprocessor_config.json, or leave it out") from None
    if found != {shape}:
        made, wanted = (" or ".join(" x ".join(map(str, one)) for one in sorted(shapes)) for shapes in (found, {shape}))
        why = f"{name} makes images of {made}, the network is fed {wanted}"
        raise StudyError(asked, why, "set input_size to a shape that it makes of every image")
    return processor


def _name(asked: str, settings: dict[str, Any], model_type: str) -> str:
    """The class that reads ``settings``, by its name without a backend."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    known: dict[str, str] = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {})
    named = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    named = named or known.get("torchvision") or known.get("pil")
    if named is None:
        why = f"it names no image_processor_type, and transformers knows none for model_type {model_type or '(none)'}"
        raise StudyError(asked, why, "add image_processor_type to its preprocessor_config.json")
    return str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")


def _class(name: str) -> Any:
    import transformers

    found = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name, None)
    if found is None:
        raise ValueError(f"transformers {transformers.__version__} has no such image processor")
    return found


def _made(processor: Any, image: Image.Image, shape: Shape) -> np.ndarray:
    found = processor(image.convert("L" if shape[0] == 1 else "RGB"), return_tensors="np")["pixel_values"]
    return np.ascontiguousarray(np.asarray(found)[0], dtype=np.float32)


def _shapes(processor: Any, shape: Shape) -> set[tuple[int, ...]]:
    """What it makes of an image that lies and of one that stands."""
    return {_made(processor, Image.new("RGB", size), shape).shape for size in ((96, 64), (64, 96))}


def _scale(processor: Any, shape: Shape, found: tuple[int, ...]) -> None:
    """Scale all lengths so that ``found`` becomes ``shape``; an edge without a direction by the larger factor."""
    high, wide = shape[1] / found[1], shape[2] / found[2]
    factors = {"height": high, "max_height": high, "width": wide, "max_width": wide}
    for name in ("size", "crop_size", "pad_size"):
        if (size := getattr(processor, name, None)) is not None:
            lengths = {key: length * factors.get(key, max(high, wide)) for key, length in dict(size).items() if length}
            setattr(processor, name, type(size)(**{key: round(length) for key, length in lengths.items()}))
