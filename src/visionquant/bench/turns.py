"""The order in which arms take turns: Williams squares, each followed by its reverse.

In the square every arm stands once in every place and follows every other equally often, so that what an arm leaves
behind (caches, clock, heat) falls on all alike; the reversed next block takes out what drifts at a constant rate.
Source: E. J. Williams, Australian Journal of Scientific Research A 2 (1949) 149.
"""

from collections.abc import Sequence
from typing import TypeVar

Name = TypeVar("Name")


def order(names: Sequence[Name], block: int) -> list[Name]:
    """The names in the order of a block (0, 1, ...).

    Blocks 0, 2, ... are the rows of the square, 1, 3, ... each the reverse of the one before; with an odd number of
    names both together balance what follows what.
    """
    n, row = len(names), block // 2
    first = [(k + 1) // 2 if k % 2 else n - k // 2 for k in range(n)]  # 0, 1, n - 1, 2, n - 2, ...
    turn = [names[(place + row) % n] for place in first]
    return turn[::-1] if block % 2 else turn
