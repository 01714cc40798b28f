"""What is said while a study is measured: a line a round where it is read later, one line on a real terminal."""

import io
import os
import pty
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from termios import TIOCSWINSZ
from typing import TextIO

import pytest

from visionquant.cli.progress import Lines

MEDIANS = {"fp32": 181.5, "int8": 200.25}


@contextmanager
def terminal(columns: int) -> Iterator[tuple[TextIO, int]]:
    """The end that a program writes to, and the one where its output appears."""
    shown, written = pty.openpty()
    ioctl(written, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(written, "w") as stream:
        yield stream, shown
    os.close(shown)


def run(stream: TextIO) -> None:
    with Lines(stream) as lines:
        lines.preparing("vit")
        lines.round("vit", 1, 1, 3, MEDIANS, 120.0)
        lines.preparing("beit")
    print("3 rounds measured", file=stream, flush=True)


def test_in_a_file_each_round_is_a_line() -> None:
    stream = io.StringIO()
    run(stream)
    assert stream.getvalue().splitlines() == [
        "vit: is loaded and converted",
        "vit batch 1, round 1 of 3: fp32 181.50, int8 200.25 ms; 0 % done, about 2 min left",
        "beit: is loaded and converted",
        "3 rounds measured",
    ]


@pytest.mark.parametrize("columns", [40, 200])
def test_on_a_terminal_one_line_is_written_over_and_fits(columns: int) -> None:
    with terminal(columns) as (stream, shown):
        run(stream)
        lines = os.read(shown, 10_000).decode().replace("\r\n", "\n").split("\n")
    over, after = lines[0].removeprefix("\r").split("\r"), lines[1:]
    assert after == ["3 rounds measured", ""]
    assert [line.removesuffix("\x1b[K") for line in over] == [
        line[: columns - 1]
        for line in (
            "vit: is loaded and converted",
            "0 % done, about 2 min left; vit batch 1, round 1 of 3: fp32 181.50, int8 200.25 ms",
            "0 % done, about 2 min left; beit: is loaded and converted",
        )
    ]


def interrupted(stream: TextIO) -> None:
    with Lines(stream) as lines:
        lines.preparing("vit")
        raise KeyboardInterrupt


def test_what_interrupts_begins_below_the_line() -> None:
    with terminal(80) as (stream, shown):
        with pytest.raises(KeyboardInterrupt):
            interrupted(stream)
        assert os.read(shown, 10_000).decode() == "\rvit: is loaded and converted\x1b[K\r\n"
