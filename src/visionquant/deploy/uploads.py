"""Foreign bytes made into a prepared image, or refused with a status and a reason: nothing of it reaches a network.

An image is refused by its header, before a pixel is decoded: a few kilobytes of PNG can claim a gigapixel. The limit on
the shape is there because a centre crop scales the short side up first, whatever that makes of the long one. Pillow is
told to try its JPEG and PNG decoders alone; it has some forty, and each is a door. 16-bit greys are refused, for Pillow
would clip them without a word.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from visionquant.bench import photographs

ELONGATED = 32  # times as long as wide, at most


@dataclass(frozen=True)
class Limits:
    """What the server takes on, and how it batches. Counts, bytes, pixels and seconds.

    ``queue`` bounds the requests that are being read, wait or are answered, all together. ``batch_size`` 1 switches
    batching off; else requests of one window of ``batch_wait_s`` share a pass.
    """

    body_bytes: int = 10 * 2**20
    pixels: int = 25_000_000
    queue: int = 64
    timeout_s: float = 10.0
    batch_size: int = 8
    batch_wait_s: float = 0.005


class Refused(Exception):
    """The sender's mistake: an HTTP status from 400 to 499 and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def image(data: bytes, pixels: int, preprocessing: dict[str, Any], input_size: int) -> np.ndarray:
    """A JPEG or PNG file as the model wants it, float32 of shape (3, input_size, input_size).

    Raises:
        Refused: 415 another kind of file; 413 more than ``pixels``; 422 broken, cut, too elongated, 16-bit grey.
    """
    try:
        found = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except UnidentifiedImageError:
        raise Refused(415, "neither a JPEG nor a PNG file") from None
    except Image.DecompressionBombError:
        raise Refused(413, f"more than {pixels} pixels") from None
    except Exception as error:  # whatever a decoder makes of foreign bytes is the sender's mistake
        raise Refused(422, f"a broken image file: {_words(error)}") from None
    short, long = sorted(found.size)
    if short * long > pixels:
        raise Refused(413, f"{found.width} x {found.height} is more than {pixels} pixels")
    if not short or long > ELONGATED * short:
        raise Refused(422, f"{found.width} x {found.height} is more than {ELONGATED} times as long as wide")
    if found.mode[0] in "IF":
        raise Refused(422, "more than 8 bits of grey: convert the file first")
    try:
        return photographs.prepare(found, preprocessing, input_size)
    except Exception as error:  # as above: truncated data, a bad checksum, a text chunk that unpacks to megabytes
        raise Refused(422, f"a broken image file: {_words(error)}") from None


def tensor(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Little-endian float32 values, C order, as an array of ``shape``.

    Raises:
        Refused: 422 another number of bytes, or NaN or infinity among the values.
    """
    expected = 4 * int(np.prod(shape))
    if len(data) != expected:
        raise Refused(422, f"{len(data)} bytes, expected {expected}: float32 of shape {shape}")
    found = np.frombuffer(data, "<f4").reshape(shape)
    if not np.isfinite(found).all():
        raise Refused(422, "NaN or infinity among the values")
    return found


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
