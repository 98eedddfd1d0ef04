"""Tables that do not fit into memory: Parquet in, Parquet out, row group by row group, on any executor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from personalllm.backends.executor.cluster import RayExecutor
from personalllm.backends.executor.local import SerialExecutor
from personalllm.core.errors import DataError, ParameterError, UserError
from personalllm.core.protocols import Executor
from personalllm.core.storage import atomic_path, digest, write_json

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ParquetParts", "TableFunction", "map_parquet"]

_DONE = "_parts.json"
_HASHED_AT_ONCE = 2**22


class TableFunction(Protocol):
    """What is done to each table: rows in, rows out; picklable."""

    @property
    def identity(self) -> str:
        """All that decides what comes out, besides what goes in."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return a table; what it holds must not depend on how rows are cut into tables."""


@dataclass(frozen=True, slots=True)
class ParquetParts:
    """What `map_parquet` has written.

    Attributes:
        paths: The parts, in the order of the input.
        rows: Rows in all parts.
        computed: Parts that this call computed; the others were there.
    """

    paths: tuple[Path, ...]
    rows: int
    computed: int


@dataclass(frozen=True, slots=True)
class _Group:
    """One row group of a file, and the folder for the part that is made of it."""

    index: int
    source: str
    group: int
    target: str

    @property
    def identity(self) -> str:
        return f"row group {self.group} of {self.source}"


def map_parquet(
    function: TableFunction,
    sources: Sequence[Path | str],
    target: Path,
    *,
    executor: Executor | None = None,
    rows_at_once: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> ParquetParts:
    """Apply a function to Parquet files and write Parquet parts, one for each row group.

    A worker reads `rows_at_once` rows at a time, so neither input nor output need fit into memory, and no row passes
    through this process. With a `RayExecutor` the row groups are a Ray Data dataset that actors which hold the function
    work through; sources and target must then be paths that every node sees. A part is written to a temporary file and
    renamed; its name carries a digest of the row group's bytes and of the function's identity, so the same call again
    computes only what is missing. The parts are equal, byte for byte, whichever executor made them.

    Args:
        function: What is done to the rows.
        sources: Parquet files. Small row groups (some thousand rows) share out the work and lose little to a kill.
        target: Folder of the parts.
        executor: Who does the work; this process if None.
        rows_at_once: Maximum number of rows in a call of the function, >= 1.
        progress: Called with (done, total) row groups.

    Returns:
        The parts.

    Raises:
        DataError: If a source is not a Parquet file; names it.
        UserError: If the target holds parts of other sources or of another function.
        ParameterError: If `rows_at_once` is below 1.
    """
    if rows_at_once < 1:
        raise ParameterError("rows_at_once", ">= 1", rows_at_once)
    places = [(str(source), group) for source in sources for group in range(_row_groups(source))]
    groups = [_Group(index, source, group, str(target)) for index, (source, group) in enumerate(places)]
    work = partial(_make_part, function, rows_at_once)
    target.mkdir(parents=True, exist_ok=True)
    parts: dict[int, tuple[str, int, bool]] = {}
    for index, name, rows, new in _run(executor or SerialExecutor(), work, groups):
        parts[index] = name, rows, new
        if progress:
            progress(len(parts), len(groups))
    names = [parts[index][0] for index in range(len(groups))]
    foreign = sorted({path.name for path in target.glob("*.parquet")} - set(names))
    if foreign:
        raise UserError(
            f"{target} holds {len(foreign)} parts of other sources or of another function, e.g. {foreign[0]}.",
            "Choose an empty folder, or remove them.",
        )
    for leftover in target.glob(".*.parquet.*.part"):  # of workers that were killed while they wrote
        if leftover.name[1:].partition(".parquet")[0] + ".parquet" in names:
            leftover.unlink(missing_ok=True)
    rows = sum(rows for _, rows, _ in parts.values())
    write_json(target / _DONE, {"function": function.identity, "parts": names, "rows": rows})
    return ParquetParts(tuple(target / name for name in names), rows, sum(new for _, _, new in parts.values()))


def _run(
    executor: Executor,
    work: Callable[[_Group], tuple[int, str, int, bool]],
    groups: Sequence[_Group],
) -> Iterator[tuple[int, str, int, bool]]:
    return executor.stream(work, groups) if isinstance(executor, RayExecutor) else executor.map(work, groups)


def _row_groups(source: Path | str) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        count: int = pq.read_metadata(source).num_row_groups
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{source} cannot be read as Parquet: {error}.", "Give Parquet files.") from error
    return count


def _make_part(function: TableFunction, rows_at_once: int, group: _Group) -> tuple[int, str, int, bool]:
    """Make the part of a row group unless it is there; return number, name, rows, and whether it was made."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(group.source) as file:
        key = digest([function.identity, _content(file, group), group.group])
        path = Path(group.target) / f"{Path(group.source).stem}-{group.group:05d}-{key}.parquet"
        if path.is_file():
            return group.index, path.name, pq.read_metadata(path).num_rows, False
        rows = 0
        with atomic_path(path) as temporary:
            writer: Any = None
            try:
                for table in _tables(file, group.group, rows_at_once):
                    result = function(table)
                    rows += result.num_rows
                    writer = writer or pq.ParquetWriter(temporary, result.schema, compression="zstd")
                    writer.write_table(result)
            finally:
                if writer is not None:
                    writer.close()
    return group.index, path.name, rows, True


def _tables(file: Any, group: int, rows_at_once: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    for batch in file.iter_batches(rows_at_once, row_groups=[group]):
        yield pa.Table.from_batches([batch])


def _content(file: Any, group: _Group) -> str:
    """Return the SHA-256 of a row group's bytes in the file, and of the schema."""
    columns = [file.metadata.row_group(group.group).column(i) for i in range(file.metadata.num_columns)]
    start = min(c.data_page_offset if c.dictionary_page_offset is None else c.dictionary_page_offset for c in columns)
    left = sum(column.total_compressed_size for column in columns)
    content_hash = hashlib.sha256(str(file.schema_arrow).encode())
    with Path(group.source).open("rb") as stream:
        stream.seek(start)
        while left > 0 and (chunk := stream.read(min(left, _HASHED_AT_ONCE))):
            content_hash.update(chunk)
            left -= len(chunk)
    return content_hash.hexdigest()
