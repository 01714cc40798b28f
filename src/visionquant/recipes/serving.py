"""What HTTP and dynamic batching cost and bring, and what a killed worker does to requests; about three minutes.

Two servers of a precision, batching on and off, and the forward pass alone, without HTTP and with as many threads, take
turns under the same closed-loop load of JPEG uploads; a server is suspended while it is not its turn. Decoding and the
clients share its cores. Ratios are medians over the rounds of what two variants did in the same one. p99 is over the
requests of all rounds: where they are few, it is their worst. The server's worker waits passively for its threads
(OMP_WAIT_POLICY); run the recipe with that set to PASSIVE, so that the forward pass alone does as well. On a GPU three
processes hold it at once, so its compute mode may not be EXCLUSIVE_PROCESS. Weights are seeded whatever the machine
has: INT8 meets no outliers then, and is the faster for it.
"""

import io
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch

from visionquant.accuracy.model_source import open_model
from visionquant.bench import image_file, inputs, interleave, torch_flags
from visionquant.core.errors import StudyError
from visionquant.deploy.predictor import Predictor
from visionquant.recipes import Environment, Params, Project, Row, load_generator, recipe
from visionquant.recipes.load_generator import SentRequest, ServerProcess
from visionquant.weights import checkpoint

MODEL = "deit-tiny-ultra-efficient"
PRECISIONS = ("fp32", "int8")
CLIENTS = (1, 4, 16)
ROUNDS = 5
ROUND_S = 1.2
BATCH = 8
TIMEOUT_S = 10.0
KILLED_CLIENTS, KILLED_S = 16, 2.0  # seconds of load before the kill, and after the recovery
TOLERANCE = 0.02  # of the spread of the logits: passes of several images add up in another order
OUTCOMES = ("right", "wrong", "explicit_errors", "refused", "hung")


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


def _server(direct: Predictor, batching: bool) -> AbstractContextManager[ServerProcess]:
    size = str(BATCH if batching else 1)
    options = ("--model", MODEL, "--precision", direct.precision, "--batch-size", size, "--timeout-s", str(TIMEOUT_S))
    return load_generator.server(direct.source.project.root, *options)


def _under_load(direct: Predictor) -> Iterator[Row]:
    """Two rows of the forward pass alone, and one for each number of clients with batching on and off."""
    images = _jpegs()
    forward: dict[int, list[float]] = {1: [], BATCH: []}
    sent: dict[tuple[str, int], list[list[SentRequest]]] = {(on, n): [] for n in CLIENTS for on in ("on", "off")}
    with ExitStack() as stack:
        running = {on: stack.enter_context(_server(direct, on == "on")) for on in ("on", "off")}
        for each in running.values():
            each.wait_until_ready()
        for n in CLIENTS:
            for _, turn in interleave.turns(("on", "off", "direct"), ROUNDS):
                with ExitStack() as others:
                    for on, each in running.items():
                        if on != turn:
                            others.enter_context(each.suspended())
                    if turn == "direct":
                        for size, rates in forward.items():
                            rates.append(_forward_rate(direct, size))
                    else:
                        goes_on, port = load_generator.within(ROUND_S), running[turn].port
                        sent[turn, n].append(load_generator.run(port, images, n, goes_on, 2 * TIMEOUT_S))
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
    return {
        "requests": len(requests),
        "explicit_errors": len(requests) - len(right) - hung,
        "hung": hung,
        "images_per_s": median(rates),
        "p50_ms": float(np.percentile(ms, 50)),
        "p99_ms": float(np.percentile(ms, 99)),
        "mean_batch": len(right) / passes,
        "of_direct": median(a / b for a, b in zip(rates, alone, strict=True)),
        "of_batching_off": median(a / b for a, b in zip(rates, off, strict=True)) if off else None,
    }


def _worker_killed(direct: Predictor) -> Row:
    """Kill the worker under load and count what became of every request."""
    images, stop = _jpegs(), threading.Event()
    pictures = [image_file.read(image, ("JPEG",), 10**9) for image in images]
    expected = direct.batch_predict(np.stack([direct.source.preprocessing.prepare(each) for each in pictures]))
    with _server(direct, True) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until_ready()
        load = (server.port, images, KILLED_CLIENTS, lambda: not stop.is_set(), 2 * TIMEOUT_S)
        sending = pool.submit(load_generator.run, *load)
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
    counts = {name: outcomes.count(name) for name in OUTCOMES}
    row: Row = {"case": "worker killed", "batching": "on", "clients": KILLED_CLIENTS, "recovered_s": recovered_s}
    return row | {"requests": len(outcomes), "accepted": len(outcomes) - counts["refused"], **counts}


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
    goes_on, begun, count = load_generator.within(ROUND_S / 3), time.perf_counter(), 0
    while goes_on() or not count:
        direct.batch_predict(batch)
        count += size
    return count / (time.perf_counter() - begun)


def _rate(requests: list[SentRequest]) -> float:
    """Right answers per second of a round, from its first request to its last answer."""
    right = sum(request.status == 200 for request in requests)
    return right / (max(request.ended for request in requests) - min(request.begun for request in requests))


def _jpegs() -> list[bytes]:
    """Eight photographs as JPEG files of 320 pixels a side."""
    files = [io.BytesIO() for _ in range(8)]
    for file, crop in zip(files, inputs.crops(), strict=False):
        crop.save(file, "JPEG", quality=90)
    return [file.getvalue() for file in files]
