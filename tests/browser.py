"""A real browser, headless, driven over its own debugging protocol: what it does with a page, and says of it."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

LIMIT_S = 300  # beside other work a browser may take minutes
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


@dataclass
class Page:
    """One tab. ``requests`` and ``complaints`` are what it asked for and logged since the last ``open``."""

    socket: websocket.WebSocket
    number: int = 0
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    loaded: bool = False

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.complaints.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Page.loadEventFired":
            self.loaded = True

    def open(self, url: str, width: int, dark: bool = False) -> None:
        """Load a page in a window of ``width`` CSS pixels and wait until it is done."""
        self.requests, self.complaints, self.loaded = [], [], False
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=url)
        deadline = time.monotonic() + LIMIT_S
        while not self.loaded:
            assert time.monotonic() < deadline, f"{url} did not load"
            self._note(json.loads(self.socket.recv()))

    def evaluate(self, expression: str) -> Any:
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")


@contextmanager
def page() -> Iterator[Page]:
    """A tab of a browser started for it, with a profile that is thrown away."""
    program = next(found for found in map(shutil.which, NAMES) if found)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        running = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = _port(Path(profile) / "DevToolsActivePort", running)
            tabs = f"http://127.0.0.1:{port}/json"
            import urllib.request

            with urllib.request.urlopen(tabs, timeout=LIMIT_S) as answer:
                target = next(one for one in json.load(answer) if one["type"] == "page")
            socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=LIMIT_S)
            try:
                yield Page(socket)
            finally:
                socket.close()
        finally:
            running.terminate()
            running.wait(timeout=LIMIT_S)


def _port(file: Path, running: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        assert running.poll() is None, "the browser ended at once"
        if file.is_file() and "\n" in file.read_text():
            return int(file.read_text().splitlines()[0])
        time.sleep(0.05)
    raise AssertionError("the browser opened no debugging port")
