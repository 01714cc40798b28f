"""What libraries say while a pair is prepared: their warnings and log records, counted instead of printed.

A fallback to slower code is told in such a message and nowhere else. Timed passes stay silent: what they would say at
each layer has been heard in the passes of the preparation, and saying it takes time.
"""

import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "bitsandbytes")
LONGEST = 300  # characters of a message
AT_IMPORT: Counter[str] = Counter()  # what the libraries said when this process imported them, once for all its pairs


@contextmanager
def heard() -> Iterator[Counter[str]]:
    """Collect in a counter what is said meanwhile, as "library: text"; nothing of it is printed.

    Deprecations are left out: they speak to who writes code, and of no run.
    """
    said: Counter[str] = Counter()
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger.level, logger.handlers, logger.propagate) for logger in loggers]

    def warned(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        parts = Path(filename).parts
        said[_text(next((name for name in LIBRARIES if name in parts), category.__name__), str(message))] += 1

    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
            logger.handlers, logger.propagate = [_Collector(said)], False
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            for category in (DeprecationWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", category)
            warnings.showwarning = warned
            yield said
    finally:
        for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers, logger.propagate = handlers, propagate


class _Collector(logging.Handler):
    def __init__(self, said: Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said[_text(record.name.partition(".")[0], record.getMessage())] += 1


def _text(source: str, message: str) -> str:
    """One line without addresses in memory, by which equal messages would differ."""
    line = re.sub(r"0x[0-9a-f]{6,}", "0x...", " ".join(message.split()))
    return f"{source}: {line if len(line) <= LONGEST else line[:LONGEST] + ' ...'}"
