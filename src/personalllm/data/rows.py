"""Read rows of named columns from files of every format and from tables in memory.

This is the only reader of rows: benchmarks take whole blocks of columns, everything else takes single rows.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from personalllm.core.errors import DataError, ParameterError
from personalllm.core.types import JSON
from personalllm.data.cells import Row
from personalllm.data.files import Part, find_parts
from personalllm.data.memory import is_columns, table_part
from personalllm.data.text_rows import COPY_AGAIN, BadRow, Unreadable, csv_header, text_rows

__all__ = [
    "Block",
    "Column",
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
            `datasets.Dataset`, a dict of columns of equal length, or a dict of these by split.

    Raises:
        DataError: If there is nothing to read.
        ParameterError: If the source is something else.
    """
    if isinstance(source, str | Path):
        return find_parts(Path(source).expanduser())
    if isinstance(source, dict) and not is_columns(source):
        return [table_part(table, split) for split, table in source.items()]
    return [table_part(source)]


def read_rows(
    source: Any,
    names: Iterable[str],
    *,
    columns: Mapping[str, str] | None = None,
    extra: Callable[[str], object] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a source.

    Args:
        source: As for `parts_of`.
        names: Columns that are wanted; the others of a table are not decoded. A column is also recognised in other
            letter case, surrounded by space, or with spaces for underscores.
        columns: What the source calls a column, e.g. `{"user": "annotator"}`.
        extra: Says of a name whether it is that of a further column that is wanted.

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
    extra: Callable[[str], object] | None = None,
) -> Iterator[Row | BadRow]:
    """Yield the rows of a source; a damaged row of a text file is yielded as such and reading goes on.

    Arguments and errors are those of `read_rows`.
    """
    requested = frozenset(names)
    if columns and not columns.keys() <= requested:
        raise ParameterError("columns", f"of {', '.join(sorted(requested))}", sorted(columns.keys() - requested))
    for part in parts:
        try:
            yield from _part_entries(part, requested, columns or {}, extra or frozenset[str]().__contains__)
        except Unreadable as error:
            raise DataError(f"{part.path}: {error.message}.", error.remedy) from error


def _part_entries(
    part: Part, requested: frozenset[str], columns: Mapping[str, str], extra: Callable[[str], object]
) -> Iterator[Row | BadRow]:
    source = str(part.path)
    if part.format == "json":
        yield from _json_entries(part, requested, columns)
        return
    present = read_names(part)
    renames = match_names(present, requested, columns)
    with _reading(part):
        for block in read_blocks(part, lambda name: renames.get(name, name) in requested or bool(extra(name))):
            for number, values in zip(block.numbers, block.rows(), strict=True):
                yield Row(source, f"{block.unit} {number}", _renamed(values, renames), present)
            if block.bad is not None:
                yield block.bad


def _json_entries(part: Part, requested: frozenset[str], columns: Mapping[str, str]) -> Iterator[Row | BadRow]:
    """Yield the rows of JSON; they may differ in their keys, so the names are matched for each set of keys."""
    source = str(part.path)
    renames: dict[tuple[str, ...], dict[str, str]] = {}
    for block in read_blocks(part):
        for number, values in zip(block.numbers, block.rows(), strict=True):
            keys = tuple(values)
            if keys not in renames:
                mapped = {column: heading for column, heading in columns.items() if heading in values}
                if not renames and len(mapped) < len(columns):
                    # A later row may have the column. Only then is the file read twice: a misspelt name is reported
                    # before the rows that lack it.
                    match_names(read_names(part), requested, columns)
                renames[keys] = match_names(keys, requested - (columns.keys() - mapped.keys()), mapped)
            yield Row(source, f"{block.unit} {number}", _renamed(values, renames[keys]), keys)
        if block.bad is not None:
            yield block.bad


def _renamed(values: JSON, renames: Mapping[str, str]) -> JSON:
    return {renames.get(name, name): value for name, value in values.items()} if renames else values


def match_names(present: Sequence[str], requested: Iterable[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of a source that have another name than ours, each with our name.

    Args:
        present: Names of the source.
        requested: Our names.
        columns: What the source calls some of ours.

    Raises:
        Unreadable: If the source lacks a column of `columns`, or a requested column is there twice.

    >>> match_names(["Prompt", "who", "extra"], ["prompt", "user"], {"user": "who"})
    {'who': 'user', 'Prompt': 'prompt'}
    """
    renames = {}
    for column, heading in columns.items():
        if heading not in present:
            near = get_close_matches(heading, present, n=2, cutoff=0.6)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            held = ", ".join(map(repr, present)) or "none"
            raise Unreadable(
                "column-missing", f"there is no column {heading!r} (for {column!r})", f"It has {held}.{hint}"
            )
        renames[heading] = column
    by_key: dict[str, list[str]] = {}
    for heading in present:
        by_key.setdefault("_".join(heading.casefold().split()), []).append(heading)
    for column in requested:
        matches = by_key.get(column.casefold(), [])
        if column in columns or column in present or len(matches) != 1 or matches[0] in renames:
            continue
        renames[matches[0]] = column
    sources = {renames.get(heading, heading): present.count(heading) for heading in present}
    twice = sorted(column for column in requested if sources.get(column, 0) > 1)
    if twice:
        raise Unreadable("column-twice", f"the header names {', '.join(twice)} twice", "Rename one of the columns.")
    return {heading: column for heading, column in renames.items() if heading != column}


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
        return csv_header(part.path) if part.format == "csv" else _json_names(part)


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
        raise Unreadable(bad.kind, f"{bad.location}: {bad.reason}", bad.remedy)
    return list(names)


def read_blocks(part: Part, requested: Callable[[str], bool] = lambda _: True) -> Iterator[Block]:
    """Yield the rows of a part in order, in blocks of at most 512.

    Args:
        part: The file or table.
        requested: True for names of columns to read, as the source calls them. Ignored for text formats.

    Raises:
        Unreadable: If the file is cut off, damaged or not of its format.
    """
    with _reading(part):
        yield from _text_blocks(part) if part.format in ("json", "csv") else _column_blocks(part, requested)


def _column_blocks(part: Part, requested: Callable[[str], bool]) -> Iterator[Block]:
    start = 0
    for columns in _memory_columns(part) if part.format == "memory" else _arrow_columns(part, requested):
        values = columns
        if isinstance(columns, Mapping):
            values = {name: column for name, column in columns.items() if requested(name)}
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


def _arrow_columns(part: Part, requested: Callable[[str], bool]) -> Iterator[Mapping[str, Column]]:
    with _open_arrow(part) as (schema, file):
        names = [name for name in dict.fromkeys(schema.names) if requested(name) and schema.names.count(name) == 1]
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
        raise Unreadable("truncated", f"{_CUT} ({error})", COPY_AGAIN) from error
    except UnicodeDecodeError as error:
        raise Unreadable("encoding", f"the file is not UTF-8 ({error})", "Save it as UTF-8.") from error
    except (pa.ArrowException, OSError) as error:
        text = str(error).strip().rstrip(".").split("\n")[0]
        raise Unreadable("truncated", f"{_CUT}, or not {part.format} ({text})", COPY_AGAIN) from error


def _text_blocks(part: Part) -> Iterator[Block]:
    unit = "line"
    numbers: list[int] = []
    rows: list[JSON] = []
    for unit, number, row in text_rows(part):
        if isinstance(row, BadRow):
            yield Block(unit, numbers, rows, row)
        else:
            numbers.append(number)
            rows.append(row)
            if len(rows) < _BLOCK_ROWS:
                continue
            yield Block(unit, numbers, rows)
        numbers, rows = [], []
    if rows:
        yield Block(unit, numbers, rows)
