"""Rows of JSONL, JSON, CSV and Parquet files, each with the place where it stands."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from personalllm.core.errors import DataError

__all__ = ["BadRow", "Row", "read_rows"]

_BATCH = 1024
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".json": "json",
    ".json.gz": "json",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
}
_COPY_AGAIN = "Copy or download the file again and compare its size with the original."


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        place: Where it stands, e.g. `"line 3"`.
        values: Its columns.
    """

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        path: The file.
        place: Where it stands, e.g. `"line 3"`.
        reason: What is wrong.
    """

    path: Path
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, {self.place}: {self.reason}"


def read_rows(path: Path, reader: str) -> Iterator[Row | BadRow]:
    """Yield the rows of a file; a damaged row of a text file is yielded as such and reading goes on.

    Args:
        path: The file; its suffix says the format.
        reader: Who reads; `"jsonl"`, `"csv"` and `"parquet"` take that format whatever the suffix.

    Raises:
        DataError: If the suffix is unknown, or the file is cut off or not of its format.
    """
    suffix = next((known for known in sorted(_SUFFIXES, key=len)[::-1] if path.name.lower().endswith(known)), "")
    kind = reader if reader in ("jsonl", "csv", "parquet") else _SUFFIXES.get(suffix, "")
    if not kind:
        raise DataError(f"{path} has an unknown suffix.", f"Use one of {', '.join(_SUFFIXES)}.")
    try:
        if kind == "parquet":
            yield from _parquet_rows(path)
        elif kind == "csv":
            yield from _csv_rows(path)
        elif kind == "json":
            yield from _json_items(path)
        else:
            yield from _json_lines(path)
    except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
        raise DataError(f"{path} is cut off or damaged ({error}).", _COPY_AGAIN) from error


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacked if its first two bytes are those of gzip."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
            yield unpacked  # type: ignore[misc]


def _json_lines(path: Path) -> Iterator[Row | BadRow]:
    with _open(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            yield _row(path, f"line {number}", line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _row(path: Path, place: str, line: bytes) -> Row | BadRow:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(path, place, f"not UTF-8 ({error.reason} at byte {error.start})")
    except (ValueError, RecursionError) as error:
        return BadRow(path, place, f"not JSON ({error})")
    if not isinstance(value, dict):
        return BadRow(path, place, f"a JSON {type(value).__name__}, not an object")
    return Row(place, value)


def _json_items(path: Path) -> Iterator[Row | BadRow]:
    with _open(path) as stream:
        try:
            items = json.loads(stream.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not UTF-8 ({error.reason} at byte {error.start}).", "Save it as UTF-8."
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON ({error}).", "It must hold one JSON array of objects.") from error
    if not isinstance(items, list):
        raise DataError(f"{path} holds a JSON {type(items).__name__}, not an array.", "Give an array of objects.")
    for number, value in enumerate(items, 1):
        if isinstance(value, dict):
            yield Row(f"item {number}", value)
        else:
            yield BadRow(path, f"item {number}", f"a JSON {type(value).__name__}, not an object")


def _csv_rows(path: Path) -> Iterator[Row | BadRow]:
    csv.field_size_limit(2**31 - 1)
    with _open(path) as binary:
        # A wrong byte becomes a lone surrogate, so that it is reported with its line and not before the first one.
        stream = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(stream, strict=True)
        try:
            header = next(reader, [])
            if not _is_utf8(header):
                raise DataError(f"{path}, line 1: not UTF-8.", "Save the file as UTF-8.")
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise DataError(f"{path}: the header names {', '.join(twice)} twice.", "Rename one of the columns.")
            before = reader.line_num
            for row in reader:
                place, before = f"line {before + 1}", reader.line_num
                if not row:
                    continue
                if len(row) != len(header):
                    yield BadRow(path, place, f"{len(row)} fields where the header has {len(header)}")
                elif not _is_utf8(row):
                    yield BadRow(path, place, "not UTF-8")
                else:
                    yield Row(place, dict(zip(header, row, strict=True)))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV ({error}).", "Mend the quotes.") from error
        finally:
            stream.detach()


def _is_utf8(row: list[str]) -> bool:
    return not any("\udc80" <= character <= "\udcff" for cell in row for character in cell)


def _parquet_rows(path: Path) -> Iterator[Row | BadRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            names = [
                field.name
                for field in file.schema_arrow
                if pa.types.is_string(field.type)
                or pa.types.is_large_string(field.type)
                or pa.types.is_dictionary(field.type)
            ]
            others = [name for name in file.schema_arrow.names if name not in names]
            for batch in file.iter_batches(batch_size=_BATCH, columns=names):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", values | dict.fromkeys(others, _NotText()))
    except pa.ArrowException as error:
        text = str(error).strip().rstrip(".").split("\n")[0]
        raise DataError(f"{path} is cut off, or not Parquet ({text}).", _COPY_AGAIN) from error


class _NotText:
    """Stands for the value of a column that holds no text and was not decoded."""
