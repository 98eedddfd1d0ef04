"""Derive from the content of a benchmark: the rows of its splits, its response models, and its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from personalllm.core.errors import ParameterError
from personalllm.core.storage import canonical_json
from personalllm.core.types import I32, U8
from personalllm.data.schema import MAX_RESPONSES

if TYPE_CHECKING:
    from personalllm.data.benchmark import Benchmark

__all__ = ["fingerprint_of", "index_models", "split_rows"]

_MAX_RESPONSE_MODELS = 256


def split_rows(splits: Sequence[str]) -> Mapping[str, I32]:
    """Return the rows of each split, train and test first."""
    names = np.asarray(splits, dtype=object)
    order = sorted(set(splits), key=lambda split: (split != "train", split != "test", split))
    rows_of = {split: np.flatnonzero(names == split).astype(np.int32) for split in order}
    for rows in rows_of.values():
        rows.setflags(write=False)
    return MappingProxyType(rows_of)


def index_models(names: Sequence[str], n_responses: int) -> tuple[tuple[str, ...], U8]:
    """Return the distinct response models in order of appearance, and uint8 (n_prompts, n_responses) into them."""
    distinct = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(distinct) > _MAX_RESPONSE_MODELS or n_responses > MAX_RESPONSES:
        raise ParameterError("response models", f"at most {_MAX_RESPONSE_MODELS} distinct names", len(distinct))
    index = np.fromiter((distinct[name] for name in names), np.uint8, len(names)).reshape(-1, n_responses)
    return tuple(distinct), index


def fingerprint_of(benchmark: Benchmark) -> str:
    """Return the SHA-256 of the content: ids, texts, subsets, splits, response models, scores and RM names.

    It does not depend on the file format, the order of the columns, the name or the metadata.
    """
    state = hashlib.sha256()
    header = {
        "format": "personalllm-benchmark-1",
        "shape": list(benchmark.scores.shape),
        "reward_models": list(benchmark.reward_models),
        "response_models": list(benchmark.response_models),
        "splits": {
            split: hashlib.sha256(rows.astype("<i4").tobytes()).hexdigest() for split, rows in benchmark.splits.items()
        },
    }
    state.update(canonical_json(header).encode())
    for texts in (benchmark.prompt_ids, benchmark.prompts, benchmark.subsets, benchmark.responses):
        _hash_texts(state, texts)
    state.update(np.ascontiguousarray(benchmark.response_model_index).data)
    state.update(np.ascontiguousarray(benchmark.scores, dtype="<f4").data)
    return state.hexdigest()


def _hash_texts(state: Any, texts: Any) -> None:
    """Feed the lengths and the bytes of a large_string array to a hash, without copying the bytes."""
    _, offsets, data = texts.buffers()
    begin = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    state.update(np.diff(begin).astype("<i8").tobytes())
    if data is not None and len(begin):
        state.update(memoryview(data)[int(begin[0]) : int(begin[-1])])
