"""Approximate nearest neighbours with FAISS: an inverted file, searched as widely as the wanted recall needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from personalllm.core.registry import import_extra
from personalllm.core.types import F32, I32

__all__ = ["RECALL", "approximate", "build", "recall", "search"]

Exact: TypeAlias = Callable[[F32, F32, int], I32]

RECALL = 0.98

_SEED = 1
_SAMPLE = 64
_POINTS = 40
_ROUNDS = 10
_BLOCK = 65_536


def approximate(queries: F32, keys: F32, k: int, exact: Exact) -> I32:
    """Return about the k keys nearest to each query; see `nearest`, which checks the arguments and is `exact`."""
    index = build(queries, keys, k, exact)
    return search(index, queries, keys, k, exact)


def build(queries: F32, keys: F32, k: int, exact: Exact) -> Any:
    """Return an index of the keys, or None where they are too few for one.

    The keys are put into `2 sqrt(m)` lists (k-means, fixed seed, trained on 40 keys a list). The number of lists that a
    search reads is doubled until recall@k is at least .98 on 64 of the queries, for which the exact answer is computed;
    at worst all lists are read.
    """
    faiss = import_extra("faiss", "faiss", "faiss-cpu")
    m, dim = keys.shape
    lists = min(int(2 * m**0.5), m // _POINTS)
    if lists < 2 or k == 0 or len(queries) == 0:
        return None
    sample = np.ascontiguousarray(queries[_spread(len(queries), _SAMPLE)])
    truth = exact(sample, keys, k)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter = _SEED, _ROUNDS
    index.train(np.ascontiguousarray(keys[_spread(m, lists * _POINTS)]))
    for start in range(0, m, _BLOCK):
        index.add(np.ascontiguousarray(keys[start : start + _BLOCK]))
    index.nprobe = min(4, lists)
    while index.nprobe < lists and recall(index.search(sample, k)[1], truth) < RECALL:
        index.nprobe = min(2 * index.nprobe, lists)
    return index


def search(index: Any, queries: F32, keys: F32, k: int, exact: Exact) -> I32:
    """Return what the index finds, ordered by exact value, ties to the lower row; search exactly if it is None."""
    if index is None:
        return exact(queries, keys, k)
    queries = np.ascontiguousarray(queries)
    return _ordered(queries, keys, index.search(queries, k)[1], exact)


def _spread(n: int, n_sample: int) -> Any:
    """Return at most `n_sample` of n rows at equal distances."""
    return np.unique(np.linspace(0, n - 1, min(n, n_sample)).astype(np.int64))


def recall(candidates: Any, truth: I32) -> float:
    """Return the share of the true neighbours that were found."""
    hits = (candidates[:, :, None] == truth[:, None, :]).any(axis=1)
    return float(hits.mean())


def _ordered(queries: F32, keys: F32, candidates: Any, exact: Exact) -> I32:
    """Order rows by exact value; queries for which the lists held too few rows are searched exactly."""
    from personalllm.methods.parts.retrieval_kernels import reorder

    result = np.zeros(candidates.shape, dtype=np.int32)
    few = (candidates < 0).any(axis=1)
    full = np.flatnonzero(~few)
    picked = candidates[full]
    for start in range(0, len(full), _SAMPLE):
        rows = picked[start : start + _SAMPLE]
        distinct, position = np.unique(rows, return_inverse=True)
        reorder(queries[full[start : start + _SAMPLE]], keys[distinct], distinct, position.reshape(rows.shape), rows)
    result[full] = picked
    result[few] = exact(queries[few], keys, candidates.shape[1])
    return result
