"""Store files: cache folder, atomic writes, canonical JSON, hashes."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import tomllib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from personalllm.core.errors import UserError

__all__ = [
    "BlobStore",
    "atomic_directory",
    "atomic_path",
    "cache_dir",
    "cache_file",
    "canonical_json",
    "digest",
    "file_sha256",
    "is_loopback",
    "offline",
    "shipped_tables",
    "shipped_text",
    "write_json",
]


K = TypeVar("K")
_KEYS_PER_QUERY = 500


def cache_dir(*parts: str) -> Path:
    """Return a folder (not created) below the user's cache, or below `$PERSONALLLM_CACHE` if that is set."""
    override = os.environ.get("PERSONALLLM_CACHE")
    if override:
        return Path(override).expanduser().joinpath(*parts)
    import platformdirs  # deferred: rarely needed, and import time counts

    return Path(platformdirs.user_cache_dir("personalllm", appauthor=False)).joinpath(*parts)


def shipped_text(package: str, name: str) -> str:
    """Return a text file that stands beside the modules of a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def shipped_tables(package: str, name: str) -> dict[str, Any]:
    """Return the content of a TOML file that stands beside the modules of a package."""
    return tomllib.loads(shipped_text(package, name))


def offline() -> bool:
    """Return whether `$PERSONALLLM_OFFLINE` forbids every connection but loopback."""
    return os.environ.get("PERSONALLLM_OFFLINE", "").lower() not in ("", "0", "false", "no")


def is_loopback(address: str) -> bool:
    """Return whether a URL is that of this machine.

    >>> is_loopback("http://127.0.0.1:8000/v1"), is_loopback("https://example.org")
    (True, False)
    """
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it onto `target` if the block ends well, remove it otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; it is renamed to `target` unless the block fails or that one exists."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.replace(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no white space: equal values give equal text.

    Raises:
        TypeError: If a value cannot be written as JSON.
        ValueError: If a number is not finite.

    >>> canonical_json({"b": 1, "a": [1.5, "x"]})
    '{"a":[1.5,"x"],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of a value's canonical JSON.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(target: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _open_cache(path: Path, identity: str, schema: str) -> sqlite3.Connection:
    """Open the SQLite file of a cache, and create it again if it is damaged: its content can be recomputed.

    Several threads and processes may share the file. A damaged one is kept beside it under the suffix `.damaged`.

    Args:
        path: The file; its folder is made if absent.
        identity: Whose results the file holds, noted in its table `about`.
        schema: Statements that make the other tables.

    Raises:
        OSError, sqlite3.Error: If the file cannot be made, opened or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connect(path, identity, schema)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        path.replace(path.with_suffix(".damaged"))
        return _connect(path, identity, schema)


def _connect(path: Path, identity: str, schema: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=120.0, isolation_level=None, check_same_thread=False)
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
            about = "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);"
            connection.executescript(f"BEGIN IMMEDIATE; {schema} {about} COMMIT;")
            connection.execute("INSERT OR IGNORE INTO about VALUES ('identity', ?)", (identity,))
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def cache_file(room: str, identity: str, directory: Path | None = None) -> Path:
    """Return the SQLite file for what an identity computed, in a folder, or in a room of the user's cache."""
    return (directory or cache_dir(room)) / f"{digest(identity, 32)}.sqlite"


class BlobStore:
    """Blobs by key in a SQLite file, each with a checksum: a damaged one counts as absent.

    A context manager that closes the file. Several threads and processes may share it.

    Args:
        what: Whose cache it is, for messages.
        path: The file, see `cache_file`.
        identity: Whose results it holds.
        table: Name of the table.
        key: Name and SQL type of the column of the keys.
        value: Name of the column of the blobs.

    Raises:
        UserError: If the file cannot be opened, read or written; the methods raise it too.
    """

    def __init__(self, what: str, path: Path, identity: str, table: str, key: str, value: str) -> None:
        self._what, self._path, self._table, self._key = what, path, table, key.split(maxsplit=1)[0]
        self._lock = threading.Lock()
        schema = f"CREATE TABLE IF NOT EXISTS {table} ({key} PRIMARY KEY, {value} BLOB NOT NULL, crc INTEGER NOT NULL);"
        with self._usable():
            self._connection = _open_cache(path, identity, schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def read(self, keys: Sequence[K]) -> Iterator[tuple[K, bytes]]:
        """Yield the keys that have an intact blob, with the blob."""
        with self._usable():
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                query = f"SELECT * FROM {self._table} WHERE {self._key} IN ({marks})"  # noqa: S608
                for key, blob, crc in self._connection.execute(query, part):
                    if isinstance(blob, bytes) and zlib.crc32(blob) == crc:
                        yield key, blob

    def write(self, blobs: Mapping[K, bytes]) -> None:
        """Store blobs in one transaction."""
        rows = [(key, blob, zlib.crc32(blob)) for key, blob in blobs.items()]
        with self._lock, self._usable():
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?, ?)", rows)  # noqa: S608
            self._connection.execute("COMMIT")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"The {self._what} cache {self._path} cannot be used: {error}.",
                "Free the disk or delete the file, or set PERSONALLLM_CACHE to a folder that can be written.",
            ) from error
