"""A file is written whole or not at all, by however many writers, and none leaves anything behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from visionquant.core.errors import StudyError
from visionquant.core.files import new_folder, save

# Stops half way through a write, with its partial file on disk.
STALLED = (
    "import os, sys\n"
    "from pathlib import Path\n"
    "from visionquant.core.files import save\n"
    "os.fsync = lambda handle: (print('half', flush=True), sys.stdin.read())\n"
    "save(Path(sys.argv[1]), 'x')\n"
)


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path, faults = tmp_path / "record.json", []

    def write(letter: str) -> None:
        for _ in range(100):
            try:
                save(path, 1000 * letter)
                assert path.read_text() in (1000 * "a", 1000 * "b")
            except Exception as error:
                faults.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert faults == []
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_goes_with_the_next_write_and_what_a_live_one_has_stays(tmp_path: Path) -> None:
    path, other = tmp_path / "record.json", tmp_path / ".record.json.other"
    other.write_text("not a partial file")
    (tmp_path / ".record.json.partial").write_text("of an earlier version of this code")
    command = [sys.executable, "-c", STALLED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        save(path, "first")
        (half,) = tmp_path.glob("*.partial")
        assert f".{writer.pid}-" in half.name
        writer.send_signal(signal.SIGKILL)
    assert half.exists()
    again = half.with_name(half.name.replace(f".{writer.pid}-", f".{os.getpid()}-"))
    again.write_text("by a process of this number in an earlier container")
    save(path, "second")
    assert sorted(tmp_path.iterdir()) == [other, path]
    assert path.read_text() == "second"


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """Of two that fill it at once one gets it, the other is told; what a killed one left goes."""
    folder = tmp_path / "exported"
    (tmp_path / ".exported.partial").mkdir()
    (tmp_path / ".exported.1-00000000-0.partial").mkdir()  # of a process that lives

    def fill(text: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        with new_folder(folder, "export to exported") as partial:
            (partial / "file").write_text(text)
            meanwhile()
            assert partial.is_dir()

    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fill("half", fail)
    assert not folder.exists()
    with pytest.raises(StudyError, match=r"^export to exported: .*; free space, or name another$"):
        fill("slow", lambda: fill("quick"))
    assert (folder / "file").read_text() == "quick"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".exported.1-00000000-0.partial", "exported"]
