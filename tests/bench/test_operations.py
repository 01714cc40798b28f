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


def test_attention_is_one_operation_with_and_without_a_mask_and_idle_dropout_none() -> None:
    q = torch.ones(1, 2, 4, 8)
    for mask in (None, torch.zeros(1, 2, 4, 4)):
        with torch.inference_mode(), operations.Counter() as counter:
            torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
            torch.nn.functional.dropout(q, 0.5, training=False)
        assert counter.count == 1
    layer = torch.nn.Linear(8, 8)
    with torch.inference_mode(), operations.Counter() as counter:
        layer(q)
    assert counter.count == 1
