"""A quantised model behind HTTP: LitServe's processes, queue and dynamic batching, and what it lacks for being trusted.

It needs the extra ``serve``. LitServe is 22 packages, Ray Serve (a cluster runtime) 74, BentoML (a model store) 68.
What LitServe 0.2.19 does not do, by its source and a trial (40 requests, worker killed under them), is done here:

- Its ``run`` puts HTTP into another process than the monitor, so that 4 of 40 requests of a restarted worker hung. Here
  HTTP and watch are one event loop: what a dead worker had taken is answered 503 at once, the worker is started anew.
- Its time-out counts only until a worker takes a request. Here it bounds the whole request, body included: 504.
- SIGTERM ends its main process at once and leaves the others behind. Here uvicorn has the signals: it takes nothing
  new, finishes what was taken, then the worker goes. A worker whose server vanishes goes by itself.
- An exception on one input fails its whole batch. Here every input is checked before it is queued, and one whose
  values overflow inside the network is answered 422 alone.
- A worker whose CUDA context a kernel's failure has ended stays "ready". Here it ends itself and is started anew.
- It answers nothing until the model is warm; here /health does, and /ready says 503.

The price: ``wrap_litserve_start`` is meant for tests, so the version is bounded tightly. The idle batching loop takes a
tenth of a core; its window opens when the last batch is done, so that few clients seldom fill a batch. Its queues carry
pickles between its own processes, never what a client sends. SIGKILL to the server leaves the queue's process behind.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import litserve
import numpy as np
import uvicorn
from fastapi import FastAPI
from litserve.utils import LitAPIStatus, ResponseBufferItem, WorkerSetupStatus, wrap_litserve_start
from starlette.exceptions import HTTPException

from visionquant.accuracy.model_source import ModelSource
from visionquant.bench import device as devices
from visionquant.bench import torch_flags
from visionquant.core.errors import StudyError
from visionquant.deploy import server_routes
from visionquant.deploy.predictor import Predictor
from visionquant.deploy.server_routes import Limits
from visionquant.settings.params import known

WATCH_S = 0.1
CANNOT_LOAD = 3  # a worker's exit code: it has said why, and another attempt would say the same
LOST = 4  # its exit code when a kernel's failure has ended its CUDA context
ATTEMPTS = 3  # starts of a worker in a row that may die before they are ready
TOP = 5


class Classifier(litserve.LitAPI):
    """The worker's side: lives in a process of its own, which loads the model and meets checked inputs alone."""

    def __init__(self, source: ModelSource, precision: str, device: str, limits: Limits) -> None:
        window_s = limits.batch_wait_s if limits.batch_size > 1 else 0.0
        super().__init__(max_batch_size=limits.batch_size, batch_timeout=window_s)
        self.source, self.precision, self.on, self.limits, self.batches = source, precision, device, limits, 0

    def setup(self, device: str) -> None:
        """Load, convert, warm up; LitServe then calls the worker ready."""
        _on_signals(signal.SIG_IGN)  # the server stops first, and then ends the worker
        litserve.configure_logging("WARNING", stream=sys.stderr)
        threading.Thread(target=_leave_with_parent, daemon=True).start()
        params = self.source.params
        try:
            torch_flags.begin(self.on)
            torch_flags.apply(params.precisions[self.precision], params.protocol)
            self.predictor = Predictor(self.source, self.precision, self.on, self.limits.batch_size)
        except StudyError as error:
            _say(str(error))
            os._exit(CANNOT_LOAD)
        for text, count in (self.predictor.conversion.messages or {}).items():
            _say(f"{text} ({count} times)")

    def predict(self, x: np.ndarray) -> Any:
        """Answers of a batch (n, 3, side, side), or the one of (3, side, side) where batching is off."""
        images = x if x.ndim == 4 else x[None]
        try:
            logits = self.predictor.logits(images)
        except RuntimeError as error:
            if devices.of(self.on).alive():
                raise
            _say(f"the GPU is lost to this worker: {error}")  # every later request would fail: a new one takes over
            os._exit(LOST)
        self.batches += 1
        batch = (os.getpid(), self.batches, len(images))
        answers: list[dict[str, Any]] = []
        for row, shares in zip(logits, logits.softmax(1), strict=True):
            answers.append({"logits_from": self.predictor.logits_from, "batch": batch})
            if row.isfinite().all():
                answers[-1]["classes"] = [
                    {"index": i, "label": self.predictor.labels.get(i), "probability": shares[i].item(), "logit": logit}
                    for logit, i in zip(*(best.tolist() for best in row.topk(min(TOP, len(row)))), strict=True)
                ]
        return answers if x.ndim == 4 else answers[0]


class Server(litserve.LitServer):
    """The HTTP side, in the main process: admits, queues, waits, and watches over the worker."""

    def __init__(self, source: ModelSource, precision: str, device: str, limits: Limits) -> None:
        self.desk = server_routes.Desk(source, precision, limits)
        self.failed, self.attempts = "", 0
        self.uvicorn: uvicorn.Server | None = None
        super().__init__(
            Classifier(source, precision, device, limits),
            accelerator=device,
            devices=1,
            timeout=limits.timeout_s,
            max_payload_size=limits.body_bytes,
            middlewares=[self.desk.before],
            restart_workers=True,  # workers then say which requests they have taken
        )

    def register_endpoints(self) -> None:
        """Ours in place of LitServe's, so that the OpenAPI page tells the truth."""
        server_routes.register(self.app, self.desk, lambda image: self.submit(image))

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """LitServe's own, with the watch beside it."""
        async with super().lifespan(app):
            watch = asyncio.create_task(self._watch())
            yield
            watch.cancel()

    async def submit(self, image: np.ndarray) -> dict[str, Any]:
        """Queue a prepared image and wait for the answer; whoever calls bounds the time."""
        uid, item = str(uuid.uuid4()), ResponseBufferItem(asyncio.Event())
        self.response_buffer[uid] = item
        try:
            queue = self._get_request_queue(self.lit_api.api_path)
            await asyncio.to_thread(queue.put, (self.app.response_queue_id, uid, time.monotonic(), image))
            await item.event.wait()
        except (OSError, EOFError):
            raise HTTPException(503, "the queue is gone") from None
        finally:
            self.response_buffer.pop(uid, None)
        answer, status = item.response
        if status == LitAPIStatus.OK:
            self.desk.count(answer["batch"])
            if "classes" not in answer:
                raise HTTPException(422, "the values overflow inside the network")
            return dict(answer)
        if answer is None:
            raise HTTPException(503, "the worker died with this request; send it again")
        if getattr(answer, "status_code", None) == 504:
            raise HTTPException(504, "waited too long for the worker")
        raise HTTPException(500, "the model could not answer")

    async def _watch(self) -> None:
        """Ten times a second: is the worker alive and warm? What a dead one had taken is lost; start another."""
        try:
            while not self.failed:
                self._look()
                await asyncio.sleep(WATCH_S)
        except (OSError, EOFError):
            self.failed = "the queue process is gone"
        self.desk.ready = False
        if self.uvicorn is not None:
            self.uvicorn.should_exit = True

    def _look(self) -> None:
        (worker,) = self.inference_workers
        self.desk.ready = worker.is_alive() and WorkerSetupStatus.READY in self.workers_setup_status.values()
        if self.desk.ready:
            self.attempts = 0
            return
        for item in self.response_buffer.values():  # no worker has begun since, so the dead one took these
            if item.worker_id is not None and not item.event.is_set():
                item.response = (None, LitAPIStatus.ERROR)
                item.event.set()
        if worker.is_alive():
            return
        self.attempts += 1
        if worker.exitcode == CANNOT_LOAD or self.attempts > ATTEMPTS:
            self.failed = f"the worker ended with code {worker.exitcode} before it was ready"
            return
        self.desk.restarts.inc()
        self.inference_workers[0] = self.launch_single_inference_worker(self.lit_api, 0)


def serve_http(source: ModelSource, precision: str, device: str, limits: Limits, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was taken and end the process with code 0; port 0: a free one.

    Raises:
        StudyError: no such precision, the preprocessing can't be followed, the address can't be had, or no worker
            gets ready.
    """
    known("precisions", [precision], source.params.precisions)
    source.preprocessing.check()  # else the first request would wait for it
    try:
        listening = socket.create_server((host, port), backlog=512)
    except OSError as error:
        raise StudyError(f"serve on {host}:{port}", error.strerror or str(error), "choose another port") from None
    litserve.configure_logging("WARNING", stream=sys.stderr)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the worker shares the cores with this process: no spinning
    server = Server(source, precision, device, limits)
    _on_signals(signal.SIG_IGN)  # for the queue's process, which inherits it
    os.register_at_fork(after_in_child=listening.close)  # else the queue's process, if left behind, keeps the port
    with wrap_litserve_start(server):
        try:
            _on_signals(lambda *_: sys.exit(0))  # uvicorn raises the signal again once it is done
            wait_s = int(limits.timeout_s) + 2
            config = uvicorn.Config(server.app, log_level="warning", access_log=False, timeout_graceful_shutdown=wait_s)
            server.uvicorn = uvicorn.Server(config)
            title = (
                f"{source.name} in {precision}, {source.weights} weights: http://{host}:{listening.getsockname()[1]}"
            )
            print(f"{title}, /ready says when it is warm, /docs what it takes", flush=True)  # noqa: T201
            server.uvicorn.run([listening])
        finally:
            for worker in server.inference_workers:
                worker.kill()
    if server.inference_workers[0].exitcode == CANNOT_LOAD:
        sys.exit(1)
    if server.failed:
        raise StudyError(f"serve {source.name}", server.failed, "see the lines above")


def _on_signals(handler: Callable[..., Any] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _say(text: str) -> None:
    print(f"visionquant: {text}", file=sys.stderr, flush=True)  # noqa: T201 the server only sees the exit code


def _leave_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
