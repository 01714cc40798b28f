"""Which replicate comes when: the pairs of one model take turns, in a seeded order that is drawn anew every round.

What disturbs the machine for a while then disturbs all precisions alike. A pair that is measured alone has no turns to
take; the drift sentinel carries its comparisons.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence

from visionquant.bench.cell_run import Course
from visionquant.bench.gpu_telemetry import Sampler
from visionquant.bench.pair_run import Session
from visionquant.records.cell import Cell


class TimeIsUp(Exception):
    """The command's time is spent; what is finished is written down."""


OnCell = Callable[[str, str, Cell], None]
OnReplicate = Callable[[str, str, Course], None]


def run(
    sessions: Sequence[Session],
    seed: int,
    positions: Iterator[int] | None = None,
    sampler: Sampler | None = None,
    until_s: float | None = None,
    on_cell: OnCell = lambda model, precision, found: None,
    on_replicate: OnReplicate = lambda model, precision, course: None,
) -> None:
    """Measure what prepared sessions lack, batch size by batch size, the smallest first.

    Args:
        seed: of the order.
        positions: the running number of the command's replicates.
        until_s: when to begin no further replicate (``time.monotonic()``).
        on_cell: told of every new cell.
        on_replicate: told of every replicate that did not finish its cell.

    Raises:
        TimeIsUp: it is past ``until_s``.
    """
    positions = itertools.count() if positions is None else positions
    order = random.Random(seed)
    for batch_size in sorted({one for session in sessions for one in session.asked}):
        group = [session for session in sessions if session.lacks(batch_size)]
        under_way: list[tuple[Session, Course]] = []
        for session in group:
            begun = session.begin(batch_size)
            if isinstance(begun, Cell):
                on_cell(*session.name, begun)
            else:
                under_way.append((session, begun))
        while under_way:
            names = [session.record.precision for session, _ in under_way]
            for turn in order.sample(under_way, len(under_way)):
                if until_s is not None and time.monotonic() >= until_s:
                    raise TimeIsUp
                session, course = turn
                others = tuple(name for name in names if name != session.record.precision)
                cell = session.step(course, next(positions), others, sampler)
                if cell is None:
                    on_replicate(*session.name, course)
                else:
                    under_way.remove(turn)
                    on_cell(*session.name, cell)
