"""What was freed, given back to the system.

INT8's outlier path multiplies other shapes in every layer of every batch. oneDNN keeps something of each, and glibc
keeps the pages that were freed in between: 750 MiB for 100 images of a DINOv2-S, 10 GB in the end.
"""

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Return freed pages, where the C library can; some milliseconds."""
    with suppress(AttributeError, TypeError):  # another C library, another system
        ctypes.CDLL(None).malloc_trim(0)
