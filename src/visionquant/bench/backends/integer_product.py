"""Whether a library's INT8 products are exact on this processor.

Instructions before VNNI add two products of an unsigned and a signed 8-bit number in 16 bit, where they saturate, and
no error is raised. Weights of 7 bit can't reach that. Which instructions a library picks is its own affair, so a
product is made with the library itself, and compared with integer arithmetic, before a row that rests on it counts.
Sources: onnxruntime issues 5849 and 14642, pytorch issue 136746.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from visionquant.core import processors

EXACT = ("avx512_vnni", "amx_int8", "i8mm")  # instruction sets that add in 32 bit
WHOLE, REDUCED = 127, 64  # the largest magnitude of a weight of 8 bit, and of 7
SHAPE = 24, 96, 32  # rows, depth, columns
Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


def keeps_7_bit(reduce_range: bool | Literal["auto"] = "auto") -> bool:
    """Whether weights are to be of 7 bit; ``auto``: where this processor does not add products in 32 bit."""
    return not set(EXACT) & set(processors.isa()) if reduce_range == "auto" else reduce_range


def require_exact(library: str, product: Product, reduce_range: bool) -> None:
    """Compare ``product`` of uint8 (rows, depth) and int8 (depth, columns) with exact arithmetic.

    Raises:
        NotImplementedError: it differs, so that the cell is unsupported.
    """
    rows, depth, columns = SHAPE
    largest, numbers = REDUCED if reduce_range else WHOLE, np.random.default_rng(0)
    left = numbers.integers(0, 256, (rows, depth), np.uint8)
    right = numbers.integers(-largest, largest, (depth, columns), np.int8, endpoint=True)
    left[0], right[:, 0], right[:, 1] = 255, largest, -largest  # sums that are as large as they get
    exact = left.astype(np.int64) @ right.astype(np.int64)
    if wrong := int((product(left, right) != exact).sum()):
        found = f"{wrong} of {exact.size} integer products of {library} are wrong on this processor"
        raise NotImplementedError(f"{found} ({processors.name()}), where sums of 16 bit saturate")
