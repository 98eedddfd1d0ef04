"""Compiled loops over users and prompts; imported when first needed, because numba is slow to import.

Both kernels read tiles of prompts, float32 (n_tiles, n_responses * n_reward_models * TILE), so that one instruction
works on many prompts and a tile stays in the first-level cache while all users of a block pass over it. The sums
run over the reward models in order, and `fastmath` is off: the compiler may not fuse or reorder them.
"""

# ruff: noqa: FURB136 - a conditional compiles to one select; max() and min() also look for NaN

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

__all__ = ["TILE", "choose_buffered", "choose_fused", "compiled", "median_below"]

TILE = 64  # prompts: 8 x 10 scores of them are 20 KB, which leaves room in a first-level cache of 32 KB

_LOWEST, _HIGHEST = np.float32(-np.inf), np.float32(np.inf)
_f32, _i32, _u8 = np.float32, np.int32, np.uint8
_MINUS_ZERO = np.float32(
    -0.0
)  # the neutral element of addition: 0.0 + -0.0 is 0.0, so the first product keeps its sign


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile on first call, without the interpreter lock; kept on disk where a cache folder can be written."""
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(nogil=True, **options)(function)


@compiled
def choose_fused(tiles, starts, weights, responses, reward_models, best, worst):  # type: ignore[no-untyped-def]
    """Write the best and the worst response of each user and prompt.

    `responses` and `reward_models` are tuples that stand for their lengths: these are then known when the loop is
    compiled, which unrolls it and keeps the running best and worst in registers.
    """
    width = min(TILE, best.shape[1])
    for tile in range(len(starts)):
        s = tiles[tile]
        for user in range(weights.shape[0]):
            w = weights[user]
            best_row = best[user, starts[tile] : starts[tile] + width]
            worst_row = worst[user, starts[tile] : starts[tile] + width]
            for p in range(width):
                # Positions are float32 as the utilities are, so that comparing and selecting use vectors of one width.
                high, low, high_at, low_at = _LOWEST, _HIGHEST, _f32(0), _f32(0)
                for r in range(len(responses)):
                    value = w[0] * s[r * len(reward_models) * TILE + p]
                    for b in range(1, len(reward_models)):
                        value += w[b] * s[(r * len(reward_models) + b) * TILE + p]
                    high_at = _f32(r) if value > high else high_at
                    high = value if value > high else high
                    low_at = _f32(r) if value < low else low_at
                    low = value if value < low else low
                best_row[p] = _u8(_i32(high_at))
                worst_row[p] = _u8(_i32(low_at))


@compiled
def choose_buffered(tiles, starts, weights, n_responses, best, worst):  # type: ignore[no-untyped-def]
    """Do the work of `choose_fused` for shapes too large to unroll, through buffers of one tile."""
    n_rms = weights.shape[1]
    width = min(TILE, best.shape[1])
    value = np.empty(TILE, _f32)
    high, low = np.empty(TILE, _f32), np.empty(TILE, _f32)
    high_at, low_at = np.empty(TILE, _f32), np.empty(TILE, _f32)
    for tile in range(len(starts)):
        for user in range(weights.shape[0]):
            w = weights[user]
            high[:], low[:], high_at[:], low_at[:] = _LOWEST, _HIGHEST, _f32(0), _f32(0)
            for r in range(n_responses):
                value[:] = _MINUS_ZERO
                b = 0
                # Four reward models a pass read and write the buffer a quarter as often; the order of the sum stays.
                while b + 4 <= n_rms:
                    s = tiles[tile, (r * n_rms + b) * TILE : (r * n_rms + b + 4) * TILE]
                    w0, w1, w2, w3 = w[b], w[b + 1], w[b + 2], w[b + 3]
                    for p in range(TILE):
                        total = value[p] + w0 * s[p]
                        total += w1 * s[TILE + p]
                        total += w2 * s[2 * TILE + p]
                        value[p] = total + w3 * s[3 * TILE + p]
                    b += 4
                while b < n_rms:
                    s = tiles[tile, (r * n_rms + b) * TILE : (r * n_rms + b + 1) * TILE]
                    w0 = w[b]
                    for p in range(TILE):
                        value[p] += w0 * s[p]
                    b += 1
                at = _f32(r)
                for p in range(TILE):
                    now = value[p]
                    high_at[p] = at if now > high[p] else high_at[p]
                    high[p] = now if now > high[p] else high[p]
                    low_at[p] = at if now < low[p] else low_at[p]
                    low[p] = now if now < low[p] else low[p]
            best_row = best[user, starts[tile] : starts[tile] + width]
            worst_row = worst[user, starts[tile] : starts[tile] + width]
            for p in range(width):
                best_row[p] = _u8(_i32(high_at[p]))
                worst_row[p] = _u8(_i32(low_at[p]))


@compiled
def median_below(values, maximum):  # type: ignore[no-untyped-def]
    """Return a number above half of the values that are at most `maximum`, by bisection; values are >= 0."""
    low, high, count = 0.0, maximum, 0
    for value in values:
        count += value <= maximum
    for _ in range(60):
        middle, below = 0.5 * (low + high), 0
        for value in values:
            below += value <= middle
        if 2 * below >= count:
            high = middle
        else:
            low = middle
    return high
