"""Rows of JSONL, CSV, Parquet and JSON files, each with the place where it stands."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from personalllm.core.errors import DataError
from personalllm.core.types import JSON

__all__ = ["FORMATS", "rows_of_file"]

FORMATS = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
"""The endings that are read."""


def rows_of_file(path: Path, what: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, JSON]]:
    """Yield (place, row) for each row of a file.

    Args:
        path: The file; its ending says what it is.
        what: What it should hold, for messages, e.g. `votes`.
        wanted: Tells by its name whether a column is needed; of a Parquet file only these are read.

    Raises:
        DataError: If the file is absent, has another ending, or cannot be read; says where.
    """
    kind = next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), None)
    if kind is None:
        raise DataError(f"{path.name} is not a file of {what}.", f"Give one of {', '.join(FORMATS)}.")
    if not path.is_file():
        raise DataError(f"There is no file {path}.", "Check the path.")
    if kind == ".parquet":
        return _parquet(path, wanted)
    if kind.startswith(".csv"):
        return _csv(path)
    return _json_lines(path) if kind.startswith(".jsonl") else _json_items(path)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read: {error}.", "It must be whole, and UTF-8.") from error


def _csv(path: Path) -> Iterator[tuple[str, JSON]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path.name}, line {reader.line_num}: not as many values as columns.", "Quote the commas."
                )
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{path.name} is not CSV: {error}.", "Quote texts with commas or line breaks.") from error


def _json_lines(path: Path) -> Iterator[tuple[str, JSON]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path.name}, line {number}: not JSON: {error}.", "Write one object a line.") from error
        yield _object(path, f"line {number}", row)


def _json_items(path: Path) -> Iterator[tuple[str, JSON]]:
    try:
        items = json.loads(_text(path))
    except ValueError as error:
        raise DataError(
            f"{path.name} is not JSON: {error}.", "For one object a line, end the name in .jsonl."
        ) from error
    if not isinstance(items, list):
        raise DataError(f"{path.name} holds no list of objects.", "Write a list, or one object a line (.jsonl).")
    for number, row in enumerate(items, 1):
        yield _object(path, f"item {number}", row)


def _object(path: Path, place: str, row: Any) -> tuple[str, JSON]:
    if not isinstance(row, dict):
        raise DataError(f"{path.name}, {place}: not an object.", "Write one object with the columns as keys.")
    return place, row


def _parquet(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, JSON]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            known = [name for name in file.schema_arrow.names if wanted(name)]
            for batch in file.iter_batches(batch_size=1024, columns=known):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is cut off, or not Parquet: {error}.", "Write it again.") from error
