"""Nearest neighbours and candidate scores, batch first.

Products are summed in float64 and rounded to float32, so that a value depends neither on the size of the batch nor on
the place in it, and equal vectors tie exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.types import F32, I32

__all__ = ["concatenated_ranges", "cosine_top_k", "similarities", "top_rows", "unit_rows"]

I64 = npt.NDArray[np.int64]

_BLOCK_CELLS = 4_000_000


def unit_rows(vectors: npt.NDArray[Any]) -> F32:
    """Return the rows divided by their lengths, float32; a zero row stays zero.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    wide = vectors.astype(np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    return np.asarray(np.divide(wide, length, out=np.zeros_like(wide), where=length > 0), dtype=np.float32)


def similarities(queries: F32, keys: F32) -> F32:
    """Return the dot products of two sets of rows, float32 (n_queries, n_keys)."""
    return np.asarray(queries.astype(np.float64) @ keys.astype(np.float64).T, dtype=np.float32)


def _ordered(values: F32) -> I64:
    """Return distinct int64 keys whose order is that of the float32 values in each row, ties to the lower column."""
    bits = (values + np.float32(0)).view(np.int32)
    rank = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
    keys = rank.astype(np.int64) << np.int64(32)
    keys |= np.arange(values.shape[-1] - 1, -1, -1, dtype=np.int64)
    return keys


def top_rows(values: F32, k: int) -> I32:
    """Return the columns of the k largest values of each row, largest first; ties go to the lower column.

    Args:
        values: float32 (n, m), finite.
        k: How many; all m if k is larger.

    Returns:
        int32 (n, min(k, m)).

    >>> top_rows(np.array([[0.1, 0.7, 0.7, 0.3]], dtype=np.float32), 3).tolist()
    [[1, 2, 3]]
    """
    k = min(k, values.shape[1])
    if k == 0:
        return np.empty((len(values), 0), dtype=np.int32)
    keys = _ordered(values)
    if k < values.shape[1]:
        part = np.argpartition(keys, -k, axis=1)[:, -k:]
    else:
        part = np.broadcast_to(np.arange(k), values.shape)
    order = np.argsort(np.take_along_axis(keys, part, axis=1), axis=1)[:, ::-1]
    return np.take_along_axis(part, order, axis=1).astype(np.int32)


def cosine_top_k(queries: F32, keys: F32, k: int) -> I32:
    """Return the k keys nearest to each query by cosine, nearest first; ties go to the lower key.

    Args:
        queries: float32 (n_queries, dim), unit rows.
        keys: float32 (n_keys, dim), unit rows.
        k: How many; all keys if k is larger.

    Returns:
        int32 (n_queries, min(k, n_keys)), rows of `keys`. Works in blocks of about 4 million cells.
    """
    wide = keys.astype(np.float64).T
    block = max(1, _BLOCK_CELLS // max(1, len(keys)))
    result = np.empty((len(queries), min(k, len(keys))), dtype=np.int32)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        result[part] = top_rows((queries[part].astype(np.float64) @ wide).astype(np.float32), k)
    return result


def concatenated_ranges(starts: npt.NDArray[np.integer[Any]], stops: npt.NDArray[np.integer[Any]]) -> I64:
    """Return the integers of several half-open ranges, one range after the other.

    >>> concatenated_ranges(np.array([5, 0, 9]), np.array([7, 3, 9])).tolist()
    [5, 6, 0, 1, 2]
    """
    lengths = (stops - starts).astype(np.int64)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    shifts: I64 = np.repeat(starts.astype(np.int64) - (ends - lengths), lengths)
    return np.arange(total, dtype=np.int64) + shifts
