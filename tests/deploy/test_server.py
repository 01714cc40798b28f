"""A real server on loopback: right answers, refusals with reasons, and no request left without either."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
import serving_process
import tiny
import torch
from image_files import bomb, encoded
from PIL import Image
from serving_process import Running
from starlette.exceptions import HTTPException

from visionquant.accuracy import training
from visionquant.accuracy.model_source import ModelSource, open_model, open_network
from visionquant.bench import fidelity, inputs, loading
from visionquant.bench import worker as isolate
from visionquant.bench.inputs import DEFAULT
from visionquant.cli import deploying
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.deploy.predictor import Predictor
from visionquant.deploy.server import CANNOT_LOAD, LOST, Classifier, Server, serve_http
from visionquant.deploy.server_routes import Limits, decoded, tensor_of
from visionquant.settings.params import Params
from visionquant.weights import checkpoint
from visionquant.weights.sources import Manifest

SIDE = 32
PREPROCESSING = tiny.preprocessing(SIDE)
PIXELS = 25_000_000
BYTES = 10 * 2**20


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Later tests fork this process, which a running thread pool does not survive."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    project, params = tiny.project(tmp_path_factory.mktemp("serve"), tiny.settings(precisions=("fp32", "int8")))
    checkpoint.download(project, params, "tiny-vit")
    return project, params


@pytest.fixture(scope="module")
def source(study: tuple[Project, Params]) -> ModelSource:
    return open_model(*study, "tiny-vit")


@pytest.fixture(scope="module")
def direct(source: ModelSource) -> Predictor:
    return Predictor(source, "int8")


@pytest.fixture(scope="module")
def first_ready() -> list[bool]:
    return []


@pytest.fixture(scope="module")
def server(study: tuple[Project, Params], first_ready: list[bool]) -> Iterator[Running]:
    options = (
        "--model",
        "tiny-vit",
        "--precision",
        "int8",
        "--queue",
        "16",
        "--batch-wait-ms",
        "20",
        "--timeout-s",
        "60",
    )
    with serving_process.running(study[0].root, *options) as found:
        first_ready.append(found.ready())
        found.wait_until(found.ready)
        first_ready.append(found.ready())
        yield found


def photograph(number: int, kind: str = "PNG") -> bytes:
    return encoded(inputs.crops()[number], kind)


def post(server: Running, data: bytes, field: str = "image") -> requests.Response:
    return requests.post(f"{server.url}/predict", files={field: ("file", data)}, timeout=90)


def post_tensor(server: Running, data: bytes | Iterator[bytes], shape: str = f"3,{SIDE},{SIDE}") -> requests.Response:
    kind = {"Content-Type": "application/octet-stream"}
    return requests.post(f"{server.url}/predict/tensor", data=data, params={"shape": shape}, headers=kind, timeout=90)


def assert_right(answer: dict[str, object], logits: torch.Tensor, tolerance: float = 1e-2) -> None:
    """The classes are the likeliest of these logits, with these logits and their softmax."""
    classes = answer["classes"]
    assert isinstance(classes, list)
    assert len(classes) == 5
    spread = float(logits.max() - logits.min())
    best = logits.topk(5).values
    for one, value in zip(classes, best, strict=True):
        assert one["logit"] == pytest.approx(float(logits[one["index"]]), abs=tolerance * spread)
        assert one["logit"] == pytest.approx(float(value), abs=tolerance * spread)
        assert one["probability"] == pytest.approx(float(logits.softmax(0)[one["index"]]), rel=0.2)


def worker(source: ModelSource, device: str) -> Classifier:
    limits = Limits(body_bytes=BYTES, pixels=PIXELS, queue=1, timeout_s=1.0, batch_size=1, batch_wait_s=0.0)
    return Classifier(source, "int8", device, limits)


class Answering:
    """A network whose every pass ends in what a card says."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def logits(self, _: np.ndarray) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("error", "every_call", "ends"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700), True, LOST),
        (torch.OutOfMemoryError("CUDA out of memory"), False, None),
        (RuntimeError("a defect of the model"), False, None),
    ],
)
def test_a_worker_whose_gpu_is_lost_ends_and_one_that_ran_out_of_memory_stays(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch, error: Exception, every_call: bool, ends: int | None
) -> None:
    def synchronize() -> None:
        if every_call:
            raise error

    made = worker(source, "cuda")
    made.predictor = Answering(error)  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    expected = f"ended with code {ends} and no answer" if ends else str(error)
    with pytest.raises((isolate.Defect, isolate.Failed), match=re.escape(expected)):
        isolate.in_fork(lambda: made.predict(np.zeros((3, SIDE, SIDE), np.float32)))


def test_a_worker_without_a_device_that_works_is_not_tried_again(
    source: ModelSource, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(isolate.Defect, match=f"ended with code {CANNOT_LOAD} and no answer"):
        isolate.in_fork(lambda: worker(source, "cuda").setup("cuda"))
    said = capfd.readouterr().err
    assert said.startswith("visionquant: study.device: torch")
    assert said.count("\n") == 1


# --- from Python


def test_predict_is_the_forward_pass_through_the_head(study: tuple[Project, Params]) -> None:
    project, params = study
    ready = Predictor(open_model(project, params, "tiny-vit"), "fp32")
    manifest = Manifest.load(project.manifest("tiny-vit"), params.models["tiny-vit"].source)
    net = loading.load(project, "tiny-vit", params.models["tiny-vit"], manifest, "sdpa", params.protocol.seed)
    head, named = fidelity.head_of(project, manifest, params.protocol.seed)
    images = inputs.batch(3, ready.source.preprocessing)
    with torch.inference_mode():
        expected = head(fidelity.answer_of(net(images)))
    assert ready.logits_from == named
    torch.testing.assert_close(ready.batch_predict(images), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_gives_what_single_images_give(direct: Predictor) -> None:
    assert direct.conversion.quantized_modules > 0
    images = inputs.batch(4, direct.source.preprocessing)
    single = torch.stack([direct.predict(one) for one in images])
    torch.testing.assert_close(direct.batch_predict(images), single, rtol=0.02, atol=0.02)


def test_a_trained_network_is_served_with_its_own_logits(study: tuple[Project, Params]) -> None:
    project, params = study
    with pytest.raises(StudyError, match="not trained yet; run `visionquant train"):
        open_network(project, params, "tiny-digits", 0)
    spec = params.training.networks["tiny-digits"]
    net = training.train(spec, params.training, training.load_digits(16), 0).net
    training.save_trained(project, "tiny-digits", 0, net)
    ready = Predictor(open_network(project, params, "tiny-digits", 0), "fp32")
    pictures = training.load_digits(16).images[:4]
    with torch.inference_mode():
        torch.testing.assert_close(ready.batch_predict(pictures), net(pictures).logits, rtol=1e-4, atol=1e-5)


def test_an_uploaded_digit_is_prepared_as_those_learned_from() -> None:
    from sklearn.datasets import load_digits

    grey = np.round(load_digits().images[7] / 16 * 255).astype(np.uint8)
    found = decoded(encoded(Image.fromarray(grey)), PIXELS, training.digit_preprocessing(SIDE))
    assert np.abs(found - training.load_digits(SIDE).images[7].numpy()).max() < 0.02


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((1, 3, 8, 8)), "of shape"),
        (np.zeros((0, 3, SIDE, SIDE)), "of shape"),
        (np.full((1, 3, SIDE, SIDE), np.nan), "NaN or infinity"),
    ],
)
def test_batch_predict_refuses_what_it_cannot_answer(direct: Predictor, images: np.ndarray, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        direct.batch_predict(images)


@pytest.mark.parametrize(("model", "precision"), [("tiny-vat", "int8"), ("tiny-vit", "int9")])
def test_an_unknown_name_is_one_line(study: tuple[Project, Params], model: str, precision: str) -> None:
    with pytest.raises(StudyError, match="did you mean"):
        Predictor(open_model(*study, model), precision)


# --- uploads


def test_every_cut_and_every_flipped_byte_of_an_upload_is_an_answer_or_a_refusal() -> None:
    rng = np.random.default_rng(7)
    small = inputs.crops()[1].resize((24, 24))
    refused: list[int] = []
    for data in (encoded(small), encoded(small, "JPEG")):
        spoilt = [data[:at] for at in range(0, len(data), 37)]
        for _ in range(200):
            changed = bytearray(data)
            changed[rng.integers(len(data))] ^= int(rng.integers(1, 256))
            spoilt.append(bytes(changed))
        for one in spoilt:
            try:
                found = decoded(one, PIXELS, PREPROCESSING)
                assert found.shape == (3, SIDE, SIDE)
            except HTTPException as error:
                refused.append(error.status_code)
    assert set(refused) <= {413, 415, 422}
    assert len(refused) > 100


def test_a_long_thin_image_does_not_blow_up_before_a_centre_crop() -> None:
    cropped = DEFAULT | {"do_center_crop": True, "crop_size": 224, "size": {"shortest_edge": 224}}
    with pytest.raises(HTTPException, match="times as long"):
        decoded(bomb(20_000_000, 1), PIXELS, tiny.preprocessing(224, cropped))


def test_a_tensor_keeps_its_order() -> None:
    values = np.arange(12, dtype="<f4").reshape(3, 2, 2)
    np.testing.assert_array_equal(tensor_of(values.tobytes(), (3, 2, 2)), values)


# --- over HTTP


def test_it_is_ready_after_the_warm_up_alone(server: Running, first_ready: list[bool]) -> None:
    assert first_ready == [False, True]
    assert requests.get(f"{server.url}/health", timeout=60).json()["input_shape"] == [3, SIDE, SIDE]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_is_answered_with_the_direct_forward(server: Running, direct: Predictor, kind: str) -> None:
    data = photograph(2, kind)
    answer = post(server, data)
    assert answer.status_code == 200, answer.text
    prepared = direct.source.preprocessing.prepare(Image.open(io.BytesIO(data)))
    assert_right(answer.json(), direct.predict(prepared))
    assert answer.json()["weights"] == "seeded"
    assert set(answer.json()["classes"][0]) == {"index", "probability", "logit"}  # a projection has no labels
    assert answer.json()["precision"] == "int8"


def test_a_tensor_is_answered_with_the_direct_forward(server: Running, direct: Predictor) -> None:
    values = np.random.default_rng(1).standard_normal((3, SIDE, SIDE), dtype=np.float32)
    answer = post_tensor(server, values.tobytes())
    assert answer.status_code == 200, answer.text
    assert_right(answer.json(), direct.predict(values))


def test_requests_that_come_together_share_passes_and_keep_their_own_answers(
    server: Running, direct: Predictor
) -> None:
    images = inputs.batch(16, direct.source.preprocessing).numpy()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda one: post_tensor(server, one.tobytes()), images))
    assert {one.status_code for one in answers} == {200}
    for one, expected in zip(answers, direct.batch_predict(images), strict=True):
        assert_right(one.json(), expected)
    assert max(one.json()["batch_size"] for one in answers) > 1
    assert server.shown("visionquant_batch_size_sum") > server.shown("visionquant_batch_size_count")
    assert server.shown('visionquant_request_seconds_count{path="/predict/tensor",status="200"}') >= 16
    assert server.shown("visionquant_in_flight") == 0
    assert server.shown("visionquant_ready") == 1


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"no image", 415),
        (b"", 415),
        (encoded(inputs.crops()[0].convert("P"), "GIF"), 415),
        (photograph(0)[:5000], 422),
        (photograph(0, "JPEG")[:2000], 422),
        (bomb(5001, 5000), 413),
        (bomb(60_000, 60_000), 413),
        (bomb(4000, 100), 422),
        (encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16))), 422),
        (b"x" * (BYTES + 1), 413),
    ],
    ids=["text", "empty", "gif", "cut png", "cut jpeg", "pixels", "bomb", "thin", "16 bit", "bytes"],
)
def test_what_is_no_fit_image_is_refused(server: Running, data: bytes, status: int) -> None:
    answer = post(server, data)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text


@pytest.mark.parametrize(
    ("send", "status"),
    [
        (lambda server: post(server, photograph(0), field="picture"), 422),
        (lambda server: requests.post(f"{server.url}/predict", data={"image": "text"}, timeout=90), 422),
        (lambda server: requests.post(f"{server.url}/predict", json={"image": "text"}, timeout=90), 422),
        (lambda server: post_tensor(server, iter([b"x" * 2**20] * 12)), 413),
        (lambda server: post_tensor(server, np.full((3, SIDE, SIDE), np.nan, "<f4").tobytes()), 422),
        (lambda server: post_tensor(server, np.full((3, SIDE, SIDE), np.inf, "<f4").tobytes()), 422),
        (lambda server: post_tensor(server, np.zeros((3, SIDE, SIDE - 1), "<f4").tobytes()), 422),
        (lambda server: post_tensor(server, np.zeros((3, SIDE, SIDE), "<f4").tobytes(), f"{SIDE},{SIDE},3"), 422),
        (lambda server: requests.post(f"{server.url}/predict/tensor?shape=3,{SIDE},{SIDE}", json=[1], timeout=90), 415),
        (lambda server: requests.get(f"{server.url}/predict", timeout=90), 405),
        (lambda server: requests.get(f"{server.url}/nothing", timeout=90), 404),
    ],
    ids=["field", "form", "json", "chunks", "nan", "inf", "short", "order", "kind", "method", "path"],
)
def test_every_other_mistake_is_named_too(
    server: Running, send: Callable[[Running], requests.Response], status: int
) -> None:
    answer = send(server)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text


def test_the_openapi_page_names_what_there_is(server: Running) -> None:
    found = requests.get(f"{server.url}/openapi.json", timeout=60).json()
    assert {path: list(verbs) for path, verbs in found["paths"].items()} == {
        "/predict": ["post"],
        "/predict/tensor": ["post"],
        "/ready": ["get"],
        "/health": ["get"],
        "/metrics": ["get"],
    }
    assert "image" in found["components"]["schemas"]["Body_predict_predict_post"]["required"]


def fuzz(server: Running, folder: Path, *options: str) -> None:
    """Schemathesis over the server's own OpenAPI. Random bytes are no image, so that positive data is refused too."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    script = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    done = subprocess.run(
        [sys.executable, "-c", script, "run", f"{server.url}/openapi.json", "--checks", checks, "--seed", "1"]
        + ["--warnings", "off", "--request-timeout", "20", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


@pytest.mark.slow
def test_fuzzing_finds_no_answer_that_the_openapi_page_does_not_name(server: Running, tmp_path: Path) -> None:
    fuzz(server, tmp_path, "--max-examples", "25", "--phases", "coverage,fuzzing", "--no-shrink")
    assert server.ready()


def test_a_little_fuzzing(server: Running, tmp_path: Path) -> None:
    fuzz(server, tmp_path, "--max-examples", "3", "--phases", "fuzzing", "--no-shrink")
    assert server.ready()


def test_a_stalled_sender_is_told_and_a_full_queue_says_so(study: tuple[Project, Params], source: ModelSource) -> None:
    """The gate alone, in this process: a body that never comes, and the one place in the queue taken by it."""
    import asyncio

    server = Server(source, "int8", "cpu", Limits(queue=1, timeout_s=0.3))
    server.desk.ready = True

    async def request(stall: bool) -> int:
        seen: list[int] = []
        kind, body = (b"content-type", b"application/octet-stream"), np.zeros(source.shape, "<f4").tobytes()
        query = f"shape=3,{SIDE},{SIDE}".encode()
        scope = {"type": "http", "method": "POST", "path": "/predict/tensor", "query_string": query, "headers": [kind]}

        async def receive() -> dict[str, object]:
            if stall:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": body}

        async def send(message: dict[str, object]) -> None:
            if "status" in message:
                seen.append(int(str(message["status"])))

        await server.app(scope, receive, send)
        return seen[0]

    async def both() -> list[int]:
        return await asyncio.gather(request(True), request(False))

    assert asyncio.run(both()) == [504, 503]


def test_what_is_served_is_proved_and_what_its_libraries_said_is_told_once(
    study: tuple[Project, Params], server: Running, direct: Predictor
) -> None:
    proof = direct.conversion
    assert proof.quantized_modules == sum((proof.kernels or {}).values()) > 0
    assert not any(module.training for module in direct.net.modules())
    told = (study[0].root / "stderr").read_text()
    assert proof.messages
    assert all(told.count(text) == 1 for text in proof.messages)


def test_a_taken_port_and_a_model_that_is_not_there_are_one_line(
    study: tuple[Project, Params], source: ModelSource, server: Running
) -> None:
    with pytest.raises(StudyError, match="choose another port"):
        serve_http(source, "int8", "cpu", Limits(), "127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    with pytest.raises(StudyError, match="run `visionquant download --model tiny-deit`"):
        open_model(*study, "tiny-deit")
    with pytest.raises(StudyError, match="one of --model and --network is needed"):
        deploying.serve(*study, "int8")


@pytest.mark.slow
def test_weights_that_do_not_load_end_the_server_with_one_line(study: tuple[Project, Params]) -> None:
    weights = study[0].weights("tiny-digits", 0)
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"no weights")
    with serving_process.running(study[0].root, "--network", "tiny-digits", "--precision", "fp32") as found:
        assert found.process.wait(120) == 1
    said = (study[0].root / "stderr").read_text()
    assert "holds another network; train it again" in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_a_killed_worker_leaves_no_request_without_an_end_and_is_replaced(server: Running, direct: Predictor) -> None:
    images = inputs.batch(8, direct.source.preprocessing).numpy()
    expected = direct.batch_predict(images)
    codes: list[int] = []
    stop = threading.Event()

    def send(number: int) -> None:
        while not stop.is_set():
            begun = time.monotonic()
            answer = post_tensor(server, images[number].tobytes())
            assert time.monotonic() - begun < 65
            if answer.status_code == 200:
                assert_right(answer.json(), expected[number])
            else:
                assert list(answer.json()) == ["error"]
                time.sleep(0.2)
            codes.append(answer.status_code)

    with ThreadPoolExecutor(8) as pool:
        sending = [pool.submit(send, number) for number in range(8)]
        try:
            for kills in (1, 2):
                time.sleep(1)
                server.worker().kill()
                server.wait_until(lambda kills=kills: server.shown("visionquant_worker_restarts_total") == kills)
                server.wait_until(server.ready)
            time.sleep(1)
        finally:
            stop.set()
        for one in sending:
            one.result()
    assert set(codes) <= {200, 503, 504}
    assert codes.count(200) > 8
    assert codes.count(503) > 0
    assert post_tensor(server, images[0].tobytes()).status_code == 200


def test_values_that_overflow_inside_the_network_fail_alone(server: Running, direct: Predictor) -> None:
    images = inputs.batch(3, direct.source.preprocessing).numpy()
    worker = server.worker()
    os.kill(worker.pid, signal.SIGSTOP)  # so that all of them are in one batch
    with ThreadPoolExecutor(4) as pool:
        poisoned = pool.submit(post_tensor, server, np.full((3, SIDE, SIDE), 3e38, "<f4").tobytes())
        sent = [pool.submit(post_tensor, server, one.tobytes()) for one in images]
        server.wait_until(lambda: server.shown("visionquant_in_flight") == 4)
        os.kill(worker.pid, signal.SIGCONT)
        assert poisoned.result().status_code == 422
        assert "overflow" in poisoned.result().json()["error"]
        for one, expected in zip(sent, direct.batch_predict(images), strict=True):
            assert_right(one.result().json(), expected)


@pytest.mark.slow
def test_a_server_that_is_killed_takes_its_worker_along_and_leaves_the_port(study: tuple[Project, Params]) -> None:
    options = ("--model", "tiny-vit", "--precision", "int8")
    with serving_process.running(study[0].root, *options) as found:
        found.wait_until(found.ready)
        worker, family = found.worker(), found.family()
        found.process.kill()
        found.process.wait(300)
        assert not psutil.wait_procs([worker], timeout=60)[1]
        port = int(found.url.rsplit(":", 1)[1])
        socket.create_server(("127.0.0.1", port)).close()
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()  # LitServe's queue process stays behind


def test_a_stopped_server_finishes_what_it_took_and_leaves_no_process(server: Running, direct: Predictor) -> None:
    """The last test of the module: it stops the server."""
    images = inputs.batch(12, direct.source.preprocessing).numpy()
    family = server.family()
    worker = server.worker()
    os.kill(worker.pid, signal.SIGSTOP)  # so that all are taken and none is answered yet
    with ThreadPoolExecutor(12) as pool:
        sent = [pool.submit(post_tensor, server, one.tobytes()) for one in images]
        server.wait_until(lambda: server.shown("visionquant_in_flight") == len(images))
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        os.kill(worker.pid, signal.SIGCONT)
        answers = [one.result() for one in sent]
    assert [one.status_code for one in answers] == [200] * len(images)
    for one, expected in zip(answers, direct.batch_predict(images), strict=True):
        assert_right(one.json(), expected)
    assert server.process.wait(300) == 0
    assert not psutil.wait_procs(family, timeout=60)[1]
