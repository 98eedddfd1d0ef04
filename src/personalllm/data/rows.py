"""Read rows of named columns from files of every format and from tables in memory.

This is the only reader of rows: benchmarks take whole blocks of columns, everything else takes single rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeAlias

from personalllm.core.errors import DataError, ParameterError
from personalllm.core.types import JSON
from personalllm.data.cells import Row
from personalllm.data.files import Part, find_parts
from personalllm.data.memory import table_part

__all__ = [
    "BadRow",
    "Block",
    "Column",
    "Unreadable",
    "match_names",
    "parts_of",
    "read_blocks",
    "read_entries",
    "read_names",
    "read_rows",
]

Column: TypeAlias = Any  # a pyarrow array, or a list of the Python values that a text format holds
_BLOCK_ROWS = 512
_CUT = "the file is cut off or damaged"
_COPY_AGAIN = "Copy or download the file again and compare its size with the original."
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
        place: Where the row is, e.g. `"line 3"`.
        kind: Kind of the problem, see `Problem.kind`.
        reason: What is wrong.
        remedy: How to fix it.
    """

    source: str
    place: str
    kind: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.source}, {self.place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of a source.

    Attributes:
        unit: What `numbers` count: `"line"`, `"item"` (of a JSON array) or `"row"`.
        numbers: Where each row is, counted from 1.
        values: The rows as dicts, or the columns by name.
        bad: The damaged row that follows these rows; None if the block ended for another reason.
    """

    unit: str
    numbers: Sequence[int]
    values: Sequence[JSON] | Mapping[str, Column]
    bad: BadRow | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def column(self, name: str) -> Column:
        """Return a column as an Arrow array or a list; None where a row does not have it."""
        if isinstance(self.values, Mapping):
            return self.values[name]
        return [row.get(name) for row in self.values]

    def rows(self) -> Iterator[JSON]:
        """Yield the rows as dicts of Python values."""
        if not isinstance(self.values, Mapping):
            yield from self.values
            return
        columns = [list(column) if isinstance(column, list) else column.to_pylist() for column in self.values.values()]
        for cells in zip(*columns, strict=True):
            yield dict(zip(self.values, cells, strict=True))


def parts_of(source: Any) -> list[Part]:
    """Return the parts of a path or of a table in memory.

    Args:
        source: The path of a file or folder, a list of dicts, a pandas or polars DataFrame, a pyarrow table, a
            `datasets.Dataset`, or a dict of these by split.

    Raises:
        DataError: If there is nothing to read.
        ParameterError: If the source is something else.
    """
    if isinstance(source, str | Path):
        return find_parts(Path(source).expanduser())
    if isinstance(source, dict):
        return [table_part(table, split) for split, table in source.items()]
    return [table_part(source)]


def read_rows(
    source: Any,
    names: Iterable[str],
    *,
    columns: Mapping[str, str] | None = None,
    extra: Callable[[str], bool] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a source.

    Args:
        source: As for `parts_of`.
        names: Columns that are wanted; the others of a table are not decoded. A column is also recognised in other
            letter case, surrounded by space, or with spaces for underscores.
        columns: What the source calls a column, e.g. `{"user": "annotator"}`.
        extra: True for names of further columns that are wanted.

    Raises:
        DataError: If the source cannot be read, or at a damaged row; says where.
        ParameterError: If `columns` names a column that is not wanted.
    """
    for entry in read_entries(parts_of(source), names, columns=columns, extra=extra):
        if isinstance(entry, BadRow):
            raise DataError(f"{entry}.", entry.remedy)
        yield entry


def read_entries(
    parts: Iterable[Part],
    names: Iterable[str],
    *,
    columns: Mapping[str, str] | None = None,
    extra: Callable[[str], bool] | None = None,
) -> Iterator[Row | BadRow]:
    """Yield the rows of a source; a damaged row of a text file is yielded as such and reading goes on.

    Arguments and errors are those of `read_rows`.
    """
    wanted = frozenset(names)
    if columns and not columns.keys() <= wanted:
        raise ParameterError("columns", f"of {', '.join(sorted(wanted))}", sorted(columns.keys() - wanted))
    for part in parts:
        try:
            yield from _part_entries(part, wanted, columns or {}, extra or frozenset[str]().__contains__)
        except Unreadable as error:
            raise DataError(f"{part.path}: {error.message}.", error.remedy) from error


def _part_entries(
    part: Part, wanted: frozenset[str], columns: Mapping[str, str], extra: Callable[[str], bool]
) -> Iterator[Row | BadRow]:
    source = str(part.path)
    if part.format == "json":
        # Rows of JSON may differ in their keys, and reading all keys first would parse the file twice.
        blocks = read_blocks(part)
        first = next((block for block in blocks if len(block) or block.bad), None)
        present: Sequence[str] = list(dict.fromkeys(chain(*first.rows()))) if first is not None else ()
        renames = match_names(present, wanted, columns) if present else {}
        blocks = chain(() if first is None else (first,), blocks)
    else:
        present = read_names(part)
        renames = match_names(present, wanted, columns)
        blocks = read_blocks(part, lambda name: renames.get(name, name) in wanted or extra(name))
    with _reading(part):
        for block in blocks:
            for number, values in zip(block.numbers, block.rows(), strict=True):
                ours = {renames.get(name, name): value for name, value in values.items()} if renames else values
                names = tuple(values) if part.format == "json" else present
                yield Row(source, f"{block.unit} {number}", ours, names)
            if block.bad is not None:
                yield block.bad


def match_names(present: Sequence[str], wanted: Iterable[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of a source that have another name than ours, each with our name.

    Args:
        present: Names of the source.
        wanted: Our names.
        columns: What the source calls some of ours.

    Raises:
        Unreadable: If the source lacks a column of `columns`, or a wanted column is there twice.

    >>> match_names(["Prompt", "who", "extra"], ["prompt", "user"], {"user": "who"})
    {'who': 'user', 'Prompt': 'prompt'}
    """
    renames = {}
    for ours, theirs in columns.items():
        if theirs not in present:
            near = get_close_matches(theirs, present, n=2, cutoff=0.6)
            meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            held = ", ".join(map(repr, present)) or "none"
            raise Unreadable(
                "column-missing", f"there is no column {theirs!r} (for {ours!r})", f"It has {held}.{meant}"
            )
        renames[theirs] = ours
    by_key: dict[str, list[str]] = {}
    for theirs in present:
        by_key.setdefault("_".join(theirs.casefold().split()), []).append(theirs)
    for ours in wanted:
        alike = by_key.get(ours.casefold(), [])
        if ours in columns or ours in present or len(alike) != 1 or alike[0] in renames:
            continue
        renames[alike[0]] = ours
    sources = {renames.get(theirs, theirs): present.count(theirs) for theirs in present}
    twice = sorted(ours for ours in wanted if sources.get(ours, 0) > 1)
    if twice:
        raise Unreadable("column-twice", f"the header names {', '.join(twice)} twice", "Rename one of the columns.")
    return {theirs: ours for theirs, ours in renames.items() if theirs != ours}


def read_names(part: Part) -> list[str]:
    """Return the column names of a part, in its order; of JSON, every key that any row has.

    Raises:
        Unreadable: If the file is cut off, empty or not of its format.
    """
    with _reading(part):
        if part.format == "memory":
            if isinstance(part.table, Sequence):
                return list(dict.fromkeys(chain(*part.table)))
            return list(getattr(part.table, "column_names", part.table))
        if part.format in ("parquet", "arrow"):
            with _open_arrow(part) as (schema, _):
                return list(schema.names)
        with _open_text(part.path) as stream:
            if part.format == "csv":
                reader = csv.reader(stream, delimiter=_delimiter(stream), strict=True)
                return next(reader, [])
        return _json_names(part)


def _json_names(part: Part) -> list[str]:
    """Return the keys of the rows up to the first damage, which `read_blocks` reports with the rows before it."""
    names: dict[str, None] = {}
    bad = None
    try:
        for block in read_blocks(part):
            names |= dict.fromkeys(chain(*block.rows()))
            bad = bad or block.bad
    except Unreadable:
        if not names:
            raise
    if bad is not None and not names:
        raise Unreadable(bad.kind, f"{bad.place}: {bad.reason}", bad.remedy)
    return list(names)


def read_blocks(
    part: Part, wanted: Callable[[str], bool] | None = None, renames: Mapping[str, str] | None = None
) -> Iterator[Block]:
    """Yield the rows of a part in order, in blocks of at most 512.

    Args:
        part: The file or table.
        wanted: True for names of columns to read, as the source calls them; None reads all. Ignored for JSON.
        renames: The columns of the source that get another name.

    Raises:
        Unreadable: If the file is cut off, damaged or not of its format.
    """
    with _reading(part):
        if part.format == "memory" or part.format in ("parquet", "arrow"):
            blocks = _column_blocks(part, wanted or (lambda _: True))
        else:
            blocks = _text_blocks(part)
        for block in blocks:
            yield _renamed(block, renames) if renames else block


def _renamed(block: Block, renames: Mapping[str, str]) -> Block:
    if isinstance(block.values, Mapping):
        values: Any = {renames.get(name, name): column for name, column in block.values.items()}
    else:
        values = [{renames.get(name, name): value for name, value in row.items()} for row in block.values]
    return Block(block.unit, block.numbers, values, block.bad)


def _column_blocks(part: Part, wanted: Callable[[str], bool]) -> Iterator[Block]:
    start = 0
    for columns in _memory_columns(part) if part.format == "memory" else _arrow_columns(part, wanted):
        values = columns
        if isinstance(columns, Mapping):
            values = {name: column for name, column in columns.items() if wanted(name)}
            n_rows = len(next(iter(columns.values()), ()))
        else:
            n_rows = len(columns)
        yield Block("row", range(start + 1, start + n_rows + 1), values)
        start += n_rows


def _memory_columns(part: Part) -> Iterator[Any]:
    table = part.table
    if hasattr(table, "to_batches"):
        for batch in table.to_batches(max_chunksize=_BLOCK_ROWS):
            yield {name: batch.column(name) for name in batch.schema.names}
        return
    n_rows = len(table) if isinstance(table, Sequence) else max(map(len, table.values()), default=0)
    for start in range(0, n_rows, _BLOCK_ROWS):
        piece = slice(start, start + _BLOCK_ROWS)
        yield table[piece] if isinstance(table, Sequence) else {name: table[name][piece] for name in table}


def _arrow_columns(part: Part, wanted: Callable[[str], bool]) -> Iterator[Mapping[str, Column]]:
    with _open_arrow(part) as (schema, file):
        names = [name for name in dict.fromkeys(schema.names) if wanted(name) and schema.names.count(name) == 1]
        if part.format == "parquet":
            batches = file.iter_batches(batch_size=_BLOCK_ROWS, columns=names or schema.names[:1])
        else:
            batches = file if hasattr(file, "read_next_batch") else map(file.get_batch, range(file.num_record_batches))
        for batch in batches:
            for start in range(0, batch.num_rows, _BLOCK_ROWS):
                piece = batch.slice(start, _BLOCK_ROWS)
                yield {name: piece.column(name) for name in names or schema.names[:1]}


@contextmanager
def _open_arrow(part: Part) -> Iterator[tuple[Any, Any]]:
    """Yield (schema, open file) of Parquet or Arrow IPC, a file (Feather) or a stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if part.format == "parquet":
        with pq.ParquetFile(part.path, memory_map=True, pre_buffer=False) as file:
            yield file.schema_arrow, file
        return
    with pa.memory_map(str(part.path)) as mapped:
        is_file = mapped.size() >= 6 and mapped.read_at(6, 0) == b"ARROW1"
        with pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped) as file:
            yield file.schema, file


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
    except (pa.ArrowException, OSError) as error:
        text = str(error).strip().rstrip(".").split("\n")[0]
        raise Unreadable("truncated", f"{_CUT}, or not {part.format} ({text})", _COPY_AGAIN) from error


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
        encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        # A wrong byte becomes a lone surrogate, so that it is reported with its row and not before the first one.
        with io.TextIOWrapper(binary, encoding=encoding, errors="surrogateescape", newline="") as stream:
            yield stream


def _text_blocks(part: Part) -> Iterator[Block]:
    source = str(part.path)
    with _open_text(part.path) as stream:
        if part.format == "csv":
            unit, entries = "line", _csv_rows(stream, source)
        else:
            is_array = _first_character(stream) == "["
            unit = "item" if is_array else "line"
            entries = _json_items(stream, source) if is_array else _json_lines(stream, source)
        numbers: list[int] = []
        rows: list[JSON] = []
        for number, entry in entries:
            if isinstance(entry, BadRow):
                yield Block(unit, numbers, rows, entry)
            else:
                numbers.append(number)
                rows.append(entry)
                if len(rows) < _BLOCK_ROWS:
                    continue
                yield Block(unit, numbers, rows)
            numbers, rows = [], []
        if rows:
            yield Block(unit, numbers, rows)


def _delimiter(stream: IO[str]) -> str:
    """Return the delimiter that the first line holds most often outside quotes, and go back to the start."""
    line = stream.readline()
    stream.seek(0)
    bare = "".join(line.split('"')[::2])
    return max(_DELIMITERS, key=bare.count)


def _csv_rows(stream: IO[str], source: str) -> Iterator[tuple[int, JSON | BadRow]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(stream, delimiter=_delimiter(stream), strict=True)
    header = next(reader, [])
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
            kind, remedy = "truncated", f"Quote texts with delimiters or line breaks. {_COPY_AGAIN}"
        row = dict(zip(header, cells, strict=False))
        yield number, BadRow(source, f"line {number}", kind, reason, remedy) if reason else row


def _whole_rows(reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        message = f"line {reader.line_num}: {_CUT}, or wrongly quoted ({error})"
        raise Unreadable("truncated", message, _COPY_AGAIN) from error


def _first_character(stream: IO[str]) -> str:
    head = stream.read(64).lstrip()
    stream.seek(0)
    return head[:1]


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
        place = f"line {number}"
        reason = _wrong_bytes(line)
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not line.endswith("\n"):
                yield number, BadRow(source, place, "truncated", f"cut off, not JSON ({error})", _COPY_AGAIN)
            elif not reason:
                yield number, BadRow(source, place, "not-json", f"not JSON ({error})", _LINES)
        else:
            if not reason:
                yield number, _json_object(value, source, place)
        if reason:
            yield number, BadRow(source, place, "encoding", reason, "Save it as UTF-8.")


def _json_object(value: Any, source: str, place: str) -> JSON | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow(source, place, "not-json", f"a JSON {type(value).__name__}, not an object", _LINES)


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
