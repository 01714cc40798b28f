"""Image files as cameras, programs and attackers write them: seen as a viewer shows them, or refused with a reason."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from image_files import bomb, encoded
from PIL import Image, ImageOps
from starlette.exceptions import HTTPException

from visionquant.accuracy.image_folder import FORMATS, ImageFolder
from visionquant.bench import image_file, inputs
from visionquant.bench.image_file import Unreadable
from visionquant.core.errors import StudyError
from visionquant.deploy import server_routes

PIXELS = 25_000_000


def corners() -> Image.Image:
    """48 x 32 pixels, each quarter of another colour."""
    found = Image.new("RGB", (48, 32), "red")
    for box, colour in (((24, 0, 48, 16), "lime"), ((0, 16, 24, 32), "blue"), ((24, 16, 48, 32), "white")):
        found.paste(colour, box)
    return found


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_stands_as_its_metadata_say(kind: str, orientation: int) -> None:
    data = encoded(corners(), kind, exif=turned(orientation))
    found = image_file.read(data, FORMATS, PIXELS)
    assert found.size == ((48, 32) if orientation < 5 else (32, 48))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_a_photograph_on_its_side_is_seen_upright_by_the_server_and_the_evaluation(tmp_path: Path) -> None:
    """Stored lying, with orientation 6, as a telephone does; the pixels are those of the upright photograph."""
    upright = inputs.whole()[0]
    prepared = tiny.preprocessing(32)
    data = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=turned(6))
    expected = prepared.prepare(upright)
    np.testing.assert_array_equal(server_routes.decoded(data, PIXELS, prepared), expected)
    (tmp_path / "a.png").write_bytes(data)
    given = ImageFolder(tmp_path, ("a.png",), (0,), ("cat",), {})
    np.testing.assert_array_equal(prepared.prepare(given.picture("a.png")), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's, which a user sees once
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage!", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_metadata_that_can_not_be_read_turn_nothing(exif: bytes) -> None:
    data = encoded(corners(), "JPEG", exif=exif)
    assert image_file.read(data, FORMATS, PIXELS).size == (48, 32)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("PNG", "LA")],
)
def test_colours_greys_and_palettes_are_read_alike(kind: str, mode: str) -> None:
    data = encoded(inputs.crops()[0].convert(mode), kind)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(image_file.read(data, FORMATS, PIXELS)), np.asarray(expected))


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_read_without_a_warning() -> None:
    data = encoded(corners().convert("P"), transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(np.asarray(image_file.read(data, FORMATS, PIXELS)), np.asarray(corners()))


def test_a_camera_s_jpeg_with_a_preview_behind_it_is_one_picture() -> None:
    data = encoded(corners(), "MPO", save_all=True, append_images=[corners().resize((12, 8))])
    assert image_file.read(data, ("JPEG",), PIXELS).size == (48, 32)


def _animated(kind: str) -> bytes:
    return encoded(corners(), kind, save_all=True, append_images=[corners().rotate(180)])


REFUSED: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "text": (lambda: b"no image", 415, "not one of JPEG, PNG"),
    "empty": (lambda: b"", 415, "not one of JPEG, PNG"),
    "gif": (lambda: encoded(corners(), "GIF"), 415, "not one of JPEG, PNG"),
    "too many pixels": (lambda: bomb(5001, 5000), 413, "5001 x 5000 is more than 25000000 pixels"),
    "a bomb": (lambda: bomb(60_000, 60_000), 413, "60000 x 60000 is more than 25000000 pixels"),
    "no pixel": (lambda: bomb(0, 5), 415, "not one of JPEG, PNG"),
    "thin": (lambda: bomb(4000, 100), 422, "4000 x 100 is more than 32 times as long as wide"),
    "cut png": (lambda: encoded(inputs.crops()[0])[:5000], 422, "a broken image file: "),
    "cut jpeg": (lambda: encoded(inputs.crops()[0], "JPEG")[:2000], 422, "a broken image file: "),
    "animation": (lambda: _animated("PNG"), 422, "an animation of 2 frames: give one of them"),
    "16 bit": (lambda: encoded(Image.new("I;16", (9, 9))), 422, "more than 8 bits of grey: convert the file first"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_server_and_the_evaluation_refuse_alike(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, status, said = REFUSED[name]
    monkeypatch.setattr("visionquant.accuracy.image_folder.PIXELS", PIXELS)
    with pytest.raises(HTTPException) as refused:
        server_routes.decoded(make(), PIXELS, tiny.preprocessing(32))
    assert refused.value.status_code == status
    assert re.match(said, refused.value.detail)
    (tmp_path / "a.png").write_bytes(make())
    reason = refused.value.detail.replace("JPEG, PNG", "JPEG, PNG, WEBP, BMP")
    with pytest.raises(StudyError) as caught:
        ImageFolder(tmp_path, ("a.png",), (0,), ("cat",), {}).picture("a.png")
    assert str(caught.value) == f"params.yaml: evaluation.images: a.png: {reason}; remove or mend it"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (20_000, 10_000)])
def test_a_limit_above_pillow_s_own_is_the_caller_s(width: int, height: int) -> None:
    with pytest.raises(Unreadable, match=r"a broken image file"):  # its pixels were asked for, and there are none
        image_file.read(bomb(width, height), FORMATS, 300_000_000)
    with pytest.raises(Unreadable, match=f"{width} x {height} is more than 80000000 pixels"):
        image_file.read(bomb(width, height), FORMATS, 80_000_000)
