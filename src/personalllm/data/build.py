"""Put checked batches together into a `Benchmark`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.core.types import F32, JSON
from personalllm.data.benchmark import Benchmark, fingerprint_of, index_models, split_rows
from personalllm.data.problems import ProblemLog, raise_for
from personalllm.data.readers import Part
from personalllm.data.scan import Scan

__all__ = ["benchmark_from_scan", "benchmark_from_values"]


@dataclass(frozen=True, slots=True)
class _Joined:
    texts: dict[str, Any]
    splits: list[str]
    models: list[str]
    scores: F32


def benchmark_from_scan(name: str, scan: Scan, metadata: JSON) -> Benchmark | None:
    """Read a source to its end and build the benchmark; None if the scan found errors (they are in its log)."""
    joined = _join(scan)
    if joined is None or scan.schema is None:
        return None
    n_responses = joined.scores.shape[1]
    response_models, index = index_models(joined.models, n_responses)
    for array in (joined.scores, index):
        array.setflags(write=False)
    unsigned = Benchmark(
        name=name,
        fingerprint="",
        prompt_ids=joined.texts["prompt_ids"],
        prompts=joined.texts["prompts"],
        subsets=joined.texts["subsets"],
        responses=joined.texts["responses"],
        response_models=response_models,
        response_model_index=index,
        reward_models=scan.schema.reward_models,
        scores=joined.scores,
        splits=split_rows(joined.splits),
        metadata=metadata,
    )
    return replace(unsigned, fingerprint=fingerprint_of(unsigned))


def _join(scan: Scan) -> _Joined | None:
    import pyarrow as pa

    pieces: dict[str, list[Any]] = {"prompt_ids": [], "prompts": [], "subsets": [], "responses": []}
    splits: list[str] = []
    models: list[str] = []
    scores: list[F32] = []
    interned: dict[str, str] = {}
    for batch in scan.batches():
        if scan.log.has_errors:
            pieces = {key: [] for key in pieces}
            continue
        for key, chunks in pieces.items():
            chunks.append(getattr(batch, key))
        splits += batch.splits
        models += [interned.setdefault(model, model) for model in batch.models.to_pylist()]
        scores.append(batch.scores)
    if scan.log.has_errors or not scores:
        return None
    texts = {}
    for key, chunks in pieces.items():
        texts[key] = pa.concat_arrays(chunks)
        chunks.clear()
    return _Joined(texts, splits, models, np.concatenate(scores))


def benchmark_from_values(
    *,
    name: str,
    texts: Mapping[str, Sequence[str]],
    responses: Sequence[Sequence[str]],
    response_models: Sequence[str] | Sequence[Sequence[str]],
    reward_models: Sequence[str],
    scores: npt.ArrayLike,
    metadata: JSON,
) -> Benchmark:
    """Check Python values as if they stood in a file, and build the benchmark; see `Benchmark.from_arrays`."""
    import pyarrow as pa

    with np.errstate(over="ignore"):
        table = np.asarray(scores, dtype=np.float32)
    if table.ndim != 3 or table.shape[2] != len(reward_models):
        raise AxisMismatch(
            f"scores have shape {table.shape}.",
            f"Give (n_prompts, n_responses, n_reward_models) with {len(reward_models)} reward models.",
        )
    unusable = [name for name in reward_models if not name.strip() or name == "model" or "\n" in name]
    if unusable or len(set(reward_models)) != len(reward_models):
        raise ParameterError("reward_models", "distinct names of one line, none of them 'model'", tuple(reward_models))
    by_row = _rows_of_models(response_models, len(table))
    _check_lengths(texts, responses, by_row, table)
    columns: dict[str, Any] = {key: list(values) for key, values in texts.items()}
    for i in range(table.shape[1]):
        columns[f"response_{i + 1}"] = [row[i] for row in responses]
        columns[f"response_{i + 1}_model"] = [row[i] for row in by_row]
        for b, reward_model in enumerate(reward_models):
            columns[f"response_{i + 1}_{reward_model}"] = pa.array(np.ascontiguousarray(table[:, i, b]))
    log = ProblemLog()
    scan = Scan([Part(Path(name), "memory", None, table=columns)], log)
    benchmark = benchmark_from_scan(name, scan, metadata)
    raise_for(name, log.problems())
    if benchmark is None:
        raise DataError(f"{name} holds no rows.", "Give at least one prompt.")
    return benchmark


def _rows_of_models(models: Sequence[str] | Sequence[Sequence[str]], n_prompts: int) -> list[Sequence[str]]:
    names = [model for model in models if isinstance(model, str)]
    if len(names) == len(models):
        return [names] * n_prompts
    return [row for row in models if not isinstance(row, str)]


def _check_lengths(
    texts: Mapping[str, Sequence[str]],
    responses: Sequence[Sequence[str]],
    models: Sequence[Sequence[str]],
    table: F32,
) -> None:
    n_prompts, n_responses, _ = table.shape
    lengths = {key: len(values) for key, values in texts.items()}
    lengths |= {"responses": len(responses), "response_models": len(models)}
    wrong = [f"{key} {length}" for key, length in lengths.items() if length != n_prompts]
    if wrong:
        raise AxisMismatch(f"The scores have {n_prompts} prompts, but: {', '.join(wrong)}.", "Give equal lengths.")
    for key, rows in (("responses", responses), ("response_models", models)):
        odd = next((row for row, values in enumerate(rows) if len(values) != n_responses), None)
        if odd is not None:
            raise AxisMismatch(f"{key} has {len(rows[odd])} entries in row {odd}; the scores have {n_responses}.")
