"""INT8 products are compared with exact ones before they count, and weights have 7 bit where sums would saturate."""

import numpy as np
import pytest

from visionquant.bench.backends import integer_product
from visionquant.core import processors


def exact(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    product: np.ndarray = left.astype(np.int64) @ right.astype(np.int64)
    return product


def saturating(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """As before VNNI: pairs of products are added in 16 bit."""
    products = left.astype(np.int32)[:, :, None] * right.astype(np.int32)[None]
    pairs = products[:, ::2] + products[:, 1::2]
    total: np.ndarray = pairs.clip(-(2**15), 2**15 - 1).sum(1)
    return total


def test_an_exact_product_passes_with_weights_of_8_bit_and_of_7() -> None:
    largest = []

    def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        largest.append((int(left.max()), int(np.abs(right.astype(np.int16)).max())))
        return exact(left, right)

    for reduce_range in (False, True):
        integer_product.require_exact("a library", product, reduce_range)
    assert largest == [(255, 127), (255, 64)]  # it was asked, for numbers as large as they get


def test_a_product_that_saturates_is_told_and_7_bit_weights_mend_it() -> None:
    with pytest.raises(NotImplementedError, match=r"\d+ of 768 integer products of a library are wrong on this proc"):
        integer_product.require_exact("a library", saturating, reduce_range=False)
    integer_product.require_exact("a library", saturating, reduce_range=True)


@pytest.mark.parametrize(
    ("isa", "reduced"), [(("avx2",), True), (("avx2", "avx512f"), True), (("avx512_vnni",), False), (("i8mm",), False)]
)
def test_auto_asks_the_processor(isa: tuple[str, ...], reduced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "isa", lambda: isa)
    assert integer_product.keeps_7_bit("auto") is reduced
    assert integer_product.keeps_7_bit(True) is True
    assert integer_product.keeps_7_bit(False) is False
