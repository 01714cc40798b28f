"""Foreign bytes made into a prepared image, or refused with a status and a reason: nothing of it reaches a network."""

from dataclasses import dataclass

import numpy as np

from visionquant.bench import image_file
from visionquant.bench.image_file import Unreadable
from visionquant.bench.preprocessing import Preprocessing

STATUS = {"kind": 415, "large": 413, "broken": 422}


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


def image(data: bytes, pixels: int, preprocessing: Preprocessing) -> np.ndarray:
    """A JPEG or PNG file as the model wants it, float32 of ``preprocessing.shape``.

    Raises:
        Refused: 415 another kind of file; 413 more than ``pixels``; 422 broken, cut or odd.
    """
    try:
        found = image_file.read(data, ("JPEG", "PNG"), pixels)
    except Unreadable as error:
        raise Refused(STATUS[error.fault], error.reason) from None
    return preprocessing.prepare(found)


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
