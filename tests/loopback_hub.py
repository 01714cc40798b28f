"""A model hub on loopback that speaks the hub's HTTP protocol both ways, with switches for what can go wrong."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LARGE = (".safetensors", ".bin", ".png")


@dataclass
class Hub:
    """Repositories by (repo_id, revision); the other fields are faults, to be switched on and off by a test."""

    repositories: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)  # files of which an answer ends in the middle
    cuts_left: int = 1000  # how many answers still do
    altered: set[str] = field(default_factory=set)  # files that arrive with one byte changed
    lost: set[str] = field(default_factory=set)  # files that are listed, and answer 404
    status: int | None = None  # every request is answered with this status
    gated: bool = False
    claimed_bytes: dict[str, int] = field(default_factory=dict)  # sizes that are listed instead of the true ones
    requests: list[str] = field(default_factory=list)  # "GET path [range]", in order
    objects: dict[str, bytes] = field(default_factory=dict)  # large files that were uploaded, by sha256
    token: str | None = None  # that writing takes; None: none
    url: str = ""

    def sent(self, name: str) -> list[str]:
        """GET requests for a file so far."""
        return [line for line in self.requests if line.startswith("GET") and f"/{name}" in line]


def etag(name: str, content: bytes) -> str:
    """sha256 of what the hub keeps in LFS, git's own hash of the rest."""
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        self._write()

    def do_PUT(self) -> None:
        self._write()

    def _write(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        content = self._content()
        hub.requests.append(f"{self.command} {path}")
        if hub.status is not None:
            self._send(hub.status, b"{}", {}, True)
        elif match := re.fullmatch(r"/lfs/(\w+)", path):  # what is signed needs no token
            right = hashlib.sha256(content).hexdigest() == match[1]
            hub.objects |= {match[1]: content} if right else {}
            self._send(200 if right else 400, b"", {}, True)
        elif hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(401, b"{}", {}, True)
        elif path == "/api/repos/create":
            asked = json.loads(content)
            repo_id = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            there = any(name == repo_id for name, _ in hub.repositories)
            hub.repositories.setdefault((repo_id, "main"), {})
            self._json({"url": f"{hub.url}/{repo_id}"}, 409 if there else 200)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            names = [file["path"] for file in json.loads(content)["files"]]
            modes = ["lfs" if name.endswith(LARGE) else "regular" for name in names]
            files = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in zip(names, modes, strict=True)]
            self._json({"files": files})
        elif re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            self._json({"transfer": "basic", "objects": list(map(self._place, json.loads(content)["objects"]))})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(match[1], [json.loads(line) for line in content.splitlines()])
        else:
            self._send(404, b"{}", {}, True)

    def _place(self, wanted: dict[str, str]) -> dict[str, object]:
        if wanted["oid"] in self.hub.objects:
            return dict(wanted)
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}

    def _commit(self, repo_id: str, lines: list[dict[str, dict[str, str]]]) -> None:
        files = dict(self.hub.repositories[repo_id, "main"])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        hashes = sorted((name, etag(name, content)) for name, content in files.items())
        revision = hashlib.sha1(json.dumps(hashes).encode()).hexdigest()
        self.hub.repositories[repo_id, "main"] = self.hub.repositories[repo_id, revision] = files
        url = f"{self.hub.url}/{repo_id}/commit/{revision}"
        self._json({"success": True, "commitOid": revision, "commitUrl": url, "hookOutput": ""})

    def _content(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, answer: object, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)

    def _answer(self, body: bool) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if hub.status is not None:
            self._send(hub.status, b"{}", {}, body)
        elif hub.gated:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        elif match := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)/revision/(\w+)", path):
            self._listing(*match.groups(), body=body)
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/(\w+)", path):
            self._tree(*match.groups(), body=body)
        elif match := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            self._file(*match.groups(), body=body)
        else:
            self._send(404, b"{}", {}, body)

    def _listing(self, repo_id: str, revision: str, body: bool) -> None:
        files = self._files(repo_id, revision, body)
        if files is None:
            return
        siblings = []
        for name, content in files.items():
            size = self.hub.claimed_bytes.get(name, len(content))
            sibling = {"rfilename": name, "size": size, "blobId": etag(name, content)}
            if name.endswith(LARGE):
                sibling["lfs"] = {"sha256": etag(name, content), "size": size, "pointerSize": 134}
            siblings.append(sibling)
        answer = {"id": repo_id, "modelId": repo_id, "sha": revision, "siblings": siblings, "private": False}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)

    def _tree(self, repo_id: str, revision: str, body: bool) -> None:
        files = self._files(repo_id, revision, body)
        if files is None:
            return
        found = [
            {"type": "file", "path": name, "size": len(content), "oid": etag(name, content)}
            for name, content in files.items()
        ]
        self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"}, body)

    def _file(self, repo_id: str, revision: str, name: str, body: bool) -> None:
        files = self._files(repo_id, revision, body)
        if files is None:
            return
        if name not in files or name in self.hub.lost:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": revision}, body)
            return
        content = files[name]
        headers = {"ETag": f'"{etag(name, content)}"', "X-Repo-Commit": revision, "Accept-Ranges": "bytes"}
        if name in self.hub.altered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        status = 206 if start else 200
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        cut = body and name in self.hub.cut and self.hub.cuts_left > 0
        self.hub.cuts_left -= cut
        self._send(status, rest, headers, body, stop_at=len(rest) // 2 if cut else None)

    def _files(self, repo_id: str, revision: str, body: bool) -> dict[str, bytes] | None:
        files = self.hub.repositories.get((repo_id, revision))
        if files is None:
            here = any(name == repo_id for name, _ in self.hub.repositories)
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound" if here else "RepoNotFound"}, body)
        return files

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], body: bool, stop_at: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content if stop_at is None else content[:stop_at])
            if stop_at is not None:
                self.wfile.flush()
                self.close_connection = True


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of 127.0.0.1, gone afterwards."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
