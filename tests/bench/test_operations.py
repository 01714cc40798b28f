from typing import Any

import pytest
import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity

from visionquant.bench import op_count


def test_operations_are_counted_and_views_are_not() -> None:
    a = torch.ones(4, 4)
    with op_count.OperationCounter() as counter:
        (a.t().view(2, 2, 4) + 1).transpose(0, 1).relu_()
    assert counter.count == 2  # add and relu_


@pytest.mark.parametrize(
    ("spans", "length"),
    [([], 0.0), ([(0, 2), (3, 5)], 4.0), ([(3, 5), (0, 4)], 5.0), ([(0, 10), (2, 3), (9, 12)], 12.0)],
)
def test_overlapping_kernels_count_once(spans: list[tuple[float, float]], length: float) -> None:
    assert op_count.covered(spans) == length


def test_attention_is_one_operation_with_and_without_a_mask_and_idle_dropout_none() -> None:
    q = torch.ones(1, 2, 4, 8)
    for mask in (None, torch.zeros(1, 2, 4, 4)):
        with torch.inference_mode(), op_count.OperationCounter() as counter:
            torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
            torch.nn.functional.dropout(q, 0.5, training=False)
        assert counter.count == 1
    layer = torch.nn.Linear(8, 8)
    with torch.inference_mode(), op_count.OperationCounter() as counter:
        layer(q)
    assert counter.count == 1


def test_a_recorded_pass_is_the_second_and_its_step_is_no_work() -> None:
    """The real profiler, on a CPU; twice, for a cycle left open crashes the next."""
    layer, images = torch.nn.Linear(8, 8), torch.ones(4, 8)
    passes: list[int] = []

    def step(i: int) -> None:
        passes.append(i)
        layer(images)
        if len(passes) % 2:
            layer(images)  # the first pass does more

    spans = [op_count.recorded(step, ProfilerActivity.CPU, DeviceType.CPU) for _ in range(2)]
    assert passes == [0] * 4
    assert len(spans[0]) == len(spans[1]) > 0
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as found:
        layer(images)
    assert len(spans[0]) == len(found.events())


@pytest.mark.parametrize(
    ("passes", "launch"),
    [
        ([[(0, 2000), (1000, 3000)], [(0, 1000), (2000, 3000)]], (2.0, 2)),
        ([[(0, 1000)], [(0, 1000), (2000, 3000)]], None),  # a record was lost
        ([[], []], None),
    ],
)
def test_kernels_are_told_where_two_passes_agree(
    monkeypatch: pytest.MonkeyPatch, passes: list[Any], launch: tuple[float, int] | None
) -> None:
    told = iter(passes)
    monkeypatch.setattr(op_count, "recorded", lambda *_: next(told))
    found = op_count.profile(lambda i: None)
    assert (found and (found.gpu_busy_ms, found.kernels)) == launch
