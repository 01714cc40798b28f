"""The recipe ``serving``: what HTTP and dynamic batching cost and bring, and what a killed worker does to requests.

Two servers of a precision, batching on and off, take turns under the same closed-loop load of JPEG uploads, the other
one suspended; the forward pass alone, without HTTP, is timed in every round beside them, with as many threads. Decoding
and the clients share its cores. Ratios are medians over the rounds of what two contestants did in the same one. p99 is
over the requests of all rounds: where they are few, it is their worst. The server's worker waits passively for its
threads (OMP_WAIT_POLICY); run the recipe with that set to PASSIVE, so that the forward pass alone does as well.

On a GPU three processes hold it at once, so its compute mode may not be EXCLUSIVE_PROCESS.

Weights are seeded, whatever the machine has, so the run needs no download; INT8 meets no outliers then, which trained
weights would give it, and is the faster for it.
"""

import io
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch

from visionquant.bench import inputs, torch_flags
from visionquant.core.errors import StudyError
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.deploy import predictor
from visionquant.deploy.predictor import QuantizedModelServer
from visionquant.deploy.server import uploads
from visionquant.recipes import load_generator
from visionquant.recipes.load_generator import Outcome
from visionquant.records.recipe import Recipe, Value
from visionquant.settings.params import Params
from visionquant.weights import hub

MODEL = "deit-tiny-ultra-efficient"
PRECISIONS = ("fp32", "int8")
CLIENTS = (1, 4, 16)
ROUNDS = 5
ROUND_S = 1.2
BATCH = 8
TIMEOUT_S = 10.0
KILLED_CLIENTS, KILLED_S = 16, 2.0  # seconds of load before the kill, and after the recovery
TOLERANCE = 0.02  # of the spread of the logits: passes of several images add up in another order
KEYS = (
    "case", "model", "precision", "batching", "clients", "requests", "images_per_s", "p50_ms", "p99_ms", "mean_batch",
    "of_direct", "of_batching_off", "accepted", "right", "wrong", "explicit_errors", "refused", "hung", "recovered_s",
)  # fmt: skip


def run(project: Project, params: Params, machine: Environment) -> Recipe:
    """Measure on this machine; about three minutes.

    Raises:
        StudyError: a server does not start, or a precision can't be put into effect.
    """
    begun = time.perf_counter()
    torch_flags.begin(machine.device)
    rows: list[dict[str, Value]] = []
    with _seeded_study(project, params) as (study, settings):
        hub.download(study, settings, MODEL)
        for precision in PRECISIONS:
            torch_flags.apply(params.precisions[precision], params.protocol)
            direct = QuantizedModelServer(predictor.model(study, settings, MODEL, precision, machine.device), BATCH)
            rows += _loads(study, direct)
            rows.append(_killed(study, direct))
    return Recipe(
        name="serving",
        command="visionquant recipe serving",
        weights="seeded",
        environment=machine,
        elapsed_s=time.perf_counter() - begun,
        rows=tuple({key: row.get(key) for key in KEYS} for row in rows),
    )


@contextmanager
def _seeded_study(project: Project, params: Params) -> Iterator[tuple[Project, Params]]:
    """A copy of the study's settings and architectures, with seeded weights, in a folder of its own."""
    seeded = params.model_copy(update={"study": params.study.model_copy(update={"weights": "seeded"})})
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shutil.copy2(project.params, root / "params.yaml")
        shutil.copytree(project.architectures / MODEL, root / "data" / "architectures" / MODEL)
        yield Project(root), seeded


def _options(direct: QuantizedModelServer, batching: bool) -> tuple[str, ...]:
    size = BATCH if batching else 1
    named = ("--model", direct.subject.name, "--precision", direct.subject.precision)
    return (*named, "--batch-size", str(size), "--timeout-s", str(TIMEOUT_S))


def _loads(study: Project, direct: QuantizedModelServer) -> list[dict[str, Value]]:
    """One row a number of clients with batching on and off, and two of the forward pass alone."""
    images = _jpegs()
    forward: dict[int, list[float]] = {1: [], BATCH: []}
    found: dict[tuple[bool, int], list[list[Outcome]]] = {(on, n): [] for on in (True, False) for n in CLIENTS}
    with (
        load_generator.server(study.root, *_options(direct, True)) as on,
        load_generator.server(study.root, *_options(direct, False)) as off,
    ):
        pair = {True: (on, off), False: (off, on)}
        for server in (on, off):
            server.wait_until_ready()
        for n in CLIENTS:
            for turn in range(ROUNDS):
                for batching in (True, False) if turn % 2 else (False, True):
                    mine, other = pair[batching]
                    with other.suspended():
                        goes_on = load_generator.within(ROUND_S)
                        found[batching, n].append(load_generator.load(mine.port, images, n, goes_on, 2 * TIMEOUT_S))
                with on.suspended(), off.suspended():
                    for size, speeds in forward.items():
                        speeds.append(_direct(direct, size))
    rows = [_row(direct, "direct", batching=f"batch {size}", images_per_s=median(r)) for size, r in forward.items()]
    for place, n in enumerate(CLIENTS):
        alone = forward[1][place * ROUNDS : (place + 1) * ROUNDS]
        off_rates = [_rate(one) for one in found[False, n]]
        for batching in (True, False):
            row = _summary(found[batching, n], alone, off_rates if batching else None)
            rows.append(_row(direct, "load", batching="on" if batching else "off", clients=n, **row))
    return rows


def _summary(rounds: list[list[Outcome]], alone: list[float], off: list[float] | None) -> dict[str, Value]:
    """Figures of the rounds, beside the rates of the forward pass alone and of the server without batching in them."""
    everything = [one for part in rounds for one in part]
    right = [one for one in everything if one.status == 200]
    hung = sum(one.status is None for one in everything)
    if not right:
        raise StudyError(
            "serving", f"none of {len(everything)} requests was answered", "end other work here, run again"
        )
    ms = np.array([(one.ended - one.begun) * 1e3 for one in right])
    passes = sum(1 / json.loads(one.body)["batch_size"] for one in right)
    rates = [_rate(one) for one in rounds]
    return {
        "requests": len(everything),
        "explicit_errors": len(everything) - len(right) - hung,
        "hung": hung,
        "images_per_s": median(rates),
        "p50_ms": float(np.percentile(ms, 50)),
        "p99_ms": float(np.percentile(ms, 99)),
        "mean_batch": len(right) / passes,
        "of_direct": median(a / b for a, b in zip(rates, alone, strict=True)),
        "of_batching_off": median(a / b for a, b in zip(rates, off, strict=True)) if off else None,
    }


def _killed(study: Project, direct: QuantizedModelServer) -> dict[str, Value]:
    """Kill the worker under load and count what became of every request."""
    images = _jpegs()
    expected = direct.batch_predict(
        np.stack([uploads.image(one, 10**9, direct.subject.preprocessing) for one in images])
    )
    stop = threading.Event()
    with load_generator.server(study.root, *_options(direct, True)) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until_ready()
        sending = pool.submit(
            load_generator.load, server.port, images, KILLED_CLIENTS, lambda: not stop.is_set(), 2 * TIMEOUT_S
        )
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
        outcomes = sending.result()
    verdicts = [_verdict(one, expected) for one in outcomes]
    counts = {name: verdicts.count(name) for name in ("right", "wrong", "explicit_errors", "refused", "hung")}
    return _row(
        direct,
        "worker killed",
        batching="on",
        clients=KILLED_CLIENTS,
        requests=len(verdicts),
        accepted=len(verdicts) - counts["refused"],
        recovered_s=recovered_s,
        **counts,
    )


def _verdict(one: Outcome, expected: torch.Tensor) -> str:
    """What became of a request; refused ones were never accepted: the server was cold or full and said so at once."""
    if one.status is None:
        return "hung"
    said = json.loads(one.body)
    if one.status != 200:
        refused = one.status == 503 and ("no warm worker" in said["error"] or "waiting already" in said["error"])
        return "refused" if refused else "explicit_errors"
    logits = expected[one.image]
    named, allowed = said["classes"][0], TOLERANCE * float(logits.max() - logits.min())
    own = float(logits[named["index"]])
    right = abs(named["logit"] - own) <= allowed and own >= float(logits.max()) - allowed
    return "right" if right else "wrong"


def _direct(direct: QuantizedModelServer, size: int) -> float:
    """Images per second of the forward pass and the head, over a third of a round."""
    batch = inputs.batch(size, direct.subject.preprocessing)
    goes_on, begun, count = load_generator.within(ROUND_S / 3), time.perf_counter(), 0
    while goes_on() or not count:
        direct.batch_predict(batch)
        count += size
    return count / (time.perf_counter() - begun)


def _rate(outcomes: list[Outcome]) -> float:
    """Right answers per second of a round, from its first request to its last answer."""
    right = sum(one.status == 200 for one in outcomes)
    return right / (max(one.ended for one in outcomes) - min(one.begun for one in outcomes))


def _jpegs() -> list[bytes]:
    """Eight photographs as JPEG files of 320 pixels a side."""
    files = []
    for crop in inputs.crops()[:8]:
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def _row(direct: QuantizedModelServer, case: str, **figures: Value) -> dict[str, Value]:
    return {"case": case, "model": direct.subject.name, "precision": direct.subject.precision, **figures}
