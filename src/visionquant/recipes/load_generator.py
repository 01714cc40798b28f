"""Clients on loopback: a server started as a user starts it, and closed-loop load from threads.

Closed loop: each client sends its next request when it has the answer to the last one, so that the load is bounded and
a latency holds no waiting that the client made itself. The clients share the machine's cores with the server.
"""

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from visionquant.core.errors import StudyError

START_S = 180.0
STOPS_S = 30.0  # a server finishes what it took, then it is killed
BACK_OFF_S = 0.1  # before a client tries again where the server was cold or full


@dataclass(frozen=True)
class Outcome:
    """One request: when it began and ended (seconds of one clock), its status (None: no answer within the client's
    time-out), the body, which image.
    """

    begun: float
    ended: float
    status: int | None
    body: bytes
    image: int


@dataclass(frozen=True)
class Process:
    """A server in a process of its own. While it is suspended neither it nor its worker takes any processor time."""

    http: psutil.Popen
    port: int

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            found = connection.getresponse()
            return found.status, found.read()
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        """Until /ready says so; see :meth:`wait_until`."""
        self.wait_until(lambda: self.get("/ready")[0] == 200)

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Ask twenty times a second.

        Raises:
            StudyError: the server ended, or three minutes went by.
        """
        end = time.perf_counter() + START_S
        while not true():
            if self.http.poll() is not None or time.perf_counter() > end:
                raise StudyError("serving", "the server does not get ready", "run `visionquant serve` and see")
            time.sleep(0.05)

    def worker(self) -> psutil.Process:
        """The inference worker, which is spawned; the queue's process is forked."""
        children = self.http.children(recursive=True)
        return next(one for one in children if "spawn_main" in " ".join(one.cmdline()))

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Stopped, children and all, so that its idle polling does not disturb another one's figures."""
        family = [self.http, *self.http.children(recursive=True)]
        for one in family:
            one.suspend()
        try:
            yield
        finally:
            for one in family:
                one.resume()


@contextmanager
def server(root: Path, *options: str) -> Iterator[Process]:
    """``visionquant serve`` with these options in a study's folder, on a free port, until the block ends."""
    script = "from visionquant.cli import main; main()"
    command = [sys.executable, "-c", script, "serve", "--port", "0", *options]
    said = root / "serve.log"
    with (
        said.open("a", encoding="utf-8") as log,
        psutil.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8", errors="replace"
        ) as process,
    ):
        try:
            line = process.stdout.readline()
            if "http://" not in line:
                raise StudyError.of(
                    said.read_text(encoding="utf-8", errors="replace").strip().removeprefix("visionquant: ")
                )
            yield Process(process, urlsplit(line.split(": ")[1].split(",")[0]).port or 0)
        finally:
            process.terminate()
            try:
                process.wait(STOPS_S)
            except psutil.TimeoutExpired:
                process.kill()


def load(
    port: int, images: Sequence[bytes], clients: int, goes_on: Callable[[], bool], timeout_s: float
) -> list[Outcome]:
    """Every client posts one image after the other to /predict while ``goes_on()``; all outcomes, in no order."""
    outcomes: list[Outcome] = []
    bodies = [_multipart(one) for one in images]

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        while goes_on():
            at = number % len(bodies)
            number += clients
            begun = time.perf_counter()
            try:
                connection.request("POST", "/predict", bodies[at], _HEADERS)
                answer = connection.getresponse()
                found: tuple[int | None, bytes] = answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                found = None, b""
            outcomes.append(Outcome(begun, time.perf_counter(), *found, at))
            if found[0] == 503:
                time.sleep(BACK_OFF_S)
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return outcomes


def within(seconds: float) -> Callable[[], bool]:
    """True until so many seconds from now have gone by."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end


_BOUNDARY = "visionquant"
_HEADERS: Any = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


def _multipart(image: bytes) -> bytes:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n\r\n'
    return head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
