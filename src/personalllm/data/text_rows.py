"""Read the rows of text files: CSV with any delimiter, JSON lines and JSON arrays, also gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from personalllm.core.errors import DataError
from personalllm.core.types import JSON
from personalllm.data.files import Part

__all__ = ["COPY_AGAIN", "BadRow", "Unreadable", "csv_header", "text_rows"]

COPY_AGAIN = "Copy or download the file again and compare its size with the original."
_LINES = "Write one JSON object on each line, or one array of objects."
_DELIMITERS = ",;\t|"


class Unreadable(DataError):
    """A file cannot be read to its end, or not at all.

    Args:
        kind: Kind of the problem, see `Problem.kind`.
        message: What is wrong, without the name of the file.
        remedy: How to fix it.
    """

    def __init__(self, kind: str, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.kind = kind

    def __reduce__(self) -> tuple[type[Unreadable], tuple[str, str, str]]:
        return type(self), (self.kind, self.message, self.remedy)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        source: The file, or the name of the table in memory.
        location: Where the row is, e.g. `"line 3"`.
        kind: Kind of the problem, see `Problem.kind`.
        reason: What is wrong.
        remedy: How to fix it.
    """

    source: str
    location: str
    kind: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.source}, {self.location}: {self.reason}"


def csv_header(path: Path) -> list[str]:
    """Return the first row of a CSV file that is not blank."""
    with _open_text(path) as stream:
        return _header(csv.reader(stream, delimiter=_delimiter(stream), strict=True))


def _header(reader: Iterator[list[str]]) -> list[str]:
    return next((cells for cells in reader if any(map(str.strip, cells))), [])


def text_rows(part: Part) -> Iterator[tuple[str, int, JSON | BadRow]]:
    """Yield (`"line"` or `"item"`, its number from 1, the row or what is wrong with it).

    Raises:
        Unreadable: If the file cannot be read further.
    """
    source = str(part.path)
    with _open_text(part.path) as stream:
        if part.format == "csv":
            unit, rows = "line", _csv_rows(stream, source)
        elif _first_character(stream) == "[":
            unit, rows = "item", _json_items(stream, source)
        else:
            unit, rows = "line", _json_lines(stream, source)
        for number, row in rows:
            yield unit, number, row


@contextmanager
def _open_text(path: Path) -> Iterator[IO[str]]:
    """Open a text file, unpacked if its first bytes are those of gzip, whatever its name says."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        binary: Any = io.BufferedReader(gzip.GzipFile(fileobj=raw, mode="rb")) if packed else raw
        head = binary.peek(4)[:4]
        if head == b"PAR1" or head[:2] == b"PK":
            what = "Parquet" if head == b"PAR1" else "a ZIP archive, such as an Excel file"
            raise Unreadable("truncated", f"the file is {what}", f"Name it so, or save it as {path.suffix[1:]}.")
        # That of UTF-32 also begins with the mark of UTF-16, as which its every second character would be a NUL.
        if head in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
            raise Unreadable("encoding", "the file is UTF-32", "Save it as UTF-8.")
        encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        # A wrong byte becomes a lone surrogate, so that it is reported with its row and not before the first one.
        with io.TextIOWrapper(binary, encoding=encoding, errors="surrogateescape", newline="") as stream:
            yield stream


def _delimiter(stream: IO[str]) -> str:
    """Return the delimiter that the header holds most often outside quotes, and go back to the start."""
    line = next((line for line in stream if line.strip()), "")
    stream.seek(0)
    bare = "".join(line.split('"')[::2])
    return max(_DELIMITERS, key=bare.count)


def _csv_rows(stream: IO[str], source: str) -> Iterator[tuple[int, JSON | BadRow]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(stream, delimiter=_delimiter(stream), strict=True)
    header = _header(reader)
    if reason := _wrong_bytes("".join(header)):
        raise Unreadable("encoding", f"the header is {reason}", "Save it as UTF-8.")
    before = reader.line_num
    for cells in _whole_rows(reader):
        # A cell may hold line breaks: the row is where it begins.
        number, before = before + 1, reader.line_num
        if not cells:
            continue
        reason, kind, remedy = _wrong_bytes("".join(cells)), "encoding", "Save it as UTF-8."
        if len(cells) != len(header):
            reason = f"{len(cells)} fields where the header has {len(header)}; it is cut off or wrongly quoted"
            kind, remedy = "truncated", f"Quote texts with delimiters or line breaks. {COPY_AGAIN}"
        row = dict(
            zip(header, (cell or None for cell in cells), strict=False)
        )  # no cell is the empty text, as in pandas
        yield number, BadRow(source, f"line {number}", kind, reason, remedy) if reason else row


def _whole_rows(reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        message = f"line {reader.line_num}: the file is cut off or damaged, or wrongly quoted ({error})"
        raise Unreadable("truncated", message, COPY_AGAIN) from error


def _first_character(stream: IO[str]) -> str:
    head = next((head for head in iter(lambda: stream.read(1024), "") if not head.isspace()), "")
    stream.seek(0)
    return head.lstrip()[:1]


def _json_items(stream: IO[str], source: str) -> Iterator[tuple[int, JSON | BadRow]]:
    text = stream.read()
    if reason := _wrong_bytes(text):
        raise Unreadable("encoding", f"the file is {reason}", "Save it as UTF-8.")
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("not-json", f"the file is cut off, or not JSON ({error})", _LINES) from error
    for number, value in enumerate(items, 1):
        yield number, _json_object(value, source, f"item {number}")


def _json_lines(stream: IO[str], source: str) -> Iterator[tuple[int, JSON | BadRow]]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        location = f"line {number}"
        reason = _wrong_bytes(line)
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not line.endswith("\n"):
                yield number, BadRow(source, location, "truncated", f"cut off, not JSON ({error})", COPY_AGAIN)
            elif not reason:
                yield number, BadRow(source, location, "not-json", f"not JSON ({error})", _LINES)
        else:
            if not reason:
                yield number, _json_object(value, source, location)
        if reason:
            yield number, BadRow(source, location, "encoding", reason, "Save it as UTF-8.")


def _json_object(value: Any, source: str, location: str) -> JSON | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow(source, location, "not-json", f"a JSON {type(value).__name__}, not an object", _LINES)


def _wrong_bytes(text: str) -> str:
    """Return what is wrong with the bytes that a text was decoded from; empty if nothing is."""
    if text.isascii():
        return ""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            text.encode("utf-8", "surrogateescape").decode()
        except UnicodeDecodeError as error:
            return f"not UTF-8 ({error.reason} at byte {error.start})"
    return ""
