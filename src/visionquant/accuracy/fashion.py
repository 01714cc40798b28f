"""Fashion-MNIST: 70,000 grey pictures of clothes, 28 x 28 pixels, in ten classes of equal size.

The four files are taken from where Debian's package ``dataset-fashion-mnist`` puts them, else from this machine's
folder, into which they are fetched from where they are published; each must have its sha256, whoever packed it.
Source: Xiao, Rasul and Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms
(2017), arXiv 1708.07747; MIT licence.
"""

import gzip
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project

SIDE = 28
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PUBLISHED = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
TIMEOUT_S = 30.0
HEADER = {"images": 16, "labels": 8}  # bytes of an idx file before its numbers
# Of the unpacked files.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class LabelledImages(NamedTuple):
    """``images`` (n, 28, 28) from 0 to 255, ``labels`` (n,) from 0 to 9; both uint8."""

    images: np.ndarray
    labels: np.ndarray


def load(project: Project) -> tuple[LabelledImages, LabelledImages]:
    """The 60,000 training images and the 10,000 test images.

    Raises:
        StudyError: a file is nowhere to be had, or is another one.
    """
    training, test = (
        LabelledImages(_numbers(project, f"{part}-images-idx3-ubyte"), _numbers(project, f"{part}-labels-idx1-ubyte"))
        for part in ("train", "t10k")
    )
    return training, test


def _numbers(project: Project, name: str) -> np.ndarray:
    content = _content(project, name)
    kind = name.split("-")[1]
    flat = np.frombuffer(content, np.uint8, offset=HEADER[kind])
    return flat.reshape(-1, SIDE, SIDE) if kind == "images" else flat


def _content(project: Project, name: str) -> bytes:
    """The unpacked file, from wherever it has the right bytes."""
    own = project.local / "datasets" / "fashion-mnist" / f"{name}.gz"
    for found in _found(own, name):
        if sha256(found).hexdigest() == SHA256[name]:
            return found
    url = f"{PUBLISHED}/{own.name}"
    remedy = f"install Debian's dataset-fashion-mnist, or put {own.name} into {files.shown(own.parent)}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            packed: bytes = answer.read()
        found = gzip.decompress(packed)
    except OSError as error:  # also what gzip refuses
        raise StudyError(f"Fashion-MNIST: {name}", f"{url} could not be had ({error})", remedy) from None
    if sha256(found).hexdigest() != SHA256[name]:
        raise StudyError(f"Fashion-MNIST: {name}", f"{url} has another sha256 than {SHA256[name][:12]}...", remedy)
    files.save(own, packed)
    return found


def _found(own: Path, name: str) -> Iterator[bytes]:
    for path in (DEBIAN / name, DEBIAN / f"{name}.gz", own):
        if path.is_file():
            packed = path.read_bytes()
            yield gzip.decompress(packed) if path.suffix == ".gz" else packed
