"""Compiled loops of the retrieval; imported when first needed, because numba is slow to import.

The value of a pair of rows is always `round32(dot(a, b))`: products of float32 are exact in float64, they are added in
one order (eight lanes, no fused multiply-add), and the sum is rounded to float32. Approximate products from BLAS only
decide which pairs need not be looked at.

The k best of a query are kept as a heap of int64 keys, the least on top: the value's bits in an order-preserving form,
then the row, lower rows being larger. Distinct rows give distinct keys, so the k largest do not depend on the order in
which rows are offered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

__all__ = ["EMPTY", "best_matches", "lengths", "offer_exact", "offer_near", "offer_rows", "reorder", "settle"]

EMPTY = np.iinfo(np.int64).min

_f32, _f64, _i32, _i64 = np.float32, np.float64, np.int32, np.int64
_LOWEST = np.float32(-np.inf)
_LOW_BITS = 0xFFFFFFFF


def _compiled(*, reorder: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile on first call, without the interpreter lock; kept on disk where a cache folder can be written."""
    fast = {"reassoc", "contract"} if reorder else False

    def wrap(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, fastmath=fast)(function)
        except RuntimeError:
            return numba.njit(nogil=True, fastmath=fast)(function)

    return wrap


@_compiled(reorder=True)
def _squares(row):  # type: ignore[no-untyped-def]
    total = _f32(0)
    for i in range(len(row)):
        total += row[i] * row[i]
    return total


@_compiled()
def lengths(rows, out):  # type: ignore[no-untyped-def]
    """Write an upper bound of the length of each row, not finite if the row is not; only error bounds use it."""
    lost = rows.shape[1] * 2.0**-120
    for i in range(rows.shape[0]):
        out[i] = np.sqrt(_f64(_squares(rows[i])) * (1 + 2.0**-7) + lost)


@_compiled()
def _value(a, b):  # type: ignore[no-untyped-def]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = len(a) - len(a) % 8
    for i in range(0, whole, 8):
        s0 += _f64(a[i]) * _f64(b[i])
        s1 += _f64(a[i + 1]) * _f64(b[i + 1])
        s2 += _f64(a[i + 2]) * _f64(b[i + 2])
        s3 += _f64(a[i + 3]) * _f64(b[i + 3])
        s4 += _f64(a[i + 4]) * _f64(b[i + 4])
        s5 += _f64(a[i + 5]) * _f64(b[i + 5])
        s6 += _f64(a[i + 6]) * _f64(b[i + 6])
        s7 += _f64(a[i + 7]) * _f64(b[i + 7])
    total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
    for i in range(whole, len(a)):
        total += _f64(a[i]) * _f64(b[i])
    return _f32(total)


@_compiled()
def settle(wide, slack, queries, keys, out):  # type: ignore[no-untyped-def]
    """Write the values: the rounded float64 products, computed anew where the rounding is in doubt."""
    for i in range(wide.shape[0]):
        for j in range(wide.shape[1]):
            low = _f32(wide[i, j] - slack[i])
            if low == _f32(wide[i, j] + slack[i]):
                out[i, j] = low
            else:
                out[i, j] = _value(queries[i], keys[j])


@_compiled()
def _key(value, row):  # type: ignore[no-untyped-def]
    bits = _f32(value + _f32(0)).view(np.int32)
    rank = _i64(bits ^ ((bits >> _i32(31)) & _i32(0x7FFFFFFF)))
    return (rank << _i64(32)) | (_i64(_LOW_BITS) - _i64(row))


@_compiled()
def _row(key):  # type: ignore[no-untyped-def]
    return _i64(_LOW_BITS) - (key & _i64(_LOW_BITS))


@_compiled()
def _least(heap):  # type: ignore[no-untyped-def]
    if heap[0] == EMPTY:
        return _LOWEST
    rank = _i32(heap[0] >> _i64(32))
    return _i32(rank ^ ((rank >> _i32(31)) & _i32(0x7FFFFFFF))).view(np.float32)


@_compiled()
def _push(heap, key):  # type: ignore[no-untyped-def]
    """Put a key in the place of the least one, unless it is smaller itself."""
    if key <= heap[0]:
        return False
    k, place = len(heap), 0
    while True:
        child = 2 * place + 1
        if child >= k:
            break
        if child + 1 < k and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = key
    return True


@_compiled()
def _below(x):  # type: ignore[no-untyped-def]
    """Return a float32 that is less than a float64."""
    return _f32(x - np.abs(x) * 2.0**-21 - 1e-37)


@_compiled()
def offer_near(approx, margin, queries, keys, first, heaps, crowded, room):  # type: ignore[no-untyped-def]
    """Offer a block of keys to the heaps, given products that are wrong by at most `margin`.

    A key whose approximate product is not above (least value in the heap - margin) cannot enter: it stands behind the
    rows that are there. Where many remain, the k-th largest approximate product of the block, less two margins, is a
    second bound. A query for which more than `len(room)` keys still remain is left out and marked in `crowded`.
    """
    n, m, k = approx.shape[0], approx.shape[1], heaps.shape[1]
    rough = np.empty(k, _i64)
    for i in range(n):
        row, heap = approx[i], heaps[i]
        crowded[i] = False
        cutoff = _below(_f64(_least(heap)) - margin[i]) if heap[0] != EMPTY else _LOWEST
        count = 0
        for j in range(m):
            count += row[j] > cutoff
        if count == 0:
            continue
        if count > 2 * k + 32:
            rough[:] = EMPTY
            bar = cutoff
            for j in range(m):
                if row[j] > bar and _push(rough, _key(row[j], j)) and rough[0] != EMPTY:
                    bar = _least(rough)
            cutoff = max(cutoff, _below(_f64(_least(rough)) - 2 * margin[i]))
            count = 0
            for j in range(m):
                count += row[j] > cutoff
        if count > room:
            crowded[i] = True
            continue
        for j in range(m):
            if row[j] > cutoff and _push(heap, _key(_value(queries[i], keys[j]), first + j)) and heap[0] != EMPTY:
                cutoff = max(cutoff, _below(_f64(_least(heap)) - margin[i]))


@_compiled()
def offer_exact(values, which, first, heaps):  # type: ignore[no-untyped-def]
    """Offer a block of keys to the heaps of some queries, given their values."""
    for i in range(values.shape[0]):
        heap = heaps[which[i]]
        least = _least(heap)
        for j in range(values.shape[1]):
            if (values[i, j] > least or heap[0] == EMPTY) and _push(heap, _key(values[i, j], first + j)):
                least = _least(heap)


@_compiled()
def _first_rows(place, offsets, users, seen, rows):  # type: ignore[no-untyped-def]
    """Write the first row of each distinct vector, users in their order, and return how many there are."""
    count = 0
    for u in users:
        if u < 0:
            continue
        for row in range(offsets[u], offsets[u + 1]):
            if not seen[place[row]]:
                seen[place[row]] = True
                rows[count] = row
                count += 1
    for j in range(count):
        seen[place[rows[j]]] = False
    return count


@_compiled()
def offer_rows(approx, margin, queries, vectors, place, offsets, users, found):  # type: ignore[no-untyped-def]
    """Write the pool rows of each query's users whose vectors are nearest, nearest first.

    The k-th largest approximate product less two margins is the bound; the values of the few above it are computed.
    """
    k = found.shape[1]
    seen, rows = np.zeros(len(vectors), np.bool_), np.empty(len(vectors), _i64)
    place_row = np.empty(len(vectors), _i64)
    for i in range(found.shape[0]):
        near, heap = np.full(k, _i64(EMPTY)), np.full(k, _i64(EMPTY))
        count = _first_rows(place, offsets, users[i], seen, rows)
        for row in rows[:count]:
            _push(near, _key(approx[i, place[row]], place[row]))
        cutoff = _below(_f64(_least(near)) - 2 * margin[i]) if near[0] != EMPTY else _LOWEST
        for row in rows[:count]:
            p = place[row]
            if approx[i, p] > cutoff:
                place_row[p] = row
                _push(heap, _key(_value(queries[i], vectors[p]), p))
        heap.sort()
        for j in range(k):
            if heap[k - 1 - j] != EMPTY:
                found[i, j] = place_row[_row(heap[k - 1 - j])]


@_compiled()
def _rough_match(approx, start, stop, places):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(start, stop):
        best = _LOWEST
        for p in places:
            best = max(best, approx[i, p])
        total += _f64(best)
    return total / max(1, stop - start)


@_compiled()
def _match(approx, margin, start, stop, places, own, vectors):  # type: ignore[no-untyped-def]
    """Return the mean over own rows of the best value: only rows near the best approximate product are computed."""
    total = 0.0
    for i in range(start, stop):
        best = _LOWEST
        for p in places:
            best = max(best, approx[i, p])
        cutoff, best = _below(_f64(best) - 2 * margin), _LOWEST
        last = -1
        for p in places:
            if approx[i, p] > cutoff and p != last:
                best = max(best, _value(own[i], vectors[p]))
                last = p
        total += _f64(best)
    return _f32(total / max(1, stop - start))


@_compiled()
def best_matches(approx, margin, bounds, own, vectors, place, offsets, users, found):  # type: ignore[no-untyped-def]
    """Write each query's k candidates with the largest mean best value.

    Row i of `bounds` holds the first own row of query i and the end, then its first candidate in `users` and the end.
    Mean and maximum move by no more than their arguments, so the margin of the products bounds that of the score, too.
    """
    k = found.shape[1]
    rough = np.empty(np.max(bounds[:, 3] - bounds[:, 2]), _f64)
    for i in range(found.shape[0]):
        start, stop, first, end = bounds[i]
        near, heap = np.full(k, _i64(EMPTY)), np.full(k, _i64(EMPTY))
        for c in range(first, end):
            rows = place[offsets[users[c]] : offsets[users[c] + 1]]
            if len(rows) == 0:
                rough[c - first] = -np.inf
            else:
                rough[c - first] = _rough_match(approx, start, stop, rows)
            _push(near, _key(_f32(rough[c - first]), users[c]))
        cutoff = _f64(_below(_f64(_least(near)) - 2 * margin)) if near[0] != EMPTY else -np.inf
        for c in range(first, end):
            if rough[c - first] < cutoff:
                continue
            rows = place[offsets[users[c]] : offsets[users[c] + 1]]
            value = _LOWEST if len(rows) == 0 else _match(approx, margin, start, stop, rows, own, vectors)
            _push(heap, _key(value, users[c]))
        heap.sort()
        for j in range(k):
            if heap[k - 1 - j] != EMPTY:
                found[i, j] = _row(heap[k - 1 - j])


@_compiled()
def reorder(queries, vectors, rows, place, found):  # type: ignore[no-untyped-def]
    """Write the rows of the vectors at `place` to `found`, largest value first."""
    for i in range(place.shape[0]):
        heap = np.empty(place.shape[1], _i64)
        for j in range(place.shape[1]):
            heap[j] = _key(_value(queries[i], vectors[place[i, j]]), rows[place[i, j]])
        heap.sort()
        for j in range(len(heap)):
            found[i, j] = _row(heap[len(heap) - 1 - j])
