"""What the server answers: routes and their OpenAPI text, the gate in front of them, the metrics.

Every refusal is JSON, ``{"error": reason}``: 4xx for the sender's mistake, 503 for a server that is full, cold or lost
its worker, 504 for one that was too slow. FastAPI's own text for a bad request would repeat the request, NaN included,
which JSON can't carry. The histograms live in the HTTP process alone: a worker sends the size of a batch along with its
answers, so no files need be shared between processes, and a killed worker takes no counts with it.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, File, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visionquant.deploy.server import docs_page, uploads
from visionquant.deploy.server.uploads import Refused

if TYPE_CHECKING:
    from visionquant.deploy.server.app import Server

PATHS = ("/predict", "/predict/tensor", "/ready", "/health", "/metrics")
FOREIGN = ("/docs", "/redoc")
RETRY = {"Retry-After": "1"}
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Unavailable(Exception):
    """The server's fault: a status from 500 to 504 and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Named(BaseModel):
    """A class by its index, and its label where the checkpoint names it; probability (softmax, 0 to 1) and logit."""

    index: int
    label: str | None = None
    probability: float
    logit: float


class Answer(BaseModel):
    """The likeliest classes, best first; what they rest on; how many requests shared the pass."""

    classes: list[Named]
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


class Metrics:
    """The Prometheus metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "visionquant_request_seconds",
            "From the first byte of a request to the last of its answer",
            ("path", "status"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.sizes = Histogram(
            "visionquant_batch_size", "Images in a forward pass", buckets=SIZES, registry=self.registry
        )
        self.in_flight = Gauge("visionquant_in_flight", "Requests admitted and not answered", registry=self.registry)
        self.ready = Gauge("visionquant_ready", "1 while a warm worker stands by", registry=self.registry)
        self.restarts = Counter("visionquant_worker_restarts", "Workers started anew", registry=self.registry)
        self._last: tuple[int, int, int] | None = None

    def batch(self, which: tuple[int, int, int]) -> None:
        """Count a batch (worker, number, images) once; its answers come one after the other."""
        if which != self._last:
            self._last = which
            self.sizes.observe(which[2])


class Gate:
    """Admits a prediction if the worker is warm and the queue has room; bounds the time of all; counts everything."""

    def __init__(self, app: ASGIApp, server: "Server") -> None:
        self.app, self.server, self.in_flight = app, server, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; whatever comes of it is counted under its route and status."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if scope["method"] == "POST":
                await self._predict(scope, receive, sent)
            else:
                await self.app(scope, receive, sent)
        except TimeoutError:
            if not status:
                limit_s = self.server.limits.timeout_s
                await _problem(504, f"not answered within {limit_s:g} s")(scope, receive, sent)
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            self.server.metrics.seconds.labels(path, str(status or 500)).observe(time.perf_counter() - begun)

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        self._admitted(1)
        try:
            async with asyncio.timeout(self.server.limits.timeout_s):
                await self.app(scope, receive, send)
        finally:
            self._admitted(-1)

    def _admitted(self, change: int) -> None:
        self.in_flight += change
        self.server.metrics.in_flight.set(self.in_flight)

    def _refusal(self, scope: Scope) -> Response | None:
        limits = self.server.limits
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limits.body_bytes:
            return _problem(413, f"a body of more than {limits.body_bytes} bytes")
        if not self.server.ready:
            return _problem(503, "no warm worker", RETRY)
        if self.in_flight >= limits.queue:
            return _problem(503, f"{limits.queue} requests are waiting already", RETRY)
        return None


def register(app: FastAPI, server: "Server") -> None:
    """Put the routes and the error handlers into ``app``."""
    subject, limits, metrics = server.subject, server.limits, server.metrics
    shape = ",".join(map(str, subject.shape))
    size = 4 * subject.shape[0] * subject.shape[1] * subject.shape[2]
    app.title, app.version = f"{subject.name} in {subject.precision}", "1"
    app.description = f"Image classification with {subject.weights} weights. Errors are JSON with one key, `error`."
    problems: dict[int | str, dict[str, Any]] = {
        400: {"model": Problem, "description": "A body that can't be parsed"},
        413: {"model": Problem, "description": "Too many bytes or pixels"},
        415: {"model": Problem, "description": "Another kind of file or body"},
        422: {"model": Problem, "description": "Broken, cut, of another shape, or not finite"},
        500: {"model": Problem, "description": "The model could not answer"},
        503: {"model": Problem, "description": "No warm worker, a full queue, or a worker that died: send it again"},
        504: {"model": Problem, "description": f"Not answered within {limits.timeout_s:g} s"},
    }

    async def answered(image: Any) -> Answer:
        found = await server.submit(image)
        return Answer(
            classes=found["classes"],
            model=subject.name,
            precision=subject.precision,
            weights=subject.weights,
            logits_from=found["logits_from"],
            batch_size=found["batch"][2],
        )

    @app.post("/predict", responses=problems, response_model_exclude_none=True)
    async def predict(image: Annotated[UploadFile, File(description="A JPEG or PNG file")]) -> Answer:
        """Name what an image shows."""
        data = await image.read()
        prepared = await asyncio.to_thread(uploads.image, data, limits.pixels, subject.preprocessing)
        return await answered(prepared)

    schema = {"type": "string", "format": "binary", "minLength": size, "maxLength": size}
    raw = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": schema}}}}

    @app.post("/predict/tensor", responses=problems, response_model_exclude_none=True, openapi_extra=raw)
    async def predict_tensor(
        request: Request,
        shape: Annotated[str, Query(pattern=f"^{shape}$", description="Of the values; only this one")],
    ) -> Answer:
        """Name what a prepared image shows: little-endian float32 values in C order."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/octet-stream":
            raise Refused(415, "the body must be application/octet-stream")
        return await answered(uploads.tensor(await request.body(), subject.shape))

    @app.get("/ready", responses={503: {"model": Ready, "description": "Not yet, or a worker is being started"}})
    async def ready(response: Response) -> Ready:
        """Whether predictions are answered: 200 or 503."""
        response.status_code = 200 if server.ready else 503
        return Ready(ready=server.ready)

    @app.get("/health")
    async def health() -> Health:
        """Whether the process lives."""
        return Health(model=subject.name, precision=subject.precision, input_shape=list(subject.shape))

    for route in [one for one in app.router.routes if getattr(one, "path", "").startswith(FOREIGN)]:
        app.router.routes.remove(route)  # FastAPI's pages, which load scripts from elsewhere

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page.page(app.openapi()), headers={"Content-Security-Policy": docs_page.POLICY})

    text = {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}}

    @app.get("/metrics", response_class=Response, responses={200: text})
    async def metrics_() -> Response:
        """Latency and batch size histograms, and the rest."""
        metrics.ready.set(server.ready)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Refused)
    @app.exception_handler(Unavailable)
    async def told(_: Request, error: Refused | Unavailable) -> JSONResponse:
        return _problem(error.status, error.reason, RETRY if error.status == 503 else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return _problem(error.status_code, str(error.detail), error.headers)


def _problem(status: int, reason: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": reason}, status, headers)
