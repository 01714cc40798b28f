"""What an arm leaves behind falls on all alike."""

from collections import Counter
from itertools import pairwise, permutations

import pytest

from visionquant.bench import turns


@pytest.mark.parametrize("count", [2, 3, 6, 7])
def test_every_arm_stands_in_every_place_and_follows_every_other_equally_often(count: int) -> None:
    names = [f"arm {i}" for i in range(count)]
    blocks = [turns.order(names, block) for block in range(2 * count)]
    for place in zip(*blocks, strict=True):
        assert Counter(place) == dict.fromkeys(names, 2)
    assert Counter(pair for block in blocks for pair in pairwise(block)) == dict.fromkeys(permutations(names, 2), 2)


def test_the_next_block_is_the_reverse() -> None:
    assert turns.order("abcd", 0) == ["a", "b", "d", "c"]
    assert [turns.order("abcd", block) for block in (1, 3)] == [turns.order("abcd", block)[::-1] for block in (0, 2)]
    assert turns.order("abcd", 8) == turns.order("abcd", 0)
    assert turns.order("a", 5) == ["a"]
