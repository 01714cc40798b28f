import pytest
import torch

from visionquant.bench import operations


def test_operations_are_counted_and_views_are_not() -> None:
    a = torch.ones(4, 4)
    with operations.Counter() as counter:
        (a.t().view(2, 2, 4) + 1).transpose(0, 1).relu_()
    assert counter.count == 2  # add and relu_


@pytest.mark.parametrize(
    ("spans", "length"),
    [([], 0.0), ([(0, 2), (3, 5)], 4.0), ([(3, 5), (0, 4)], 5.0), ([(0, 10), (2, 3), (9, 12)], 12.0)],
)
def test_overlapping_kernels_count_once(spans: list[tuple[float, float]], length: float) -> None:
    assert operations.covered(spans) == length
