"""The one reader of image files that others bring: a picture as every viewer shows it, or a reason.

A file is refused by its header, before a pixel is decoded: a few kilobytes of PNG can claim a gigapixel. The limit on
the shape is there because a centre crop scales the short side up first, whatever that makes of the long one. Pillow is
told which decoders to try; it has some forty, and each is a door. 16-bit greys are refused, for Pillow would clip them
without a word. Transparency is dropped, as the hub's pipelines do.
"""

import io
from contextlib import suppress
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

ELONGATED = 32  # times as long as wide, at most
Image.MAX_IMAGE_PIXELS = None  # the caller's limit is asked instead; Pillow's own could not be raised


class Unreadable(Exception):
    """Why a file is no picture to use: of another ``kind``, too ``large``, or ``broken``."""

    def __init__(self, fault: Literal["kind", "large", "broken"], reason: str) -> None:
        super().__init__(reason)
        self.fault, self.reason = fault, reason


def read(data: bytes, formats: tuple[str, ...], pixels: int) -> Image.Image:
    """The picture in a file, upright and in RGB, of one of ``formats`` (Pillow's names) and at most so many ``pixels``.

    Raises:
        Unreadable: another kind of file, more than ``pixels``, too elongated, an animation, 16-bit grey, broken or cut.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        short, long = sorted(image.size)
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a camera's JPEG with a preview
    except UnidentifiedImageError:
        raise Unreadable("kind", f"not one of {', '.join(formats)}") from None
    except Exception as error:  # whatever a decoder makes of foreign bytes is the file's fault
        raise Unreadable("broken", f"a broken image file: {_words(error)}") from None
    if short * long > pixels:
        raise Unreadable("large", f"{image.width} x {image.height} is more than {pixels} pixels")
    if long > ELONGATED * short:
        raise Unreadable("broken", f"{image.width} x {image.height} is more than {ELONGATED} times as long as wide")
    if frames > 1:
        raise Unreadable("broken", f"an animation of {frames} frames: give one of them")
    if image.mode[0] in "IF":
        raise Unreadable("broken", "more than 8 bits of grey: convert the file first")
    try:
        image.load()
        with suppress(Exception):  # metadata that can't be read turn nothing, as in any viewer
            image.getexif()
        image.info.clear()  # Pillow keeps what it has read of them, and has nothing to write back
        return ImageOps.exif_transpose(image).convert("RGB")  # as EXIF or XMP say
    except Exception as error:  # as above: truncated data, a bad checksum, a text chunk that unpacks to megabytes
        raise Unreadable("broken", f"a broken image file: {_words(error)}") from None


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
