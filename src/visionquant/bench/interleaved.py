"""Calls that take turns as the arms of a round do, so that what slows the machine for a second slows all of them."""

import time
from collections.abc import Callable, Mapping

from visionquant.bench import device as devices
from visionquant.bench import turns

ROUNDS, WARMUPS = 7, 2
Times = Mapping[str, list[float]]


def take(ways: Mapping[str, Callable[[], object]], device: str, rounds: int = ROUNDS, warmups: int = WARMUPS) -> Times:
    """Seconds of every way in every round, after warm-up rounds; a GPU is waited for."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-warmups, rounds):
        for name in turns.order(list(ways), number):
            begun = time.perf_counter()
            ways[name]()
            devices.of(device).synchronize()
            if number >= 0:
                times[name].append(time.perf_counter() - begun)
    return times
