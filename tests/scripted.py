"""Real rounds, in real processes, on a machine whose other programs are a script."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from visionquant.bench import arm, model_round, model_samples
from visionquant.bench.host import Shares

QUIET, BUSY = 0.0, 0.5


@contextmanager
def others(
    take: Callable[[str, int], float] = lambda name, slot: QUIET, kernels: bool = False
) -> Iterator[list[tuple[str, str]]]:
    """Others take this share of the cores in an arm's n-th slot (0, 1, ...); what arms were asked, in order.

    Without the ``kernels`` of reference a round has two or three processes less to start.
    """
    asked: list[tuple[str, str]] = []
    real = model_round.Processes.call

    def call(self: model_round.Processes, what: str, name: str, *given: Any, **more: Any) -> Any:
        asked.append((what, name))
        found = real(self, what, name, *given, **more)
        if what == "slot":
            found = found._replace(shares=Shares(take(name, asked.count((what, name)) - 1), QUIET, QUIET))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_round.Processes, "call", call)
        if not kernels:
            patch.setattr(model_samples, "KERNELS", ())
        yield asked


@contextmanager
def arms_that(do: Callable[[str, str], object]) -> Iterator[None]:
    """In the processes of rounds, arms that ``do`` something when they are asked for "warm", "slot" or "check"."""
    real = arm.serve

    def serve(*given: Any) -> Callable[[Any], Any]:
        answer = real(*given)

        def first(request: tuple[Any, ...]) -> Any:
            do(*request[:2])
            return answer(request)

        return first

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arm, "serve", serve)
        yield
