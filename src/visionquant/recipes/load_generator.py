"""Clients on loopback: a server started as a user starts it, and closed-loop load from threads.

Closed loop: each client sends its next request when it has the answer to the last one, so that the load is bounded and
a latency holds no waiting that the client made itself. The clients share the machine's cores with the server.
"""

import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from visionquant.core.errors import StudyError

START_S = 180.0
STOP_S = 30.0  # a server finishes what it took, then it is killed
BACK_OFF_S = 0.1  # before a client tries again where the server was cold or full
BOUNDARY = "visionquant"
HEADERS: Any = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n\r\n'.encode()


@dataclass(frozen=True)
class SentRequest:
    """When it began and ended (seconds of one clock), its status (None: no answer in time), the body, which image."""

    begun: float
    ended: float
    status: int | None
    body: bytes
    image: int


@dataclass(frozen=True)
class ServerProcess:
    """A server in a process of its own. While it is suspended neither it nor its worker takes any processor time."""

    http: psutil.Popen
    port: int

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

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

    def wait_until_ready(self) -> None:
        self.wait_until(lambda: self.get("/ready")[0] == 200)

    def worker(self) -> psutil.Process:
        """The inference worker, which is spawned; the queue's process is forked."""
        children = self.http.children(recursive=True)
        return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Stopped, children and all, so that its idle polling does not disturb another one's figures."""
        with ExitStack() as stack:
            for process in (self.http, *self.http.children(recursive=True)):
                process.suspend()
                stack.callback(process.resume)
            yield


@contextmanager
def server(root: Path, *options: str) -> Iterator[ServerProcess]:
    """``visionquant serve`` with these options in a study's folder, on a free port, until the block ends."""
    script = "from visionquant.cli import main; main()"
    command, log = [sys.executable, "-c", script, "serve", "--port", "0", *options], root / "serve.log"
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}
    with log.open("a", **text) as errors, psutil.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=errors, text=True, **text
    ) as process:  # fmt: skip
        try:
            line = process.stdout.readline()
            if "http://" not in line:
                raise StudyError.of(log.read_text(**text).strip().removeprefix("visionquant: "))
            yield ServerProcess(process, urlsplit(line.split(": ")[1].split(",")[0]).port or 0)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except psutil.TimeoutExpired:
                process.kill()


def run(
    port: int, images: Sequence[bytes], clients: int, goes_on: Callable[[], bool], timeout_s: float
) -> list[SentRequest]:
    """Every client posts one image after the other to /predict while ``goes_on()``; all requests, in no order."""
    bodies = [HEAD + image + f"\r\n--{BOUNDARY}--\r\n".encode() for image in images]

    def client(first: int) -> list[SentRequest]:
        connection, number, requests = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s), first, []
        while goes_on():
            image, begun, status, body = number % len(bodies), time.perf_counter(), None, b""
            number += clients
            try:
                connection.request("POST", "/predict", bodies[image], HEADERS)
                response = connection.getresponse()
                status, body = response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
            requests.append(SentRequest(begun, time.perf_counter(), status, body, image))
            if status == 503:
                time.sleep(BACK_OFF_S)
        connection.close()
        return requests

    with ThreadPoolExecutor(clients) as pool:
        return [request for requests in pool.map(client, range(clients)) for request in requests]


def within(seconds: float) -> Callable[[], bool]:
    """True until so many seconds from now have gone by."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end
