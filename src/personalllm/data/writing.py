"""Write a benchmark in the released wide schema: Parquet, JSONL, CSV, or a `datasets` folder."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from personalllm.core.errors import ParameterError
from personalllm.core.storage import atomic_directory, atomic_path, canonical_json
from personalllm.core.types import JSON
from personalllm.data.benchmark import Benchmark
from personalllm.data.schema import column_names

__all__ = ["write_benchmark", "write_parquet"]

_ROWS = 512


def write_benchmark(benchmark: Benchmark, path: str | Path) -> Path:
    """Write a benchmark, atomically; what `load` reads back is equal and has the same fingerprint.

    The suffix decides the format: `.parquet`, `.jsonl`, `.jsonl.gz`, `.csv`, `.csv.gz`; a path without a suffix
    becomes a folder that `datasets.load_from_disk` opens, with one subfolder for each split if the rows of each split
    stand together, train first. Everything else carries a column `split`. Only Parquet keeps the metadata. Scores are
    written so that float32 is read back exactly.

    Args:
        benchmark: What to write.
        path: Where; a file is replaced, a folder must not exist.

    Returns:
        The path.

    Raises:
        ParameterError: If the suffix is unknown or the folder exists.
    """
    target = Path(path)
    name = target.name.lower()
    if name.endswith(".parquet"):
        write_parquet(benchmark, target)
    elif name.endswith((".jsonl", ".jsonl.gz")):
        _write_jsonl(benchmark, target)
    elif name.endswith((".csv", ".csv.gz")):
        _write_csv(benchmark, target)
    elif not target.suffix:
        _write_datasets(benchmark, target)
    else:
        raise ParameterError("path", "a .parquet, .jsonl, .jsonl.gz, .csv or .csv.gz file, or a folder", str(path))
    return target


def _batches(benchmark: Benchmark, rows: Any = None, *, split: bool = True, wide: bool = False) -> Iterator[Any]:
    """Yield pyarrow record batches of the wide schema; `wide` writes the scores as float64."""
    import pyarrow as pa

    names = column_names(benchmark.n_responses, benchmark.reward_models, split=split)
    splits = np.array(benchmark.row_splits(), dtype=object)
    models = pa.array(benchmark.response_models, pa.large_string())
    chosen = np.arange(benchmark.n_prompts) if rows is None else np.asarray(rows)
    for start in range(0, len(chosen), _ROWS):
        at = chosen[start : start + _ROWS]
        take = pa.array(at)
        columns = [benchmark.prompts.take(take), benchmark.subsets.take(take), benchmark.prompt_ids.take(take)]
        if split:
            columns.append(pa.array(splits[at].tolist(), pa.large_string()))
        scores = benchmark.scores[at]
        if wide:
            scores = scores.astype(np.float64)
        for i in range(benchmark.n_responses):
            columns.append(benchmark.responses.take(pa.array(at * benchmark.n_responses + i)))
            columns.append(models.take(pa.array(benchmark.response_model_index[at, i])))
            columns += [pa.array(np.ascontiguousarray(scores[:, i, b])) for b in range(scores.shape[2])]
        yield pa.record_batch(columns, names=names)


def write_parquet(benchmark: Benchmark, target: Path, rows: Any = None, *, split: bool = True) -> None:
    """Write some rows, or all, as one Parquet file, atomically.

    Args:
        benchmark: What to write.
        target: The file; its folder is made.
        rows: Which rows; all if None.
        split: Whether there is a column `split`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches = _batches(benchmark, rows, split=split)
    first = next(batches)
    note = {"personalllm": canonical_json(benchmark.metadata)} if benchmark.metadata else None
    schema = first.schema.with_metadata(note)
    texts = ["prompt_id", *(name for name in schema.names if _is_long(name))]
    dictionary = [
        name for name in schema.names if name not in texts and pa.types.is_large_string(schema.field(name).type)
    ]
    with (
        atomic_path(target) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="zstd", compression_level=9, use_dictionary=dictionary
        ) as writer,
    ):
        for batch in _grouped([first], batches):
            writer.write_table(batch.cast(schema))


def _is_long(name: str) -> bool:
    return name == "prompt" or (name.startswith("response_") and name.removeprefix("response_").isdigit())


def _grouped(first: list[Any], batches: Iterator[Any], size: int = 4) -> Iterator[Any]:
    """Yield tables of `size` batches: row groups that are large enough to compress and small enough to hold."""
    import pyarrow as pa

    held = list(first)
    for batch in batches:
        if len(held) == size:
            yield pa.Table.from_batches(held)
            held = []
        held.append(batch)
    yield pa.Table.from_batches(held)


@contextmanager
def _text_file(target: Path) -> Iterator[IO[str]]:
    with atomic_path(target) as temporary, temporary.open("wb") as raw:
        if target.name.lower().endswith(".gz"):
            with (
                gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="") as stream,
            ):
                yield stream
        else:
            with io.TextIOWrapper(raw, encoding="utf-8", newline="") as stream:
                yield stream


def _write_jsonl(benchmark: Benchmark, target: Path) -> None:
    with _text_file(target) as stream:
        for batch in _batches(benchmark, wide=True):
            for row in batch.to_pylist():
                stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _write_csv(benchmark: Benchmark, target: Path) -> None:
    names = column_names(benchmark.n_responses, benchmark.reward_models, split=True)
    with _text_file(target) as stream:
        writer = csv.writer(stream, lineterminator="\r\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(names)
        for batch in _batches(benchmark, wide=True):
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _write_datasets(benchmark: Benchmark, target: Path) -> None:
    if target.exists():
        raise ParameterError("path", "a folder that does not exist yet", str(target))
    order = np.concatenate(list(benchmark.splits.values()))
    with atomic_directory(target) as temporary:
        if not np.array_equal(order, np.arange(benchmark.n_prompts)):
            _write_dataset(benchmark, None, None, temporary)
            return
        (temporary / "dataset_dict.json").write_text(json.dumps({"splits": list(benchmark.splits)}), encoding="utf-8")
        for split, rows in benchmark.splits.items():
            (temporary / split).mkdir()
            _write_dataset(benchmark, rows, split, temporary / split)


def _write_dataset(benchmark: Benchmark, rows: Any, split: str | None, folder: Path) -> None:
    """Write one Arrow stream and its description; without a split, all rows and a column `split`."""
    import pyarrow as pa

    file_name = "data-00000-of-00001.arrow"
    n_bytes = 0
    features: dict[str, Any] = {}
    with pa.OSFile(str(folder / file_name), "wb") as sink:
        writer = None
        for batch in _batches(benchmark, rows, split=split is None):
            if writer is None:
                writer = pa.ipc.new_stream(sink, batch.schema)
                features = {field.name: {"dtype": _dtype(field.type), "_type": "Value"} for field in batch.schema}
            writer.write_batch(batch)
            n_bytes += batch.nbytes
        if writer is not None:
            writer.close()
    state: JSON = {
        "_data_files": [{"filename": file_name}],
        "_fingerprint": benchmark.fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    n_rows = benchmark.n_prompts if rows is None else len(rows)
    sizes = {"name": split, "num_bytes": n_bytes, "num_examples": n_rows, "dataset_name": "personalllm"}
    splits = {split: sizes} if split else None
    info = {
        "citation": "",
        "description": "",
        "features": features,
        "homepage": "",
        "license": "",
        "splits": splits,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")


def _dtype(kind: Any) -> str:
    return "float32" if str(kind) == "float" else str(kind)
