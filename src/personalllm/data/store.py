"""Cache a source as Arrow IPC texts and `.npy` arrays, memory-mapped on every later load."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.errors import DataError
from personalllm.core.storage import atomic_directory, cache_dir, digest
from personalllm.core.types import JSON
from personalllm.data.benchmark import Benchmark
from personalllm.data.content import split_rows
from personalllm.data.files import Part

__all__ = ["FORMAT_VERSION", "open_stored", "source_key", "store"]

FORMAT_VERSION = 3
_PROMPT_COLUMNS = ("prompt_id", "prompt", "subset", "split")


def source_key(source: Path, parts: list[Part], columns: Mapping[str, str]) -> str:
    """Return a key that changes with the columns, and when a file is added, removed, renamed or written to."""
    files = []
    for part in parts:
        status = part.path.stat()
        files.append([os.fspath(part.path.resolve()), status.st_size, status.st_mtime_ns, part.split])
    key = {"format": FORMAT_VERSION, "source": os.fspath(source.resolve()), "files": files, "columns": dict(columns)}
    return digest(key, length=32)


def table_folder(key: str) -> Path:
    """Return the folder in which the cached form of a source stands, whether or not it exists."""
    return cache_dir("tables", key)


def store(benchmark: Benchmark, folder: Path) -> None:
    """Write a benchmark in its cached form, atomically; what another process wrote meanwhile stays.

    Raises:
        OSError: If the folder cannot be written.
    """
    import pyarrow as pa

    with atomic_directory(folder) as temporary:
        splits = pa.array(benchmark.row_splits(), pa.large_string())
        columns = [benchmark.prompt_ids, benchmark.prompts, benchmark.subsets, splits]
        _write_ipc(temporary / "prompts.arrow", dict(zip(_PROMPT_COLUMNS, columns, strict=True)))
        _write_ipc(temporary / "responses.arrow", {"response": benchmark.responses})
        np.save(temporary / "scores.npy", benchmark.scores, allow_pickle=False)
        np.save(temporary / "models.npy", benchmark.response_model_index, allow_pickle=False)
        head = {
            "fingerprint": benchmark.fingerprint,
            "reward_models": list(benchmark.reward_models),
            "response_models": list(benchmark.response_models),
            "metadata": benchmark.metadata,
        }
        (temporary / "head.json").write_text(json.dumps(head), encoding="utf-8")


def open_stored(folder: Path, name: str) -> Benchmark:
    """Open the cached form of a source; nothing is read before it is used.

    Raises:
        DataError: If the folder is absent or damaged.
    """
    import pyarrow as pa

    try:
        head: JSON = json.loads((folder / "head.json").read_text(encoding="utf-8"))
        prompts = _read_ipc(folder / "prompts.arrow")
        responses = _read_ipc(folder / "responses.arrow")
        scores = np.load(folder / "scores.npy", mmap_mode="r", allow_pickle=False)
        models = np.load(folder / "models.npy", allow_pickle=False)
        models.setflags(write=False)
        benchmark = Benchmark(
            name=name,
            fingerprint=head["fingerprint"],
            prompt_ids=prompts.column("prompt_id"),
            prompts=prompts.column("prompt"),
            subsets=prompts.column("subset"),
            responses=responses.column("response"),
            response_models=tuple(head["response_models"]),
            response_model_index=models,
            reward_models=tuple(head["reward_models"]),
            scores=scores.view(np.ndarray),
            splits=split_rows(prompts.column("split").to_pylist()),
            metadata=head["metadata"],
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"The cached table {folder} cannot be opened: {error}.", "Delete the folder.") from error
    n_prompts, n_responses, n_reward_models = benchmark.scores.shape if benchmark.scores.ndim == 3 else (0, 0, 0)
    fits = (
        n_prompts == len(benchmark.prompts)
        and n_prompts * n_responses == len(benchmark.responses)
        and benchmark.response_model_index.shape == (n_prompts, n_responses)
        and n_reward_models == len(benchmark.reward_models)
    )
    if not fits:
        raise DataError(f"The parts of the cached table {folder} do not fit together.", "Delete the folder.")
    return benchmark


def _write_ipc(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow as pa

    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _read_ipc(path: Path) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
