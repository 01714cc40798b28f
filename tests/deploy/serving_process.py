"""A real server in a process of its own, on loopback, started as a user starts it."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests


class Running:
    """``url`` is where it listens; ``process`` is the HTTP side, whose children are the queue and the worker."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def ready(self) -> bool:
        return requests.get(f"{self.url}/ready", timeout=60).status_code == 200

    def shown(self, metric: str) -> float:
        """What /metrics says of one series."""
        lines = requests.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{metric} "))

    def wait_until(self, true: Callable[[], bool], seconds: float = 300.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def worker(self) -> psutil.Process:
        """The inference worker: the one that was spawned, not forked."""
        (found,) = [one for one in self.family() if "spawn_main" in " ".join(one.cmdline())]
        return found


def start(root: Path, *options: str) -> Running:
    command = "from visionquant.cli import main; main()"
    with (root / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", command, "serve", "--port", "0", *options],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert ": http://127.0.0.1:" in line, (root / "stderr").read_text()
    return Running(process, line.split(": ")[1].split(",")[0])


@contextmanager
def running(root: Path, *options: str) -> Iterator[Running]:
    found = start(root, *options)
    try:
        yield found
    finally:
        family = found.family() if found.process.poll() is None else []
        found.process.terminate()
        try:
            found.process.wait(30)
        except subprocess.TimeoutExpired:
            found.process.kill()
        for one in family:
            if one.is_running():
                one.kill()
        assert found.process.stdout is not None
        found.process.stdout.close()
