"""The page in a real browser: it asks for nothing but itself, and it draws."""

from __future__ import annotations

import http.server
import re
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from personalllm.evaluation.results import Results
from personalllm.report import render_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install it to test the report in a browser"),
]


@pytest.fixture
def served(both: list[Results], tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the page on loopback; yield its address and the list of paths asked for."""
    page = render_report(both, tmp_path / "report.html").read_bytes()
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path == "/report.html" else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if self.path == "/report.html":
                self.wfile.write(page)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/report.html", asked
    server.shutdown()
    thread.join()
    server.server_close()


def browse(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def pixels(path: Path) -> tuple[int, int, set[bytes]]:
    """Return width, height and the distinct filtered scan lines of a PNG."""
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    chunks, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            chunks += data[at + 8 : at + 8 + length]
        at += 12 + length
    raw = zlib.decompress(chunks)
    step = len(raw) // height
    return width, height, {raw[i : i + step] for i in range(0, len(raw), step)}


def test_the_browser_asks_for_the_page_only(served: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = served
    dom = browse(tmp_path, "--dump-dom", address).stdout
    assert asked == ["/report.html"]
    assert dom.count('<svg class="figure"') == 4
    assert "Two users who want different things" in dom
    assert not re.search(r'(?:src|href)="(?:https?:)?//', dom)


@pytest.mark.parametrize("width", [1280, 800])
def test_it_draws(width: int, served: tuple[str, list[str]], tmp_path: Path) -> None:
    address, _ = served
    shot = tmp_path / "shot.png"
    browse(tmp_path, f"--window-size={width},1600", f"--screenshot={shot}", address)
    across, down, lines = pixels(shot)
    assert (across, down) == (width, 1600)
    assert len(lines) > 200, "the page looks blank"
