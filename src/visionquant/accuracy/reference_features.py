"""FP32's features of a probe, kept while it is under way, so that a rerun goes on with the same heads, and at once.

Heads are fitted on these features by one thread: with more of them sums may have another order, and the solver end
elsewhere. Two runs of one model differed in 13 of 10,000 answers.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from visionquant.core import files


class Found(NamedTuple):
    """Features (n, width) of one precision, how many layers it quantised, bytes of its weights, and the seconds."""

    features: np.ndarray
    quantized_modules: int
    stored_weights: int
    seconds: float


class ReferenceFeatures(NamedTuple):
    """Of the images that heads learn from (n, width), and of those that every precision classifies."""

    learned: np.ndarray
    test: Found


def kept(path: Path, key: str, compute: Callable[[], ReferenceFeatures]) -> ReferenceFeatures:
    """What ``path`` holds for ``key``, a digest of all that decides it; else what ``compute`` gives, kept there.

    Raises:
        StudyError: it can't be written.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            if str(held["key"]) == key:
                stored, seconds = held["facts"].tolist()
                return ReferenceFeatures(held["learned"], Found(held["test"], 0, int(stored), seconds))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # none, or of a run that was ended while it wrote: computed again
    found = compute()
    test, buffer = found.test, io.BytesIO()
    facts = np.array([test.stored_weights, test.seconds])
    np.savez(buffer, key=np.array(key), learned=found.learned, test=test.features, facts=facts)
    files.save(path, buffer.getvalue())
    return found
