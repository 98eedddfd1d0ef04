"""Treat tables in memory as sources: pandas, polars, pyarrow, `datasets`, lists of dicts and dicts of columns.

None of these libraries is imported: a table is recognised by the methods that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from personalllm.core.errors import DataError, ParameterError
from personalllm.data.files import Part

__all__ = ["is_columns", "table_part"]

_ALLOWED = (
    "a path, a list of dicts, a pandas or polars DataFrame, a pyarrow table, a datasets.Dataset or a dict of columns"
)


def table_part(table: Any, split: str | None = None) -> Part:
    """Return a table in memory as a part.

    Args:
        table: A pandas or polars DataFrame, a pyarrow table, a `datasets.Dataset`, a dict of columns, or an iterable
            of dicts.
        split: The split that its rows belong to.

    Raises:
        ParameterError: If it is something else.
        DataError: If an item of an iterable is not a dict, or columns differ in length.
    """
    name = split or f"the {type(table).__name__}"
    return Part(Path(name), "memory", split, table=_content(table))


def is_columns(table: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a table is a dict of columns: of lists or arrays, of which at least one holds no dicts."""
    if not isinstance(table, Mapping):
        return False
    columns = list(table.values())
    if not all(isinstance(column, list | tuple) or hasattr(column, "tolist") for column in columns):
        return False
    # A list of dicts is a table of its own: that of a split.
    return any(not isinstance(value, Mapping) for column in columns for value in list(column[:1]))


def _content(table: Any) -> Any:
    """Return a pyarrow table, columns by name, or a list of dicts."""
    if hasattr(table, "with_format") and hasattr(table, "column_names"):  # of datasets, its row selection applied
        # a streamed dataset has no length; its rows are dicts in the format "python"
        return table.with_format("arrow")[:] if hasattr(table, "__len__") else list(table.with_format(None))
    if hasattr(table, "collect") and hasattr(table, "collect_schema"):  # a polars LazyFrame
        table = table.collect()
    if hasattr(table, "to_batches") and hasattr(table, "schema"):
        return table
    if hasattr(table, "to_dict") and hasattr(table, "columns"):
        return _columns(table)
    if hasattr(table, "__arrow_c_stream__"):
        import pyarrow as pa

        return pa.table(table)
    if is_columns(table):
        return _equal_columns(table)
    if isinstance(table, str | bytes | Mapping) or not isinstance(table, Iterable):
        raise ParameterError("source", _ALLOWED, type(table).__name__)
    rows = list(table)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"Item {number} is a {type(row).__name__}, not a dict.", "Give each row as a dict of its columns."
            )
    return rows


def _equal_columns(table: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return columns as lists, which must have the same length."""
    columns = {
        str(name): list(column.tolist() if hasattr(column, "tolist") else column) for name, column in table.items()
    }
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{name!r} {len(column)}" for name, column in columns.items())
        raise DataError(f"The columns differ in length: {lengths}.", "Give each column one value for each row.")
    return columns


def _columns(frame: Any) -> dict[str, Any]:
    """Return the columns of a DataFrame as lists.

    Not through Arrow: it refuses columns of mixed types, which Python lists carry to the checks of single cells.
    """
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"The DataFrame has the column {', '.join(twice)} twice.", "Rename one of the columns.")
    return {str(name): list(frame[name].to_list()) for name in frame.columns}
