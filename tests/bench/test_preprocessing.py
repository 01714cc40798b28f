"""Pixels are those of the checkpoint's own processor to the last bit, or the configuration is refused in a line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from visionquant.bench import inputs, loading
from visionquant.bench.inputs import DEFAULT, Preprocessing
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings import params
from visionquant.weights import architectures, checkpoint, sources

PROJECT = Project(tiny.ROOT)
PARAMS = params.load(PROJECT)
CLIP, CONVNEXT, MOBILEVIT, VIT = (f"{name}ImageProcessor" for name in ("CLIP", "ConvNext", "MobileViT", "ViT"))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """A temple and a flower, lying and standing, and a square crop."""
    lying = inputs.whole()
    return [*lying, *(one.transpose(Image.Transpose.ROTATE_90) for one in lying), inputs.crops()[0]]


def own(folder: Path, settings: dict[str, Any], config: dict[str, Any], image: Image.Image) -> np.ndarray:
    """What the library's own processor makes of an image, opened as its documentation says."""
    from transformers import AutoImageProcessor

    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(config))
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    found: np.ndarray = processor(image, return_tensors="np")["pixel_values"][0]
    return found


@pytest.mark.parametrize("model", PARAMS.models)
def test_the_committed_models_see_what_their_own_processors_make(
    model: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    config, settings = architectures.config(PROJECT, model), architectures.preprocessing(PROJECT, model)
    assert config is not None
    assert settings is not None
    prepared = loading.preprocessing(PROJECT, model, PARAMS.models[model], None)
    for picture in pictures:
        expected = own(tmp_path, settings, config, picture)
        assert expected.shape == prepared.shape
        np.testing.assert_array_equal(prepared.prepare(picture), expected)


SQUARE = {"image_processor_type": VIT, "size": {"height": 24, "width": 24}}
CROPPED = {"image_processor_type": CLIP, "size": {"shortest_edge": 32}, "crop_size": {"height": 24, "width": 24}}
KINDS: dict[str, dict[str, Any]] = {
    "size and crop by a number": {"image_processor_type": CLIP, "size": 32, "crop_size": 24},
    "size by a number, square": {"image_processor_type": VIT, "size": 24},
    "shortest edge": CROPPED,
    "height and width": SQUARE,
    "a rectangle": {"image_processor_type": VIT, "size": {"height": 24, "width": 40}},
    "height and width, cropped": CROPPED
    | {"image_processor_type": "DeiTImageProcessor", "size": {"height": 32, "width": 40}},
    "shortest and longest edge, cropped": CROPPED | {"size": {"shortest_edge": 32, "longest_edge": 40}},
    "largest height and width, cropped": CROPPED | {"size": {"max_height": 32, "max_width": 32}},
    "a crop larger than the image": CROPPED | {"size": {"shortest_edge": 20}},
    "no resizing": CROPPED | {"do_resize": False},
    "a share to crop": {"image_processor_type": CONVNEXT, "size": {"shortest_edge": 24}, "crop_pct": 0.75},
    "a size from which nothing is cropped": {"image_processor_type": CONVNEXT, "size": {"shortest_edge": 384}},
    "channels in reverse": CROPPED | {"image_processor_type": MOBILEVIT, "do_flip_channel_order": True},
    "channels in order": CROPPED | {"image_processor_type": MOBILEVIT, "do_flip_channel_order": False},
    "labels reduced": SQUARE | {"image_processor_type": "BeitImageProcessor", "do_reduce_labels": True},
    "an offset": SQUARE
    | {"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True, "include_top": True},
    "another scale": SQUARE | {"rescale_factor": 1 / 127.5},
    "not rescaled": SQUARE | {"do_rescale": False},
    "not normalised": SQUARE | {"do_normalize": False},
    "neither": SQUARE | {"do_rescale": False, "do_normalize": False},
    "statistics of its own": SQUARE | {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    "made RGB": CROPPED | {"do_convert_rgb": True},
    "padded": CROPPED | {"do_pad": True, "pad_size": {"height": 30, "width": 30}},
    "not cropped after all": SQUARE | {"image_processor_type": "DeiTImageProcessor", "do_center_crop": False},
    "nulls": SQUARE | {"do_center_crop": None, "crop_size": None, "pad_size": None},
    "unknown keys": SQUARE | {"crop_size_in_file": 224, "do_dance": True},
    "an old name": {"feature_extractor_type": "ViTFeatureExtractor", "size": 24, "resample": 3},
    "a fast name": SQUARE | {"image_processor_type": "ViTImageProcessorFast"},
    "no name": {"size": 24},
    "levit": {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 24}, "crop_size": 24},
    **{f"resampled by {number}": SQUARE | {"resample": number} for number in range(6)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_configuration_is_followed_to_the_last_bit(
    kind: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    settings, config = KINDS[kind], {"model_type": "vit"}
    for picture in pictures:
        expected = own(tmp_path, settings, config, picture)
        prepared = Preprocessing(settings, expected.shape, "vit")
        np.testing.assert_array_equal(prepared.prepare(picture), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"image_processor_type": CLIP, "do_center_crop": False},
            "makes images of 3 x 224 x 336 or 3 x 336 x 224, the",
        ),
        (
            {"image_processor_type": "DetrImageProcessor"},
            "3 x 800 x 1200 or 3 x 1200 x 800, the network is fed 3 x 24 x 24",
        ),
        ({"image_processor_type": "LlavaNextImageProcessor"}, "makes images of"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "makes images of 256 x 768, the network is fed"),
        ({"image_processor_type": "DINOv3ViTImageProcessor"}, "requires the Torchvision library but it was not found"),
        ({"image_processor_type": "NoImageProcessor"}, "has no such image processor"),
        ({"size": 24}, "names no image_processor_type"),
        (SQUARE | {"resample": 9}, r"Unknown resampling filter \(9\)"),
        (SQUARE | {"size": {"depth": 3}}, "depth"),
        (SQUARE | {"size": "large"}, "Could not convert size input"),
        (SQUARE | {"image_mean": [0.5, 0.5]}, "mean must have 3 elements"),
        (SQUARE | {"image_std": None}, "`image_mean` and `image_std` must both be specified"),
    ],
)
def test_what_the_library_refuses_or_makes_in_no_fixed_size_is_one_line(settings: dict[str, Any], said: str) -> None:
    prepared = Preprocessing(settings, (3, 24, 24), model="mine")
    with pytest.raises(StudyError, match=f"^preprocessing of mine: .*{said}.*; ") as caught:
        prepared.prepare(inputs.crops()[0])
    assert "\n" not in str(caught.value)


def test_another_input_size_scales_all_lengths_so_that_the_same_part_is_seen(pictures: list[Image.Image]) -> None:
    from transformers import CLIPImageProcessorPil

    wide = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 24, "width": 48})
    settings = CROPPED | {"size": {"shortest_edge": 32}}
    for picture in pictures:
        (expected,) = wide(picture, return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(Preprocessing(settings, (3, 24, 48)).prepare(picture), expected)


def test_one_channel_is_the_luminance(pictures: list[Image.Image]) -> None:
    found = Preprocessing(DEFAULT, (1, 24, 40)).prepare(pictures[0])
    grey = np.asarray(pictures[0].convert("L").resize((40, 24), Image.Resampling.BILINEAR), np.float32)
    np.testing.assert_allclose(found[0], grey / 127.5 - 1, atol=1e-6)
    with pytest.raises(StudyError, match="mean must have 1 elements"):
        Preprocessing(CROPPED, (1, 24, 24)).prepare(pictures[0])
    with pytest.raises(StudyError, match="makes images of 3 x 24 x 24, the network is fed 4 x 24 x 24"):
        Preprocessing(SQUARE, (4, 24, 24)).prepare(pictures[0])


def test_a_checkpoint_s_processor_config_goes_before_its_preprocessor_config(tmp_path: Path) -> None:
    project, settings = tiny.project(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / sources.CONFIG).write_text(json.dumps({"model_type": "clip", "vision_config": {"num_channels": 1}}))
    (folder / sources.PREPROCESSOR).write_text(json.dumps(SQUARE))
    spec = settings.models["tiny-vit"]
    assert loading.preprocessing(project, "mine", spec, folder) == Preprocessing(SQUARE, (1, 32, 32), "clip", "mine")
    (folder / sources.PROCESSOR).write_text(
        json.dumps({"image_processor": CROPPED, "processor_class": "CLIPProcessor"})
    )
    assert loading.preprocessing(project, "mine", spec, folder).settings == CROPPED
    (folder / sources.PROCESSOR).write_text("[]")
    with pytest.raises(StudyError, match=r"model folder mine: processor_config\.json: no JSON object"):
        loading.preprocessing(project, "mine", spec, folder)


def test_both_files_are_fetched_and_hashed_with_the_weights(tmp_path: Path) -> None:
    raw = tiny.settings(("mine",))
    raw["study"]["weights"] = "auto"
    raw["models"]["mine"] = {"path": "mine", "input_size": 32}
    project, settings = tiny.project(tmp_path, raw)
    tiny.checkpoint(tmp_path / "mine", head=False)
    for name in (sources.PREPROCESSOR, sources.PROCESSOR):
        (tmp_path / "mine" / name).write_text("{}")
    files = {file.name for file in checkpoint.download(project, settings, "mine").files}
    assert files == {sources.CONFIG, sources.PREPROCESSOR, sources.PROCESSOR, "model.safetensors"}
