"""A small data set in the format and under the names of Fashion-MNIST."""

import gzip
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from visionquant.accuracy import fashion


def publish(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Write 300 training and 60 test images into a new folder; they are known by hash, and to be had nowhere else."""
    folder.mkdir(parents=True)
    idx(folder, "train", 300, 0)
    idx(folder, "t10k", 60, 1)
    hashes = {path.stem: sha256(gzip.decompress(path.read_bytes())).hexdigest() for path in folder.iterdir()}
    assert hashes.keys() == fashion.SHA256.keys()
    patch.setattr(fashion, "SHA256", hashes)
    patch.setattr(fashion, "DEBIAN", folder / "nowhere")
    patch.setattr(fashion, "PUBLISHED", "http://127.0.0.1:9")  # nobody listens


def idx(folder: Path, part: str, count: int, seed: int) -> None:
    """Bright squares whose place tells the class, in the format of MNIST."""
    noise = np.random.default_rng(seed)
    labels = noise.permutation(count).astype(np.uint8) % 10
    images = noise.integers(0, 60, (count, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        y, x = divmod(int(label), 4)
        image[8 * y : 8 * y + 8, 7 * x : 7 * x + 7] += 190
    for kind, values, dimensions in (("images-idx3", images, 3), ("labels-idx1", labels, 1)):
        sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
        content = bytes([0, 0, 8, dimensions]) + sizes + values.tobytes()
        (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
