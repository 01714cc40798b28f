"""What a person sees of measuring: a line a round, on a terminal one that is written over, and one for each record."""

import os
import statistics
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO

from visionquant.bench.command import Observer
from visionquant.records.record import Record

ERASE_REST = "\x1b[K"  # of the line, ECMA-48


class Lines(Observer):
    """A line for each round: medians in milliseconds, how much is done, the time left; and for what precedes one.

    On a terminal it is one line, with what is done and left in front, that each further one is written over; when the
    ``with`` block ends, what follows begins below it.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream, self._since_s = stream or sys.stdout, time.monotonic()
        self._done, self._stands = "", False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._stands:
            print(file=self._stream, flush=True)
        self._stands = False

    def preparing(self, model: str) -> None:
        self._say(f"{model}: is loaded and converted")

    def waiting(self, model: str, left_s: float) -> None:
        self._say(f"{model}: waits for other programs to leave the cores, {left_s:.0f} s at most")

    def round(
        self, model: str, batch_size: int, number: int, planned: int, medians_ms: Mapping[str, float], left_s: float
    ) -> None:
        times = ", ".join(f"{arm} {ms:.2f}" for arm, ms in medians_ms.items()) + " ms" if medians_ms else "no figures"
        left = f"about {left_s / 60:.0f} min left" if left_s >= 30 else f"{left_s:.0f} s left"
        spent_s = time.monotonic() - self._since_s
        self._done = f"{100 * spent_s / (spent_s + max(0.0, left_s)):.0f} % done, {left}"
        self._say(f"{model} batch {batch_size}, round {number} of {max(number, planned)}: {times}", self._done)

    def _say(self, what: str, after: str = "") -> None:
        if not self._stream.isatty():
            print(what, after, sep="; " if after else "", file=self._stream, flush=True)
            return
        width = os.get_terminal_size(self._stream.fileno()).columns or 80
        shown = "; ".join(filter(None, (self._done, what)))
        print(f"\r{shown[: width - 1]}{ERASE_REST}", end="", file=self._stream, flush=True)
        self._stands = True


def line(record: Record) -> str:
    """A pair in one line: median milliseconds, or the status, by batch size."""
    parts = []
    for cell in record.cells:
        times = [ms for each in cell.times_ms(record.precision) for ms in each]
        shown = f"{statistics.median(times):.2f} ms" if times else ""
        status = "" if cell.status == "ok" else cell.status.replace("_", " ")
        parts.append(f"{cell.batch_size}: {' '.join(filter(None, (shown, status)))}")
    failure = f"; {record.failure}" if record.failure else ""
    return f"{record.model} {record.precision} ({record.settings.weights.kind} weights)  {', '.join(parts)}{failure}"
