"""Find the files of a source and read them in batches of columns: Parquet, JSONL, CSV, `datasets` folders."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from personalllm.core.errors import DataError

__all__ = ["BATCH_ROWS", "Column", "Format", "Part", "Unreadable", "find_parts", "read_batches", "read_columns"]

Format: TypeAlias = Literal["parquet", "jsonl", "csv", "arrow", "memory"]
Column: TypeAlias = Any  # a pyarrow array, or a list of the Python values that a text format holds
BATCH_ROWS = 512
_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".arrow": "arrow",
}
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?:[-_.].*)?\Z")
_SPLIT_NAMES = {"valid": "validation", "val": "validation", "dev": "validation"}
_CUT = "the file is cut off or damaged"
_COPY_AGAIN = "Copy or download the file again and compare its size with the original."


class Unreadable(DataError):
    """A file cannot be read to its end.

    Args:
        kind: Kind of the problem, see `Problem.kind`.
        message: What is wrong.
        remedy: How to mend it.
        row: Row at which reading stopped, counted from 0; None if not one row was reached.
    """

    def __init__(self, kind: str, message: str, remedy: str, row: int | None = None) -> None:
        super().__init__(message, remedy)
        self.kind = kind
        self.row = row

    def __reduce__(self) -> tuple[type[Unreadable], tuple[str, str, str, int | None]]:
        return type(self), (self.kind, self.message, self.remedy, self.row)


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a source.

    Attributes:
        path: The file.
        format: How it is read.
        split: The split that its name or folder gives; None if neither does.
        expected_rows: Rows that the folder's own description promises; None if it is silent.
        table: The columns themselves, for the format `"memory"`.
    """

    path: Path
    format: Format
    split: str | None
    expected_rows: int | None = None
    table: Mapping[str, Column] | None = None


def find_parts(source: Path) -> list[Part]:
    """Return the files of a source in the order in which their rows are counted: train, test, then by name.

    Raises:
        DataError: If there is nothing to read, or files of several formats stand side by side.
    """
    if source.is_file():
        file_format = _format_of(source)
        if file_format is None:
            raise DataError(f"{source} has an unknown suffix.", f"Use one of {', '.join(_SUFFIXES)}.")
        return [Part(source, file_format, _split_of(source.name))]
    if not source.is_dir():
        raise DataError(
            f"There is no file or folder {str(source)!r}.",
            'Give a path, or one of the names "mini" and "personalllm".',
        )
    if (source / "state.json").is_file() or (source / "dataset_dict.json").is_file():
        return _sorted_parts(_datasets_parts(source))
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and not _hidden(path, source)]
    formats = {path: _format_of(path) for path in files}
    kinds = sorted({file_format for file_format in formats.values() if file_format})
    if not kinds:
        raise DataError(f"The folder {source} holds no benchmark file.", f"Put {', '.join(_SUFFIXES)} files there.")
    if len(kinds) > 1:
        raise DataError(
            f"The folder {source} holds files of several formats ({', '.join(kinds)}).",
            "Give one of the files, or keep one format in the folder.",
        )
    parts = [
        Part(path, kind, _split_of(path.name) or _split_of_folder(path, source))
        for path, kind in formats.items()
        if kind is not None
    ]
    return _sorted_parts(parts)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _format_of(path: Path) -> Format | None:
    name = path.name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)


def _split_of(name: str) -> str | None:
    match = _SPLIT.match(name.lower())
    return _SPLIT_NAMES.get(match[1], match[1]) if match else None


def _split_of_folder(path: Path, root: Path) -> str | None:
    parents = path.relative_to(root).parts[:-1]
    return next((split for split in map(_split_of, reversed(parents)) if split), None)


def _sorted_parts(parts: list[Part]) -> list[Part]:
    order = {"train": 0, "test": 1}
    return sorted(parts, key=lambda part: (order.get(part.split or "", 2), part.split or "", str(part.path)))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "Write the folder again with `save_to_disk`.") from error


def _datasets_parts(folder: Path) -> list[Part]:
    """Return the Arrow files of a folder that `datasets` wrote with `save_to_disk`."""
    if (folder / "dataset_dict.json").is_file():
        splits = _read_json(folder / "dataset_dict.json").get("splits", [])
        return [part for split in splits for part in _dataset_parts(folder / split, split)]
    return _dataset_parts(folder, None)


def _dataset_parts(folder: Path, split: str | None) -> list[Part]:
    state = _read_json(folder / "state.json")
    split = split or state.get("_split") or None
    names = [item["filename"] for item in state.get("_data_files", [])]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise DataError(
            f"{folder / 'state.json'} names {', '.join(missing) or 'no data file'}, which is not in the folder.",
            "Copy the whole folder that `save_to_disk` wrote.",
        )
    rows = None
    if len(names) == 1 and (folder / "dataset_info.json").is_file():
        info = (_read_json(folder / "dataset_info.json").get("splits") or {}).get(split or "", {})
        rows = info.get("num_examples") if isinstance(info, dict) else None
    return [Part(folder / name, "arrow", _split_of(split) or split if split else None, rows) for name in names]


def read_columns(part: Part) -> list[str]:
    """Return the column names of a file, in file order; of JSONL, every key that any row has.

    Raises:
        Unreadable: If the file is cut off, empty or not of its format.
    """
    if part.table is not None:
        return list(part.table)
    with _reading(part):
        if part.format == "parquet":
            with _parquet(part.path) as file:
                return list(file.schema_arrow.names)
        if part.format == "arrow":
            with _arrow(part.path) as stream:
                return list(stream.schema.names)
        with _open_text(part.path) as stream:
            if part.format == "csv":
                return next(csv.reader(stream, strict=True), [])
            return _json_names(stream)


def read_batches(part: Part, columns: Sequence[str]) -> Iterator[Mapping[str, Column]]:
    """Yield the rows of a file in order, as batches of at most `BATCH_ROWS`.

    Args:
        part: The file.
        columns: Columns to read; the others are not decoded.

    Raises:
        Unreadable: At the row where the file is cut off or damaged.
    """
    if part.table is not None:
        n_rows = max(map(len, part.table.values()), default=0)
        for start in range(0, n_rows, BATCH_ROWS):
            yield {name: part.table[name][start : start + BATCH_ROWS] for name in columns}
        return
    with _reading(part):
        if part.format == "parquet":
            with _parquet(part.path) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
                    yield {name: batch.column(name) for name in columns}
        elif part.format == "arrow":
            yield from _arrow_batches(part.path, columns)
        else:
            with _open_text(part.path) as stream:
                rows = _csv_rows(stream, columns) if part.format == "csv" else _json_columns(stream, columns)
                for batch in _chunks(rows):
                    yield dict(zip(columns, map(list, zip(*batch, strict=True)), strict=True))


@contextmanager
def _reading(part: Part) -> Iterator[None]:
    """Turn the many ways in which a damaged file shows itself into `Unreadable`."""
    import pyarrow as pa

    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Unreadable("truncated", f"{_CUT} ({error})", _COPY_AGAIN) from error
    except UnicodeDecodeError as error:
        raise Unreadable("encoding", f"the file is not UTF-8 ({error})", "Save it as UTF-8.") from error
    except csv.Error as error:
        raise Unreadable("truncated", f"{_CUT} ({error})", _COPY_AGAIN) from error
    except (pa.ArrowException, OSError) as error:
        text = str(error).strip().rstrip(".").split("\n")[0]
        raise Unreadable("truncated", f"{_CUT}, or not {part.format} ({text})", _COPY_AGAIN) from error


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, memory_map=True, pre_buffer=False)


def _arrow(path: Path) -> Any:
    import pyarrow as pa

    return pa.ipc.open_stream(pa.memory_map(str(path)))


def _arrow_batches(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Column]]:
    with _arrow(path) as stream:
        for batch in stream:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                piece = batch.slice(start, BATCH_ROWS)
                yield {name: piece.column(name) for name in columns}


@contextmanager
def _open_text(path: Path) -> Iterator[IO[str]]:
    with path.open("rb") as raw:
        packed = path.name.lower().endswith(".gz")
        binary: Any = gzip.GzipFile(fileobj=raw, mode="rb") if packed else raw
        with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as stream:
            yield stream


def _chunks(rows: Iterator[list[Any]]) -> Iterator[list[list[Any]]]:
    batch: list[list[Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _csv_rows(stream: IO[str], columns: Sequence[str]) -> Iterator[list[Any]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(stream, strict=True)
    header = next(reader, [])
    positions = [header.index(name) for name in columns]
    for number, row in enumerate(row for row in reader if row):
        if len(row) != len(header):
            raise Unreadable(
                "truncated",
                f"the row has {len(row)} fields where the header has {len(header)}; it is cut off or wrongly quoted",
                _COPY_AGAIN,
                number,
            )
        yield [row[position] for position in positions]


def _json_names(stream: IO[str]) -> list[str]:
    """Return the keys of the rows up to the first damage, which `read_batches` reports with the rows before it."""
    names: dict[str, None] = {}
    try:
        for row in _json_rows(stream):
            names |= dict.fromkeys(row)
    except (Unreadable, EOFError, OSError, UnicodeDecodeError, zlib.error):
        if not names:
            raise
    return list(names)


def _json_columns(stream: IO[str], columns: Sequence[str]) -> Iterator[list[Any]]:
    for row in _json_rows(stream):
        yield [row.get(name) for name in columns]


def _json_rows(stream: IO[str]) -> Iterator[dict[str, Any]]:
    number = 0
    for line in stream:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            if line.endswith("\n"):
                message, remedy = f"the line is not JSON ({error})", "Write one JSON object on each line."
                raise Unreadable("not-json", message, remedy, number) from error
            raise Unreadable("truncated", f"the last line is cut off ({error})", _COPY_AGAIN, number) from error
        if not isinstance(value, dict):
            message = f"the line is a JSON {type(value).__name__}, not an object"
            raise Unreadable("not-json", message, "Write one JSON object on each line.", number)
        yield value
        number += 1
