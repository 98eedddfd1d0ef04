"""Download wheels from the user's package index, with or without pip installed.

The index is the one that pip and uv use on this machine: their environment variables and configuration files are read.
A wheel is identified by its SHA-256, so it does not matter which of several indexes has it.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import ssl
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import pathname2url, url2pathname

from personalllm.backends.models.registry import Wheel
from personalllm.backends.transport import back_off
from personalllm.core.errors import OfflineError, UserError

if TYPE_CHECKING:
    import httpx

__all__ = ["IndexSettings", "download_wheel", "index_settings", "same_wheel"]

_DEFAULT_INDEX = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_TRIES = 5
_SECONDS = 60.0


@dataclass(frozen=True)
class IndexSettings:
    """Where wheels are looked for.

    Attributes:
        indexes: Addresses of package indexes (PEP 503), `http(s)://` or `file://`, tried in this order.
        find_links: Folders, or addresses of pages, with links to wheels; tried before the indexes.
        certificate: File of certificate authorities; the system's (`SSL_CERT_FILE`, else the shipped ones) if empty.
        proxy: Address of a proxy; the environment's (`HTTPS_PROXY`) if empty.
    """

    indexes: tuple[str, ...] = (_DEFAULT_INDEX,)
    find_links: tuple[str, ...] = ()
    certificate: str = ""
    proxy: str = ""


def index_settings() -> IndexSettings:
    """Return the settings of pip and uv on this machine.

    An environment variable comes before a file, a file of the user before one of the system, uv before pip.

    Raises:
        UserError: If a configuration file cannot be read.
    """
    pip, uv = _pip_settings(), _uv_settings()
    main = _words(uv.get("default-index")) or _words(uv.get("index-url")) or _words(pip.get("index-url"))
    extra = [
        *_words(uv.get("index")),
        *_words(uv.get("extra-index-url")),
        *_words(pip.get("extra-index-url")),
    ]
    no_index = str(pip.get("no-index") or uv.get("no-index") or "").lower() in ("1", "true", "yes", "on")
    indexes = () if no_index else (*(main[:1] or [_DEFAULT_INDEX]), *extra)
    links = (*_words(uv.get("find-links")), *_words(pip.get("find-links")))
    return IndexSettings(
        tuple(dict.fromkeys(url.rstrip("/") for url in indexes)),
        tuple(dict.fromkeys(links)),
        str(pip.get("cert") or ""),
        str(pip.get("proxy") or ""),
    )


def _words(value: object) -> list[str]:
    """Return the addresses of a setting; uv may put `name=` before an address."""
    items = value if isinstance(value, list) else str(value or "").split()
    return [re.sub(r"^[A-Za-z0-9_.-]+=(?=[a-z]+://|/)", "", str(item)) for item in items]


def _pip_settings() -> dict[str, str]:
    """Return pip's settings as `pip download` has them, by their names in its configuration file."""
    import platformdirs

    named = os.environ.get("PIP_CONFIG_FILE", "")
    files = [Path("/etc/pip.conf")]
    files += [Path(folder) / "pip" / "pip.conf" for folder in platformdirs.site_config_dir(multipath=True).split(":")]
    files += [
        Path.home() / ".pip" / "pip.conf",
        Path(platformdirs.user_config_dir("pip", appauthor=False)) / "pip.conf",
    ]
    files += [Path(sys.prefix) / "pip.conf", *([Path(named)] if named else [])]
    if sys.platform == "win32":
        files = [file.with_suffix(".ini") if file.name == "pip.conf" else file for file in files]
    settings: dict[str, str] = {}
    for file in files if named != os.devnull else []:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise UserError(f"pip's configuration {file} cannot be read: {error}.", "Fix the file.") from None
        for section in ("global", "download"):
            settings |= dict(parser[section]) if parser.has_section(section) else {}
    return settings | {
        name: value
        for name in ("index-url", "extra-index-url", "find-links", "no-index", "cert", "proxy")
        if (value := os.environ.get(f"PIP_{name.upper().replace('-', '_')}", ""))
    }


def _uv_settings() -> dict[str, Any]:
    """Return uv's settings; of its files, those of the user and of the system."""
    import platformdirs

    files = [Path("/etc/uv/uv.toml"), Path(platformdirs.user_config_dir("uv", appauthor=False)) / "uv.toml"]
    settings: dict[str, Any] = {}
    for file in [Path(os.environ["UV_CONFIG_FILE"])] if os.environ.get("UV_CONFIG_FILE") else files:
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError:
            continue
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"uv's configuration {file} cannot be read: {error}.", "Fix the file.") from None
        settings |= table.get("pip", {}) | table
        indexes = [entry for entry in table.get("index", []) if isinstance(entry, dict) and "url" in entry]
        settings["index"] = [entry["url"] for entry in indexes if not entry.get("default")]
        settings["default-index"] = [entry["url"] for entry in indexes if entry.get("default")]
    names = ("default-index", "index-url", "index", "extra-index-url", "find-links", "no-index")
    environment = {name: os.environ.get(f"UV_{name.upper().replace('-', '_')}", "") for name in names}
    return settings | {name: value.replace(",", " ") for name, value in environment.items() if value}


def same_wheel(wheel: Wheel, filename: str) -> bool:
    """Return whether a file name is that of the wheel, in any spelling of the project's name."""
    parts = filename.removesuffix(".whl").split("-")
    project = re.sub(r"[-_.]+", "_", wheel.project).lower()
    named = re.sub(r"[-_.]+", "_", parts[0]).lower()
    return filename.endswith(".whl") and len(parts) >= 5 and named == project and parts[1] == wheel.version


def download_wheel(wheel: Wheel, target: Path, settings: IndexSettings, progress: Callable[[int], None]) -> None:
    """Download a wheel into a file; what has arrived stays in `target` if it fails, and the next call goes on there.

    Args:
        wheel: The wheel.
        target: The file; it may hold the beginning of the wheel. Its content is not verified here.
        settings: Where to look.
        progress: Called with the bytes that have arrived.

    Raises:
        OfflineError: If no index has the wheel or none can be reached; names each and says why.
    """
    reasons = []
    with _client(settings) as client:
        for page in [*settings.find_links, *(f"{url}/{_normalised(wheel.project)}/" for url in settings.indexes)]:
            where = _without_password(page)
            try:
                links = [link for link in _links(client, page) if same_wheel(wheel, link.filename)]
                link = next((link for link in links if link.sha256 in ("", wheel.sha256)), None)
                if link is not None:
                    _download(client, link.url, target, wheel, progress)
                    return
                reasons.append(f"{where} has {'another file of that version' if links else 'no such wheel'}")
            except _failures() as error:
                reasons.append(f"{where} failed ({type(error).__name__}: {_without_password(str(error))})")
    raise OfflineError(
        "; ".join(reasons) or "no index is configured (PIP_NO_INDEX is set)",
        "Check the index of pip or uv (PIP_INDEX_URL, UV_DEFAULT_INDEX, their configuration files) and the network.",
    )


def _failures() -> tuple[type[Exception], ...]:
    """Return what an index that is down, or is none, raises: of the files, of its JSON, of HTTP."""
    import httpx

    return (OSError, ValueError, LookupError, httpx.HTTPError, httpx.InvalidURL)


def _client(settings: IndexSettings) -> httpx.Client:
    import httpx

    context: ssl.SSLContext | bool = True
    if settings.certificate:
        try:
            context = ssl.create_default_context(cafile=settings.certificate)
        except OSError as error:
            raise UserError(
                f"The certificates {settings.certificate} of pip's setting `cert` cannot be read: {error}.",
                "Correct the setting (PIP_CERT, or cert in pip.conf).",
            ) from None
    return httpx.Client(
        follow_redirects=True,
        timeout=_SECONDS,
        verify=context,
        proxy=settings.proxy or None,
        headers={"Accept": _ACCEPT},
    )


@dataclass(frozen=True)
class _Link:
    """A file that a page links to."""

    url: str
    filename: str
    sha256: str = ""


class _Anchors(HTMLParser):
    """Collects the addresses of a page's links."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href")
        if tag == "base" and address:
            self.base = urljoin(self.base, address)
        elif tag == "a" and address:
            self.addresses.append(urljoin(self.base, address))


def _links(client: httpx.Client, page: str) -> Iterator[_Link]:
    """Yield the files of a page of an index (JSON of PEP 691 or HTML of PEP 503), or of a folder."""
    folder = _local(page)
    if folder is not None and folder.is_dir() and not (folder / "index.html").is_file():
        yield from (_Link(_file_url(path), path.name) for path in sorted(folder.glob("*.whl")))
        return
    if folder is not None:
        file = folder / "index.html" if folder.is_dir() else folder
        if file.is_file():
            yield from _html_links(file.read_text(encoding="utf-8", errors="replace"), _file_url(file))
        return
    response = client.get(page)
    if response.status_code == 404:
        return
    response.raise_for_status()
    base = str(response.url)
    if "json" not in response.headers.get("Content-Type", ""):
        yield from _html_links(response.text, base)
        return
    for entry in response.json()["files"]:
        yield _Link(urljoin(base, entry["url"]), entry["filename"], entry.get("hashes", {}).get("sha256", ""))


def _html_links(text: str, base: str) -> Iterator[_Link]:
    anchors = _Anchors(base)
    anchors.feed(text)
    for address in anchors.addresses:
        url, fragment = urldefrag(address)
        yield _Link(url, unquote(urlsplit(url).path.rpartition("/")[2]), fragment.partition("sha256=")[2])


def _download(client: httpx.Client, url: str, target: Path, wheel: Wheel, progress: Callable[[int], None]) -> None:
    """Write a file, going on where an earlier try was cut off."""
    import httpx

    file = _local(url)
    if file is not None:
        shutil.copyfile(file, target)
        progress(target.stat().st_size)
        return
    for attempt in range(_TRIES):
        try:
            _receive(client, url, target, wheel, progress)
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500 or attempt == _TRIES - 1:
                raise
        except httpx.TransportError:
            if attempt == _TRIES - 1:
                raise
        else:
            return
        time.sleep(back_off(attempt))


def _receive(client: httpx.Client, url: str, target: Path, wheel: Wheel, progress: Callable[[int], None]) -> None:
    """Receive the bytes that are missing; a server without ranges sends the file from its beginning."""
    arrived = target.stat().st_size if target.is_file() else 0
    if wheel.size and arrived >= wheel.size:
        arrived = 0
    # Without `identity` a server may compress, and a range would count bytes of the compressed file.
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"} | ({"Range": f"bytes={arrived}-"} if arrived else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416 and arrived:  # the file there is shorter than what arrived, or has changed
            target.unlink()
            _receive(client, url, target, wheel, progress)
            return
        response.raise_for_status()
        arrived = arrived if response.status_code == 206 else 0
        with target.open("ab" if arrived else "wb") as output:
            for block in response.iter_raw():  # a chunk size would hold blocks back, and a cut would lose them
                output.write(block)
                arrived += len(block)
                progress(arrived)


def _normalised(project: str) -> str:
    return re.sub(r"[-_.]+", "-", project).lower()


def _local(url: str) -> Path | None:
    """Return the path of a `file://` address or of a plain path; None for an address on the network."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme in ("http", "https") else Path(url).expanduser()


def _file_url(path: Path) -> str:
    return "file://" + pathname2url(str(path.resolve()))


def _without_password(text: str) -> str:
    """Return an address, or a text with addresses, without users and passwords.

    A password may hold `@` and `/` as they are, so all up to the last `@` of an address goes: where the path holds one
    too, the host is lost with the password.
    """
    rest = r"(?:(?!://)\S)*@"  # up to the last @ before the next address
    return re.sub(rf"(?<=://)[^\s/:@]*(?::{rest}|@(?:{rest})?)", "", text)
