"""Nearest neighbours, exact and batch first.

The value of a query and a key is `round32(dot)`, the product in float64 rounded to float32. It depends on the two rows
alone, so neither the rest of the batch nor the sizes of the blocks can change an answer, and equal rows tie exactly.
Speed comes from a first look: float32 products from BLAS, with a bound on their error, show which few keys can be among
the nearest; only the values of those are computed.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError
from personalllm.core.types import F32, F64, I32, I64

__all__ = [
    "Search",
    "concatenated_ranges",
    "nearest",
    "nearest_interactions",
    "owners",
    "rank_by_best_match",
    "similarities",
    "top_rows",
    "unit_rows",
]

Search = Literal["exact", "faiss"]


_KEYS = 4096
_QUERIES = 1024
_CELLS = 4_000_000
_ROOM = 512


def unit_rows(vectors: npt.NDArray[Any]) -> F32:
    """Return the rows divided by their lengths, float32; a zero row stays zero.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    wide = vectors.astype(np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    return np.asarray(np.divide(wide, length, out=np.zeros_like(wide), where=length > 0), dtype=np.float32)


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


def similarities(queries: F32, keys: F32) -> F32:
    """Return the values of all pairs of rows, float32 (n_queries, n_keys); an entry depends on its two rows alone.

    Raises:
        ParameterError: If the widths differ or a row is not finite.

    >>> rows = unit_rows(np.array([[3.0, 4.0], [1.0, 0.0]]))
    >>> similarities(rows, rows).tolist()
    [[1.0, 0.6000000238418579], [0.6000000238418579, 1.0]]
    """
    queries, keys = _rows("queries", queries), _rows("keys", keys)
    _same_width(queries, keys)
    norms = _lengths("queries", queries)
    result = np.empty((len(queries), len(keys)), dtype=np.float32)
    for start in range(0, len(keys), _KEYS):
        block = np.ascontiguousarray(keys[start : start + _KEYS])
        longest = _lengths("keys", block, start).max(initial=0.0)
        wide = block.astype(np.float64).T
        for first in range(0, len(queries), _QUERIES):
            part = slice(first, first + _QUERIES)
            result[part, start : start + _KEYS] = _settled(queries[part], norms[part], block, wide, longest)
    return result


def nearest(queries: F32, keys: F32, k: int, *, search: Search = "exact") -> I32:
    """Return the k keys nearest to each query by cosine, nearest first; ties go to the lower row.

    Exact search needs no memory beyond arguments and result but a block of 1,024 x 4,096 products (16 MB), 8 bytes for
    each entry of the result, and, where so many keys nearly tie that float32 cannot tell them apart, the same block and
    its keys in float64 (115 MB at 1,024 dimensions). The rows of a zero query are 0, 1, 2, ...

    Args:
        queries: float32 (n, dim), unit rows or zero.
        keys: float32 (m, dim), unit rows or zero.
        k: How many, >= 0; all keys if k is larger.
        search: `exact`, or `faiss` (extra `faiss`): an approximate index, built anew at every call beside a copy of the
            keys. It finds about 98 % of the nearest, measured on 64 of the queries (so its answer depends on the
            batch), and pays only where many thousand queries are asked at once: see docs/retrieval.md.

    Returns:
        int32 (n, min(k, m)), rows of `keys`.

    Raises:
        ParameterError: If an argument has another shape, is not finite, or k is negative.
        MissingExtra: If `search` is `faiss` and FAISS is not installed.

    >>> keys = unit_rows(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]))
    >>> nearest(keys[1:2], keys, 3).tolist()
    [[1, 3, 0]]
    """
    queries, keys = _rows("queries", queries), _rows("keys", keys)
    _same_width(queries, keys)
    if k < 0:
        raise ParameterError("k", "0 or more", k)
    if search not in get_args(Search):
        raise ParameterError("search", " or ".join(map(repr, get_args(Search))), search)
    k = min(k, len(keys))
    norms = _lengths("queries", queries)
    if search == "faiss":
        from personalllm.methods.parts.retrieval_faiss import approximate

        return approximate(queries, keys, k, nearest)
    if k == 0:
        _lengths("keys", keys)
        return np.empty((len(queries), 0), dtype=np.int32)
    return _exact(queries, norms, keys, k)


def _exact(queries: F32, norms: F64, keys: F32, k: int) -> I32:
    """Pass over the keys once, block by block; the k best of each query so far are a heap (see the kernels)."""
    from personalllm.methods.parts import retrieval_kernels as kernels

    n = len(queries)
    heaps = np.full((n, k), kernels.EMPTY)
    crowded = np.zeros(n, dtype=np.bool_)
    products = np.empty((min(n, _QUERIES), min(len(keys), _KEYS)), dtype=np.float32)
    for start in range(0, len(keys), _KEYS):
        block = np.ascontiguousarray(keys[start : start + _KEYS])
        longest = _lengths("keys", block, start).max(initial=0.0)
        wide: F64 | None = None
        for first in range(0, n, _QUERIES):
            part = slice(first, min(n, first + _QUERIES))
            query_vectors, margin = queries[part], _margins(norms[part] * longest, keys.shape[1])
            near = np.matmul(query_vectors, block.T, out=_view(products, len(query_vectors), len(block)))
            kernels.offer_near(near, margin, query_vectors, block, start, heaps[part], crowded[part], _ROOM)
            which = np.flatnonzero(crowded[part])
            if len(which):
                wide = block.astype(np.float64).T if wide is None else wide
                values = _settled(query_vectors[which], norms[part][which], block, wide, longest)
                kernels.offer_exact(values, which, start, heaps[part])
    heaps.sort(axis=1)
    return (0xFFFFFFFF - (heaps[:, ::-1] & 0xFFFFFFFF)).astype(np.int32)


def _view(buffer: F32, n: int, m: int) -> F32:
    """Return the start of a buffer as a contiguous array (n, m)."""
    return buffer.reshape(-1)[: n * m].reshape(n, m)


def _settled(queries: F32, norms: F64, keys: F32, wide: F64, longest: float) -> F32:
    """Return the values of a block, from float64 products; `wide` are the keys in float64, transposed."""
    from personalllm.methods.parts.retrieval_kernels import settle

    values = np.empty((len(queries), len(keys)), dtype=np.float32)
    slack = norms * longest * (queries.shape[1] + 8) * 2.0**-51
    products = np.matmul(queries.astype(np.float64), wide)
    settle(products, slack, np.ascontiguousarray(queries), keys, values)
    return values


def _margins(bound: F64, dim: int) -> F64:
    """Return by how much a float32 product, added in any order, and the value can differ.

    The error of a sum of `dim` products is at most `g sum |a_i b_i| <= g |a| |b|` with `g = n u / (1 - n u)`,
    `u = 2 ** -24`; `n` has room for rounding the value and for what underflows.

    Args:
        bound: float64 (n,), at least |a| |b|.
        dim: Length of the rows.
    """
    relative = (dim + 8) * 2.0**-24
    return np.asarray(bound * (relative / (1 - relative)) + dim * 2.0**-124)


def _rows(name: str, rows: Any) -> F32:
    """Return a matrix of float32 rows; keys of another type or stride would be copied whole, so these are blocked."""
    array = np.asarray(rows)
    if array.ndim != 2:
        raise ParameterError(name, "a matrix, one vector a row", f"shape {array.shape}")
    if array.dtype != np.float32:
        raise ParameterError(name, "float32", str(array.dtype))
    return array


def _same_width(queries: F32, keys: F32) -> None:
    if queries.shape[1] != keys.shape[1]:
        raise ParameterError("keys", f"as wide as the queries ({queries.shape[1]})", keys.shape[1])


def _lengths(name: str, rows: F32, first: int = 0) -> F64:
    """Return upper bounds of the rows' lengths, float64 (n,), 0 for a zero row; raise if a row is not finite."""
    from personalllm.methods.parts.retrieval_kernels import lengths

    result = np.empty(len(rows))
    lengths(rows, result)
    wrong = np.flatnonzero(~np.isfinite(result))
    if len(wrong):
        raise ParameterError(name, "finite vectors, shorter than 1e19", f"row {first + wrong[0]}: {rows[wrong[0]]}")
    return result


def nearest_interactions(query_vectors: F32, prompt_vectors: F32, index: I64, offsets: I64, users: I32, k: int) -> I64:
    """Return, for each query, the pool rows of its similar users whose prompts are nearest, nearest first.

    A prompt counts once, as the most similar of the users answered it; ties between prompts go to the lower distinct
    prompt. As in `nearest`, an answer depends on its query alone. Works in blocks of 4 million products (16 MB).

    Args:
        query_vectors: float32 (n, dim), vectors of the queries' prompts.
        prompt_vectors: float32 (n_distinct, dim), vectors of the pool's distinct prompts.
        index: int64 (n_rows,), the distinct prompt of each pool row.
        offsets: int64 (n_pool_users + 1,), where the rows of each pool user lie.
        users: int32 (n, n_similar), pool users, most similar first; -1 stands for nobody.
        k: How many, >= 0.

    Returns:
        int64 (n, k), pool rows; -1 where there are no more.

    Raises:
        ParameterError: If an argument has another shape, is not finite, or k is negative.
    """
    from personalllm.methods.parts.retrieval_kernels import offer_rows

    query_vectors, prompt_vectors = (
        np.ascontiguousarray(_rows("query_vectors", query_vectors)),
        _rows("prompt_vectors", prompt_vectors),
    )
    _same_width(query_vectors, prompt_vectors)
    if k < 0:
        raise ParameterError("k", "0 or more", k)
    if len(users) != len(query_vectors):
        raise ParameterError("users", f"one row for each of the {len(query_vectors)} queries", len(users))
    users, matches = np.ascontiguousarray(users), np.full((len(query_vectors), k), -1, dtype=np.int64)
    norms, longest = (
        _lengths("query_vectors", query_vectors),
        _lengths("prompt_vectors", prompt_vectors).max(initial=0.0),
    )
    step = max(1, min(_QUERIES, _CELLS // max(1, len(prompt_vectors))))
    for start in range(0, len(query_vectors) if k else 0, step):
        part = slice(start, start + step)
        vectors, local = _used(prompt_vectors, index, offsets, users[part])
        margin = _margins(norms[part] * longest, query_vectors.shape[1])
        near = np.matmul(query_vectors[part], vectors.T)
        offer_rows(near, margin, query_vectors[part], vectors, local, offsets, users[part], matches[part])
    return matches


def _used(vectors: F32, index: I64, offsets: I64, users: I32) -> tuple[F32, I64]:
    """Return the vectors that rows of these users refer to, in their order, and the new place of every row."""
    who = np.unique(users[users >= 0])
    needed = np.zeros(len(vectors), dtype=np.bool_)
    needed[index[concatenated_ranges(offsets[who], offsets[who + 1])]] = True
    if 2 * np.count_nonzero(needed) > len(vectors):
        return np.ascontiguousarray(vectors), index
    return vectors[needed], (np.cumsum(needed) - 1)[index]


def owners(prompts: I32, index: I64, offsets: I64) -> tuple[I32, I64]:
    """Return the pool users who answered any of the given distinct prompts.

    Args:
        prompts: int32 (n, n_prompts), for each query some distinct prompts, such as `nearest` returns.
        index: int64 (n_rows,), the distinct prompt of each pool row.
        offsets: int64 (n_pool_users + 1,), where the rows of each pool user lie.

    Returns:
        Pool users, int32 (n_candidates,), ascending for each query, and where those of each query lie, int64 (n + 1,).

    >>> owners(np.array([[0, 2], [1, 1]]), np.array([2, 0, 1, 1]), np.array([0, 2, 3, 4]))[0].tolist()
    [0, 1, 2]
    """
    n_users, n_prompts = max(1, len(offsets) - 1), int(max(index.max(initial=-1), prompts.max(initial=-1))) + 1
    is_wanted = np.zeros(n_prompts, dtype=np.bool_)
    is_wanted[prompts] = True
    answered = np.flatnonzero(is_wanted[index])
    rows = answered[np.argsort(index[answered], kind="stable")]
    ends = np.cumsum(np.bincount(index[answered], minlength=n_prompts))
    starts, stops = np.concatenate([[0], ends])[prompts], ends[prompts]
    who = np.searchsorted(offsets, rows, side="right")[concatenated_ranges(starts.ravel(), stops.ravel())] - 1
    query = np.repeat(np.arange(len(prompts)), (stops - starts).sum(axis=1))
    query, user = np.divmod(np.unique(query * n_users + who), n_users)
    return user.astype(np.int32), np.searchsorted(query, np.arange(len(prompts) + 1)).astype(np.int64)


def rank_by_best_match(
    target_vectors: F32, own_offsets: I64, vectors: F32, index: I64, offsets: I64, candidates: tuple[I32, I64], k: int
) -> I32:
    """Return, for each query, the k candidates that match who asks best, best first; ties go to the lower user.

    `score(t, u) = mean over i in own rows of t of max over j in rows of u of value(own_i, vector_j)`, as in the look-up
    variant of section 4 (learning across users). A score depends on the two users alone. Works in blocks of 4 million
    products (16 MB), or of one query's own rows by all distinct vectors where these are more.

    Args:
        target_vectors: float32 (n_own, dim), unit rows, interactions of the user who asks, one query after the other.
        own_offsets: int64 (n + 1,), where those of each query lie.
        vectors: float32 (n_distinct, dim), unit rows, distinct vectors of pool interactions.
        index: int64 (n_rows,), the vector of each pool row.
        offsets: int64 (n_pool_users + 1,), where the rows of each pool user lie.
        candidates: What `owners` returns: distinct pool users, and where those of each query lie.
        k: How many, >= 0.

    Returns:
        int32 (n, k), pool users; -1 where there are no more. Without own rows all candidates tie; a candidate without
        rows comes last.

    Raises:
        ParameterError: If an argument has another shape, is not finite, or k is negative.
    """
    from personalllm.methods.parts.retrieval_kernels import best_matches

    target_vectors, vectors = np.ascontiguousarray(_rows("target_vectors", target_vectors)), _rows("vectors", vectors)
    _same_width(target_vectors, vectors)
    users, bounds = candidates
    n = len(own_offsets) - 1
    if k < 0:
        raise ParameterError("k", "0 or more", k)
    if len(bounds) != n + 1:
        raise ParameterError("candidates", f"those of {n} queries", f"those of {len(bounds) - 1}")
    matches = np.full((n, k), -1, dtype=np.int32)
    margin = _lengths("target_vectors", target_vectors).max(initial=0.0) * _lengths("vectors", vectors).max(initial=0.0)
    margin = float(_margins(np.array(margin), target_vectors.shape[1]))
    most, start = _CELLS // max(1, len(vectors)), 0
    while start < n and k:
        stop = max(start + 1, int(np.searchsorted(own_offsets, own_offsets[start] + most, side="right")) - 1)
        own_vectors, own_candidates = (
            target_vectors[own_offsets[start] : own_offsets[stop]],
            users[bounds[start] : bounds[stop]],
        )
        some, local = _used(vectors, index, offsets, own_candidates)
        limits: Any = [
            own_offsets[start:stop],
            own_offsets[start + 1 : stop + 1],
            bounds[start:stop],
            bounds[start + 1 : stop + 1],
        ]
        shift = np.array([own_offsets[start]] * 2 + [bounds[start]] * 2)
        products, limits = np.matmul(own_vectors, some.T), np.column_stack(limits) - shift
        best_matches(products, margin, limits, own_vectors, some, local, offsets, own_candidates, matches[start:stop])
        start = stop
    return matches
