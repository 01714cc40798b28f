"""What the server says of itself, to people, and the names that it gives, with a checkpoint's own head behind it."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
import requests
import tiny
import torch
import uvicorn
from image_files import encoded

from visionquant.accuracy.model_source import open_model
from visionquant.bench import inputs
from visionquant.core.paths import Project
from visionquant.deploy import server_routes
from visionquant.deploy.predictor import Predictor
from visionquant.deploy.server import Classifier, Server
from visionquant.deploy.server_routes import Limits
from visionquant.settings.params import Params
from visionquant.weights import checkpoint


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    """A checkpoint whose head knows five names."""
    root = tmp_path_factory.mktemp("docs")
    raw = tiny.settings(("mine",), ("fp32",))
    raw["study"]["weights"] = "auto"
    raw["models"]["mine"] = {"path": "mine", "input_size": 32}
    project, params = tiny.project(root, raw)
    tiny.checkpoint(root / "mine", head=True)
    checkpoint.download(project, params, "mine")
    return project, params


@pytest.fixture(scope="module")
def url(study: tuple[Project, Params]) -> Iterator[str]:
    """The server's own application and its worker's own answers, in this process; the queue between is left out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # later tests fork this process, which a running thread pool does not survive
    served = open_model(*study, "mine"), "fp32", "cpu"
    worker, server = Classifier(*served, Limits(batch_size=1)), Server(*served, Limits(batch_size=1))
    worker.predictor, server.desk.ready = Predictor(*served), True

    async def submit(image: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = worker.predict(image)
        return found

    server.submit = submit  # type: ignore[method-assign]
    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(server.app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join()
    torch.set_num_threads(before)


@pytest.mark.browser
def test_the_docs_page_asks_no_other_host_for_anything(url: str) -> None:
    with browser.page() as tab:
        tab.open(f"{url}/docs", 1000)
        assert [one for one in tab.requests if not one.startswith((url, "data:"))] == []
        assert tab.complaints == []
        assert tab.evaluate("document.querySelectorAll('script').length") == 0
        headings = tab.evaluate("[...document.querySelectorAll('h2')].map(one => one.textContent)")
        assert "POST /predict" in headings
        assert tab.evaluate("document.querySelector('form').action") == f"{url}/predict"
        tab.open(f"{url}/docs", 390)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_no_page_of_the_server_names_another_host(url: str) -> None:
    answer = requests.get(f"{url}/docs", timeout=5)
    assert answer.headers["content-security-policy"] == server_routes.POLICY
    assert "http://" not in answer.text.replace(url, "")
    assert "https://" not in answer.text
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert requests.get(f"{url}{path}", timeout=5).status_code == 404


def test_the_page_holds_every_route_answer_and_schema(url: str) -> None:
    document = requests.get(f"{url}/openapi.json", timeout=5).json()
    page = requests.get(f"{url}/docs", timeout=5).text
    for path, verbs in document["paths"].items():
        for verb, one in verbs.items():
            assert f"{verb.upper()} {path}</code>" in page
            assert all(f"<td>{status}</td>" in page for status in one["responses"])
    for name, one in document["components"]["schemas"].items():
        assert f'id="{name}"' in page
        assert all(f"<code>{key}</code>" in page for key in one["properties"])


def test_what_stands_in_a_document_is_text() -> None:
    bad = "<script>alert(1)</script>"
    route = {"description": bad, "parameters": [{"name": bad, "in": "query", "schema": {"type": bad}}]}
    answers = {"200": {"description": bad, "content": {bad: {"schema": {"$ref": f"#/{bad}"}}}}}
    document = {"info": {"title": bad}, "paths": {f"/{bad}": {"get": route | {"responses": answers}}}}
    assert "<script" not in server_routes.docs_page(document)


def test_answers_carry_the_checkpoint_s_own_names(url: str) -> None:
    files = {"image": ("file", encoded(inputs.crops()[0]))}
    answer = requests.post(f"{url}/predict", files=files, timeout=90).json()
    assert {one["index"]: one["label"] for one in answer["classes"]} == tiny.COLOURS
    assert answer["logits_from"] == "the checkpoint's own head"


@pytest.mark.parametrize("head", [True, False])
def test_names_that_the_library_made_up_or_that_are_not_the_head_s_are_none(head: bool, tmp_path: Path) -> None:
    raw = tiny.settings(("mine",), ("fp32",))
    raw["study"]["weights"] = "auto"
    raw["models"]["mine"] = {"path": "mine", "input_size": 32}
    project, params = tiny.project(tmp_path, raw)
    tiny.checkpoint(tmp_path / "mine", head, labels={0: "LABEL_0", 1: "cat", 2: "LABEL_2"})
    checkpoint.download(project, params, "mine")
    ready = Predictor(open_model(project, params, "mine"), "fp32")
    assert ready.labels == ({1: "cat"} if head else {})
