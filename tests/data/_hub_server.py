"""A server that speaks the hub's protocol as far as its client needs it, with faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

yaml = pytest.importorskip("yaml")

TOKEN = "hf_top_secret_value"


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, tree: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{message}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = tree, sha
        self.messages.append(message)
        return sha

    def sha(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Hub:
    """State of the server; `faults` holds (method and path as a pattern, what to do, how often)."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[list[Any]] = []
        self.before: list[tuple[str, Callable[[], None]]] = []
        self.owner = "me"
        state = self

        class Handler(_Handler):
            hub = state

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def fail(self, pattern: str, what: int | str, times: int = 1) -> None:
        self.faults.append([pattern, what, times])

    def fault(self, line: str) -> int | str | None:
        for fault in self.faults:
            if fault[2] and re.search(fault[0], line):
                fault[2] -= 1
                return fault[1]
        return None

    def asked(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path in self.requests)


def blob_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str) -> bool:
    return path.endswith(".parquet")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815  (names that http.server looks for)

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self.hub.requests.append((self.command, path))
        for pattern, hook in self.hub.before:
            if re.search(pattern, line):
                hook()
        fault = self.hub.fault(line)
        if fault == "drop":
            self.rfile.read(min(50_000, int(self.headers.get("Content-Length", 0))))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if isinstance(fault, int):
            self._send(fault, {"error": f"{fault} for {self.headers.get('Authorization')}"})
        elif not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid credentials"}, {"X-Error-Message": "Invalid credentials"})
        else:
            self._route(path, body)

    def _route(self, path: str, body: bytes) -> None:
        for pattern, handle in ROUTES:
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found:
                handle(self, *found.groups(), body=body)
                return
        self._send(404, {"error": f"no route {self.command} {path}"})

    def _send(self, status: int, payload: Any = None, headers: dict[str, str] | None = None, raw: bytes | None = None):
        data = json.dumps(payload).encode() if raw is None else raw
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _found(self, name: str, revision: str = "main") -> tuple[Repository, str] | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        sha = repository.sha(revision)
        if sha is None:
            self._send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, sha

    def whoami(self, body: bytes) -> None:
        self._send(200, {"type": "user", "name": self.hub.owner, "orgs": []})

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        assert wanted["type"] == "dataset"
        name = f"{wanted['organization'] or self.hub.owner}/{wanted['name']}"
        if name in self.hub.repositories:
            self._send(409, {"error": "exists", "url": f"{self.hub.endpoint}/datasets/{name}"})
            return
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.hub.repositories[name] = Repository(private)
        self.hub.repositories[name].commit("main", {".gitattributes": b"*.parquet filter=lfs\n"}, "initial commit")
        self._send(200, {"url": f"{self.hub.endpoint}/datasets/{name}"})

    def branch(self, name: str, branch: str, body: bytes) -> None:
        if found := self._found(name):
            found[0].branches[branch] = found[1]
            self._send(201, {})

    def info(self, name: str, _: str | None = None, revision: str | None = None, *, body: bytes) -> None:
        if found := self._found(name, revision or "main"):
            repository, sha = found
            siblings = [{"rfilename": path} for path in repository.commits[sha]]
            self._send(200, {"id": name, "sha": sha, "private": repository.private, "siblings": siblings})

    def tree(self, name: str, revision: str, body: bytes) -> None:
        if found := self._found(name, revision):
            entries = []
            for path, data in found[0].commits[found[1]].items():
                entry = {"type": "file", "path": path, "size": len(data), "oid": blob_oid(data)}
                if is_lfs(path):
                    digest = hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"oid": digest, "sha256": digest, "size": len(data), "pointerSize": 130}
                entries.append(entry)
            self._send(200, entries)

    def validate(self, body: bytes) -> None:
        front = json.loads(body)["content"].split("---\n")[1]
        try:
            known = yaml.safe_load(front)
            assert {"license", "configs", "size_categories", "pretty_name"} <= set(known)
        except (yaml.YAMLError, AssertionError) as error:
            self._send(400, {"errors": [{"message": str(error)}], "warnings": []})
            return
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str, body: bytes) -> None:
        if found := self._found(name, revision):
            held = found[0].commits[found[1]]
            files = []
            for file in json.loads(body)["files"]:
                path, data = file["path"], held.get(file["path"])
                oid = None
                if data is not None:
                    oid = hashlib.sha256(data).hexdigest() if is_lfs(path) else blob_oid(data)
                mode = "lfs" if is_lfs(path) else "regular"
                files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._send(200, {"files": files})

    def batch(self, name: str, body: bytes) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}", "header": {}}
                verify = {"href": f"{self.hub.endpoint}/api/verify", "header": {}}
                entry["actions"] = {"upload": upload, "verify": verify}
            objects.append(entry)
        self._send(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._send(400, {"error": "digest differs"})
            return
        self.hub.objects[oid] = body
        self._send(200, {})

    def verify(self, body: bytes) -> None:
        wanted = json.loads(body)
        held = self.hub.objects.get(wanted["oid"], b"")
        self._send(200 if len(held) == wanted["size"] else 404, {})

    def commit(self, name: str, revision: str, body: bytes) -> None:
        if not (found := self._found(name, revision)):
            return
        repository, head = found
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", head) != head:
            self._send(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        tree = dict(repository.commits[head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                tree[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
            else:
                raise AssertionError(line["key"])
        sha = repository.commit(revision, tree, header["summary"])
        url = f"{self.hub.endpoint}/datasets/{name}/commit/{sha}"
        self._send(200, {"commitOid": sha, "commitUrl": url, "success": True})

    def resolve(self, name: str, revision: str, path: str, body: bytes) -> None:
        if found := self._found(name, revision):
            data = found[0].commits[found[1]].get(path)
            if data is None:
                self._send(404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound"})
                return
            etag = hashlib.sha256(data).hexdigest() if is_lfs(path) else blob_oid(data)
            self._send(200, headers={"X-Repo-Commit": found[1], "ETag": f'"{etag}"'}, raw=data)


_NAME = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (r"POST /api/verify", _Handler.verify),
    (rf"GET /api/datasets/{_NAME}(/revision/(.+))?", _Handler.info),
    (rf"GET /api/datasets/{_NAME}/tree/(.+)", _Handler.tree),
    (rf"POST /api/datasets/{_NAME}/branch/(.+)", _Handler.branch),
    (rf"POST /api/datasets/{_NAME}/preupload/(.+)", _Handler.preupload),
    (rf"POST /api/datasets/{_NAME}/commit/(.+)", _Handler.commit),
    (rf"POST /datasets/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/([0-9a-f]+)", _Handler.put),
    (rf"(?:GET|HEAD) /datasets/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
