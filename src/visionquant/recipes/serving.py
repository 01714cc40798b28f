"""What HTTP and dynamic batching cost and bring, and what a killed worker does to requests; about three minutes.

Two servers of a precision, batching on and off, and the forward pass alone, without HTTP and with as many threads, take
turns under the same closed-loop load of JPEG uploads: a client sends its next request when it has the answer to the
last one, so that a latency holds no waiting that it made itself. A server is suspended while it is not its turn. Ratios
are medians over the rounds of what two variants did in the same one. p99 is over the requests of all rounds.
Clients and decoding share the servers' cores. A worker waits passively for its threads (OMP_WAIT_POLICY); run the
recipe with that set to PASSIVE, so that the forward pass alone does as well. On a GPU three processes hold it at once,
so its compute mode may not be EXCLUSIVE_PROCESS. Weights are seeded whatever the machine has: INT8 meets no outliers
then, and is the faster for it.
"""

import http.client
import io
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import psutil
import torch

from visionquant.accuracy.model_source import open_model
from visionquant.bench import image_file, inputs, torch_flags, turns
from visionquant.core.errors import StudyError
from visionquant.deploy.predictor import Predictor
from visionquant.recipes import Environment, Params, Project, Row, recipe
from visionquant.weights import checkpoint

MODEL, PRECISIONS = "deit-tiny-ultra-efficient", ("fp32", "int8")
CLIENTS, BATCH, ROUNDS, ROUND_S, TIMEOUT_S = (1, 4, 16), 8, 5, 1.2, 10.0
KILLED_CLIENTS, KILLED_S = 16, 2.0  # seconds of load before the kill, and after the recovery
TOLERANCE = 0.02  # of the spread of the logits: passes of several images add up in another order
OUTCOMES = ("right", "wrong", "explicit_errors", "refused", "hung")
START_S, STOP_S = 180.0, 30.0  # a server that has to stop finishes what it took, then it is killed
BACK_OFF_S = 0.1  # before a client tries again where the server was cold or full
HEADERS: Any = {"Content-Type": "multipart/form-data; boundary=visionquant"}
HEAD = b'--visionquant\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n\r\n'
FOOT = b"\r\n--visionquant--\r\n"


class SentRequest(NamedTuple):
    """When it began and ended (seconds of one clock), its status (None: no answer in time), the body, which image."""

    begun: float
    ended: float
    status: int | None
    body: bytes
    image: int


class ServerProcess(NamedTuple):
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
        """Ask twenty times a second. Raises StudyError: the server ended, or three minutes went by."""
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


@recipe("serving", weights="seeded")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """Rows of the forward pass alone, of servers under load, and of one whose worker is killed."""
    with _seeded_study(project, params) as (study, settings):
        checkpoint.download(study, settings, MODEL)
        source = open_model(study, settings, MODEL)
        for precision in PRECISIONS:
            torch_flags.apply(params.precisions[precision], params.protocol)
            direct = Predictor(source, precision, machine.device, BATCH)
            for figures in (*_under_load(direct), _worker_killed(direct)):
                yield {"case": "", "model": MODEL, "precision": precision, **figures}


@contextmanager
def _seeded_study(project: Project, params: Params) -> Iterator[tuple[Project, Params]]:
    """A copy of the study's settings and architectures, with seeded weights, in a folder of its own."""
    seeded = params.model_copy(update={"study": params.study.model_copy(update={"weights": "seeded"})})
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shutil.copy2(project.params, root / "params.yaml")
        shutil.copytree(project.architectures / MODEL, root / "data" / "architectures" / MODEL)
        yield Project(root), seeded


@contextmanager
def _server(direct: Predictor, batching: bool) -> Iterator[ServerProcess]:
    """``visionquant serve`` with ``direct``'s model and precision, on a free port, until the block ends."""
    script, root = "from visionquant.cli import main; main()", direct.source.project.root
    options = ("--model", MODEL, "--precision", direct.precision, "--batch-size", str(BATCH if batching else 1))
    command = [sys.executable, "-c", script, "serve", "--port", "0", *options, "--timeout-s", str(TIMEOUT_S)]
    log = root / "serve.log"
    with (
        log.open("ab") as errors,
        psutil.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8") as process,
    ):
        try:
            line = process.stdout.readline()
            if "http://" not in line:
                text = log.read_text(encoding="utf-8", errors="replace")
                raise StudyError.of(text.strip().removeprefix("visionquant: "))
            yield ServerProcess(process, urlsplit(line.split(": ")[1].split(",")[0]).port or 0)
        finally:
            process.terminate()
            for left in psutil.wait_procs([process], STOP_S)[1]:
                left.kill()


def _under_load(direct: Predictor) -> Iterator[Row]:
    """Two rows of the forward pass alone, and one for each number of clients with batching on and off."""
    images = _jpegs()
    forward: dict[int, list[float]] = {1: [], BATCH: []}
    sent: dict[tuple[str, int], list[list[SentRequest]]] = {(on, n): [] for n in CLIENTS for on in ("on", "off")}
    with ExitStack() as stack:
        servers = {on: stack.enter_context(_server(direct, on == "on")) for on in ("on", "off")}
        for server in servers.values():
            server.wait_until_ready()
        every = [turn for number in range(ROUNDS) for turn in turns.order(("on", "off", "direct"), number)]
        for n, turn in product(CLIENTS, every):
            with ExitStack() as others:
                for on in servers.keys() - {turn}:
                    others.enter_context(servers[on].suspended())
                if turn == "direct":
                    for size, rates in forward.items():
                        rates.append(_forward_rate(direct, size))
                else:
                    sent[turn, n].append(load(servers[turn].port, images, n, within(ROUND_S)))
    for size, rates in forward.items():
        yield {"case": "direct", "batching": f"batch {size}", "images_per_s": median(rates)}
    for place, n in enumerate(CLIENTS):
        alone = forward[1][place * ROUNDS : (place + 1) * ROUNDS]
        off = [_rate(requests) for requests in sent["off", n]]
        for on in ("on", "off"):
            figures = _summary(sent[on, n], alone, off if on == "on" else None)
            yield {"case": "load", "batching": on, "clients": n, **figures}


def _summary(rounds: list[list[SentRequest]], alone: list[float], off: list[float] | None) -> Row:
    """Figures of the rounds, beside the rates of the forward pass alone and of the server without batching in them."""
    requests = [request for each in rounds for request in each]
    right = [request for request in requests if request.status == 200]
    hung = sum(request.status is None for request in requests)
    if not right:
        raise StudyError("serving", f"none of {len(requests)} requests was answered", "end other work, run again")
    ms = np.array([(request.ended - request.begun) * 1e3 for request in right])
    passes = sum(1 / json.loads(request.body)["batch_size"] for request in right)
    rates = [_rate(each) for each in rounds]
    counts: Row = {"requests": len(requests), "explicit_errors": len(requests) - len(right) - hung, "hung": hung}
    return counts | {
        "images_per_s": median(rates),
        "p50_ms": float(np.percentile(ms, 50)),
        "p99_ms": float(np.percentile(ms, 99)),
        "mean_batch": len(right) / passes,
        "of_direct": median(a / b for a, b in zip(rates, alone, strict=True)),
        "of_batching_off": median(a / b for a, b in zip(rates, off, strict=True)) if off else None,
    }


def _worker_killed(direct: Predictor) -> Row:
    """Kill the worker under load and count what became of every request."""
    images, stop, prepare = _jpegs(), threading.Event(), direct.source.preprocessing.prepare
    expected = direct.batch_predict(np.stack([prepare(image_file.read(each, ("JPEG",), 10**9)) for each in images]))
    with _server(direct, True) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until_ready()
        sending = pool.submit(load, server.port, images, KILLED_CLIENTS, lambda: not stop.is_set())
        try:
            time.sleep(KILLED_S)
            server.worker().kill()
            killed = time.perf_counter()
            server.wait_until(lambda: b"restarts_total 1.0" in server.get("/metrics")[1])
            server.wait_until_ready()
            recovered_s = time.perf_counter() - killed
            time.sleep(KILLED_S)
        finally:
            stop.set()
        outcomes = [_outcome(request, expected) for request in sending.result()]
    counts: Row = {name: outcomes.count(name) for name in OUTCOMES}
    row: Row = {"case": "worker killed", "batching": "on", "clients": KILLED_CLIENTS, "recovered_s": recovered_s}
    return row | {"requests": len(outcomes), "accepted": len(outcomes) - outcomes.count("refused")} | counts


def _outcome(request: SentRequest, expected: torch.Tensor) -> str:
    """What became of a request; refused ones were never accepted: the server was cold or full and said so at once."""
    if request.status is None:
        return "hung"
    answer = json.loads(request.body)
    if request.status != 200:
        cold = "no warm worker" in answer["error"] or "waiting already" in answer["error"]
        return "refused" if request.status == 503 and cold else "explicit_errors"
    logits, best = expected[request.image], answer["classes"][0]
    allowed, own = TOLERANCE * float(logits.max() - logits.min()), float(logits[best["index"]])
    right = abs(best["logit"] - own) <= allowed and own >= float(logits.max()) - allowed
    return "right" if right else "wrong"


def _forward_rate(direct: Predictor, size: int) -> float:
    """Images per second of the forward pass and the head, over a third of a round."""
    batch = inputs.batch(size, direct.source.preprocessing)
    goes_on, begun, count = within(ROUND_S / 3), time.perf_counter(), 0
    while goes_on() or not count:
        direct.batch_predict(batch)
        count += size
    return count / (time.perf_counter() - begun)


def _rate(requests: list[SentRequest]) -> float:
    """Right answers per second of a round, from its first request to its last answer."""
    seconds = max(request.ended for request in requests) - min(request.begun for request in requests)
    return sum(request.status == 200 for request in requests) / seconds


def _jpegs() -> list[bytes]:
    """Eight photographs as JPEG files of 320 pixels a side."""
    files = [io.BytesIO() for _ in range(8)]
    for file, crop in zip(files, inputs.crops(), strict=False):
        crop.save(file, "JPEG", quality=90)
    return [file.getvalue() for file in files]


def load(port: int, images: Sequence[bytes], clients: int, goes_on: Callable[[], bool]) -> list[SentRequest]:
    """Every client posts one image after the other to /predict while ``goes_on()``; all requests, in no order."""
    bodies = [HEAD + image + FOOT for image in images]

    def client(first: int) -> list[SentRequest]:
        connection, requests = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * TIMEOUT_S), []
        number = first
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
