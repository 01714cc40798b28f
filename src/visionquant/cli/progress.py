"""What a person sees of measuring: a line a round, and a line for each record."""

import statistics
import time
from collections.abc import Mapping

from visionquant.bench.command import Observer
from visionquant.records.record import Record


class Lines(Observer):
    """A line for each round: medians in milliseconds, how much is done, the time left; and for what precedes one."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()

    def preparing(self, model: str) -> None:
        _say(f"{model}: is loaded and converted")

    def waiting(self, model: str, left_s: float) -> None:
        _say(f"{model}: waits for other programs to leave the cores, {left_s:.0f} s at most")

    def round(
        self, model: str, batch_size: int, number: int, planned: int, medians_ms: Mapping[str, float], left_s: float
    ) -> None:
        times = ", ".join(f"{arm} {ms:.2f}" for arm, ms in medians_ms.items()) + " ms" if medians_ms else "no figures"
        left = f"about {left_s / 60:.0f} min left" if left_s >= 30 else f"{left_s:.0f} s left"
        spent_s = time.monotonic() - self._since_s
        done = f"{100 * spent_s / (spent_s + max(0.0, left_s)):.0f} % done"
        _say(f"{model} batch {batch_size}, round {number} of {max(number, planned)}: {times}; {done}, {left}")


def _say(line: str) -> None:
    print(line, flush=True)


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
