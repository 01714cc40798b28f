"""What the server answers: routes and their OpenAPI text, the gate in front of them, the metrics, the page /docs.

Every refusal is JSON, ``{"error": reason}``. FastAPI's own text for a bad request would repeat the request, NaN
included, which JSON can't carry; its own page loads scripts from elsewhere, ours holds none. Metrics live in the HTTP
process alone: a worker sends the size of a batch along with its answers, and takes no counts with it when it is killed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Annotated, Any

import jinja2
import numpy as np
from fastapi import FastAPI, File, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visionquant.accuracy.model_source import ModelSource
from visionquant.bench import image_file
from visionquant.bench.inputs import Preprocessing

PATHS = ("/predict", "/predict/tensor", "/ready", "/health", "/metrics")
STATUS = {"kind": 415, "large": 413, "broken": 422}  # of a file that is no picture to use
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
PROBLEMS = {
    400: "A body that can't be parsed",
    413: "Too many bytes or pixels",
    415: "Another kind of file or body",
    422: "Broken, cut, of another shape, or not finite",
    500: "The model could not answer",
    503: "No warm worker, a full queue, or a worker that died: send it again",
}
# Whatever stands on the page, a browser may load nothing and send forms to this server alone.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self'"


@dataclass(frozen=True)
class Limits:
    """What the server takes on. ``queue`` bounds the requests that are read, wait or are answered, all together.

    ``batch_size`` 1 switches batching off; else requests of one window of ``batch_wait_s`` share a pass.
    """

    body_bytes: int = 10 * 2**20
    pixels: int = 25_000_000
    queue: int = 64
    timeout_s: float = 10.0
    batch_size: int = 8
    batch_wait_s: float = 0.005


class ClassScore(BaseModel):
    """A class by its index, and its label where the checkpoint names it; probability (softmax, 0 to 1) and logit."""

    index: int
    label: str | None = None
    probability: float
    logit: float


class Classification(BaseModel):
    """The likeliest classes, best first; what they rest on; how many requests shared the pass."""

    classes: list[ClassScore]
    model: str
    precision: str
    weights: str
    logits_from: str
    batch_size: int


class Problem(BaseModel):
    """Why there is no answer."""

    error: str


class Ready(BaseModel):
    """Whether a warm worker stands by."""

    ready: bool


class Health(BaseModel):
    """Who answers: the process lives, whatever the worker does."""

    model: str
    precision: str
    input_shape: list[int]


class Desk:
    """Stands before the application: admits a prediction if the worker is warm and the queue has room, bounds its time,
    counts every request. Routes and server read model, limits and metrics from it.
    """

    app: ASGIApp

    def __init__(self, source: ModelSource, precision: str, limits: Limits) -> None:
        self.source, self.precision, self.limits = source, precision, limits
        self.ready, self.waiting = False, 0
        self.registry = to = CollectorRegistry()
        spent = "From the first byte of a request to the last of its answer"
        self.seconds = Histogram("visionquant_request_seconds", spent, ("path", "status"), buckets=SECONDS, registry=to)
        self.sizes = Histogram("visionquant_batch_size", "Images in a forward pass", buckets=SIZES, registry=to)
        waiting = Gauge("visionquant_in_flight", "Requests admitted and not answered", registry=to)
        waiting.set_function(lambda: self.waiting)
        Gauge("visionquant_ready", "1 while a warm worker stands by", registry=to).set_function(lambda: self.ready)
        self.restarts = Counter("visionquant_worker_restarts", "Workers started anew", registry=to)
        self._batch: tuple[int, ...] = ()

    def before(self, app: ASGIApp) -> "Desk":
        """Itself, as the middleware of ``app``."""
        self.app = app
        return self

    def count(self, batch: tuple[int, int, int]) -> None:
        """Count a batch (worker, number, images) once; its answers come one after the other."""
        if batch != self._batch:
            self._batch = batch
            self.sizes.observe(batch[2])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            app = (self._refusal(scope) or self._admitted) if scope["method"] == "POST" else self.app
            await app(scope, receive, noting)
        except TimeoutError:
            if not status:
                await _problem(504, f"not answered within {self.limits.timeout_s:g} s")(scope, receive, noting)
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            self.seconds.labels(path, str(status or 500)).observe(time.perf_counter() - begun)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.waiting += 1
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                await self.app(scope, receive, send)
        finally:
            self.waiting -= 1

    def _refusal(self, scope: Scope) -> Response | None:
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limits.body_bytes:
            return _problem(413, f"a body of more than {self.limits.body_bytes} bytes")
        if not self.ready:
            return _problem(503, "no warm worker")
        if self.waiting >= self.limits.queue:
            return _problem(503, f"{self.limits.queue} requests are waiting already")
        return None


def register(app: FastAPI, desk: Desk, submit: Callable[[np.ndarray], Awaitable[dict[str, Any]]]) -> None:
    """Put the routes and the error handlers into ``app``; ``submit`` answers a prepared image."""
    source, limits = desk.source, desk.limits
    app.title, app.version = f"{source.name} in {desk.precision}", "1"
    app.description = f"Image classification with {source.weights} weights. Errors are JSON with one key, `error`."
    refusals = PROBLEMS | {504: f"Not answered within {limits.timeout_s:g} s"}
    problems: Any = {status: {"model": Problem, "description": why} for status, why in refusals.items()}
    prediction = partial(app.post, responses=problems, response_model_exclude_none=True)
    served = {"model": source.name, "precision": desk.precision, "weights": source.weights}

    async def classified(image: np.ndarray) -> Classification:
        answer = await submit(image)
        return Classification.model_validate(answer | served | {"batch_size": answer["batch"][2]})

    @prediction("/predict")
    async def predict(image: Annotated[UploadFile, File(description="A JPEG or PNG file")]) -> Classification:
        """Name what an image shows."""
        data = await image.read()
        return await classified(await asyncio.to_thread(decoded, data, limits.pixels, source.preprocessing))

    size, shape = 4 * prod(source.shape), ",".join(map(str, source.shape))
    schema = {"type": "string", "format": "binary", "minLength": size, "maxLength": size}
    raw = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": schema}}}}

    @prediction("/predict/tensor", openapi_extra=raw)
    async def predict_tensor(
        request: Request,
        shape: Annotated[str, Query(pattern=f"^{shape}$", description="Of the values; only this one")],
    ) -> Classification:
        """Name what a prepared image shows: little-endian float32 values in C order."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/octet-stream":
            raise HTTPException(415, "the body must be application/octet-stream")
        return await classified(tensor_of(await request.body(), source.shape))

    @app.get("/ready", responses={503: {"model": Ready, "description": "Not yet, or a worker is being started"}})
    async def ready(response: Response) -> Ready:
        """Whether predictions are answered: 200 or 503."""
        response.status_code = 200 if desk.ready else 503
        return Ready(ready=desk.ready)

    @app.get("/health")
    async def health() -> Health:
        """Whether the process lives."""
        return Health(model=source.name, precision=desk.precision, input_shape=list(source.shape))

    routes = app.router.routes  # without FastAPI's pages, which load scripts from elsewhere
    routes[:] = [route for route in routes if not getattr(route, "path", "").startswith(("/docs", "/redoc"))]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()), headers={"Content-Security-Policy": POLICY})

    text = {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}}

    @app.get("/metrics", response_class=Response, responses={200: text})
    async def metrics() -> Response:
        """Latency and batch size histograms, and the rest."""
        return Response(generate_latest(desk.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _problem(error.status_code, str(error.detail), error.headers)


def _problem(status: int, reason: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": reason}, status, headers or ({"Retry-After": "1"} if status == 503 else None))


def docs_page(document: dict[str, Any]) -> str:
    """HTML of an OpenAPI document (version 3.1, as FastAPI makes it); an image can be sent from it, by a plain form."""
    page = jinja2.Environment(autoescape=True, loader=jinja2.PackageLoader("visionquant.deploy", "."))
    return page.get_template("docs.html").render(document)


def decoded(data: bytes, pixels: int, preprocessing: Preprocessing) -> np.ndarray:
    """A JPEG or PNG file as the model wants it, float32 of ``preprocessing.shape``; an HTTPException for another."""
    try:
        return preprocessing.prepare(image_file.read(data, ("JPEG", "PNG"), pixels))
    except image_file.Unreadable as error:
        raise HTTPException(STATUS[error.fault], error.reason) from None


def tensor_of(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Little-endian float32 values, C order, as an array of ``shape``; an HTTPException for others, or not finite."""
    if len(data) != (expected := 4 * prod(shape)):
        raise HTTPException(422, f"{len(data)} bytes, expected {expected}: float32 of shape {shape}")
    values = np.frombuffer(data, "<f4").reshape(shape)
    if not np.isfinite(values).all():
        raise HTTPException(422, "NaN or infinity among the values")
    return values
