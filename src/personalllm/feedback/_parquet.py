"""Write and read columns as Parquet: sizes in the metadata, texts as dictionaries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, DataError
from personalllm.core.storage import atomic_path, canonical_json
from personalllm.core.types import JSON

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["read_columns", "text_columns", "to_table", "write_table"]

_KEY = b"personalllm"
_LARGEST_DICTIONARY = 2**30


def to_table(columns: Mapping[str, npt.NDArray[Any]], metadata: JSON) -> Any:
    """Return an Arrow table of the columns; the metadata goes into the schema as JSON."""
    import pyarrow as pa

    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    return table.replace_schema_metadata({_KEY: canonical_json(metadata).encode()})


def text_columns(
    benchmark: Benchmark, prompt: npt.NDArray[Any], responses: Mapping[str, npt.NDArray[Any]]
) -> dict[str, Any]:
    """Return dictionary-encoded Arrow columns with the ids and texts of prompts and of some of their responses."""
    rows = prompt.astype(np.int64)
    columns = {
        "prompt_id": _encoded(benchmark.prompt_ids, rows),
        "prompt_text": _encoded(benchmark.prompts, rows),
    }
    for name, response in responses.items():
        columns[f"{name}_text"] = _encoded(benchmark.responses, rows * benchmark.n_responses + response)
    return columns


def _encoded(texts: Any, index: npt.NDArray[np.int64]) -> Any:
    """Return a dictionary array whose dictionary holds only the texts that are used."""
    import pyarrow as pa

    used, inverse = np.unique(index, return_inverse=True)
    return pa.DictionaryArray.from_arrays(pa.array(inverse.ravel().astype(np.int32)), texts.take(pa.array(used)))


def check_benchmark(benchmark: Benchmark, n_prompts: int, n_responses: int) -> None:
    """Check that the rows of a pool are the rows of a benchmark.

    Raises:
        AxisMismatch: If the sizes differ.
    """
    if (benchmark.n_prompts, benchmark.n_responses) != (n_prompts, n_responses):
        raise AxisMismatch(
            f"The pool refers to {n_prompts} prompts of {n_responses} responses; the benchmark has "
            f"{benchmark.n_prompts} of {benchmark.n_responses}.",
            "Give the benchmark whose scores made the pool, or map the rows with pool.on_rows(rows, n_prompts).",
        )


def write_table(path: Path, table: Any, texts: Mapping[str, Any]) -> None:
    """Write a table and text columns as Parquet, atomically, each text once for each column."""
    import pyarrow.parquet as pq

    for name, column in texts.items():
        table = table.append_column(name, column)
    with atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=max(len(table), 1),
            compression="zstd",
            compression_level=1,
            dictionary_pagesize_limit=_LARGEST_DICTIONARY,
        )


def read_columns(path: Path, columns: Mapping[str, type[Any]]) -> tuple[dict[str, npt.NDArray[Any]], JSON]:
    """Read the columns of a pool and its metadata.

    Raises:
        DataError: If the file is absent, is not Parquet, lacks a column or the metadata, or holds a missing value.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            missing = [name for name in columns if name not in schema.names]
            if missing or _KEY not in (schema.metadata or {}):
                what = f"the column {missing[0]}" if missing else "the metadata 'personalllm'"
                raise DataError(f"{path} is not a pool: it lacks {what}.", "Give a file that the pool's write() made.")
            table = file.read(columns=list(columns))
            metadata: JSON = json.loads(schema.metadata[_KEY])
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.", "Check the path.") from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.", "Write the pool again.") from error
    arrays = {}
    for name, dtype in columns.items():
        if table[name].null_count:
            raise DataError(f"{path}: the column {name} has {table[name].null_count} missing values.")
        arrays[name] = table[name].to_numpy().astype(dtype)
    return arrays, metadata
