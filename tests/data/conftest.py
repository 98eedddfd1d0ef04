"""Fixtures of the data room: a private cache folder and small benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalllm.data import Benchmark

Columns = dict[str, list[Any]]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PERSONALLLM_CACHE", str(folder))
    return folder


@pytest.fixture
def make_benchmark() -> Callable[..., Benchmark]:
    def make(
        n_prompts: int = 6, n_responses: int = 3, reward_models: tuple[str, ...] = ("rm_a", "rm_b"), **changes: Any
    ):
        scores = np.random.default_rng(n_prompts).standard_normal((n_prompts, n_responses, len(reward_models)))
        values: dict[str, Any] = {
            "name": "tiny",
            "prompt_ids": [f"p{i}" for i in range(n_prompts)],
            "prompts": [f'Prompt {i}, "quoted"\r\nünïcode 🦜' for i in range(n_prompts)],
            "subsets": ["odd" if i % 2 else "even" for i in range(n_prompts)],
            "splits": ["train" if 3 * i < 2 * n_prompts else "test" for i in range(n_prompts)],
            "responses": [[f"Response {j} to {i}\n" for j in range(n_responses)] for i in range(n_prompts)],
            "response_models": [f"model-{j}" for j in range(n_responses)],
            "reward_models": reward_models,
            "scores": scores,
        }
        return Benchmark.from_arrays(**(values | changes))

    return make


@pytest.fixture
def columns() -> Columns:
    """Sound columns of the released schema: four prompts, three responses, two reward models."""
    table: Columns = {
        "prompt": [f"Prompt {i}" for i in range(4)],
        "subset": ["s"] * 4,
        "prompt_id": [f"p{i}" for i in range(4)],
        "split": ["train", "train", "train", "test"],
    }
    for i in (1, 2, 3):
        table[f"response_{i}"] = [f"Response {i} to {row}" for row in range(4)]
        table[f"response_{i}_model"] = [f"model-{i}"] * 4
        table[f"response_{i}_rm_a"] = [0.5 * i + row for row in range(4)]
        table[f"response_{i}_rm_b"] = [1.5 * i - row for row in range(4)]
    return table


def _lines(columns: Columns) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.fixture
def write_jsonl() -> Callable[[Path, Columns], Path]:
    def write(path: Path, columns: Columns) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in _lines(columns)), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_parquet() -> Callable[[Path, Columns], Path]:
    def write(path: Path, columns: Columns) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays([pa.array(values) for values in columns.values()], list(columns)), path)
        return path

    return write
