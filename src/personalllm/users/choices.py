"""Compute users' choices: best and worst response and ranks, for all prompts or for some prompts of each user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError
from personalllm.core.types import F32, I32, U8
from personalllm.users.population import Population
from personalllm.users.tables import (
    Scores,
    blocks,
    checked_scores,
    checked_weights,
    dot,
    rows_of,
    run_blocks,
)
from personalllm.users.utility import PAIRS_PER_BLOCK, pair_utilities

__all__ = ["choices", "choices_at", "ranks"]

Method = Literal["numpy", "buffered", "fused"]

_USERS_PER_BLOCK, _MAX_USERS_PER_BLOCK = 64, 1_024
_PAIRS_PER_BLOCK = 600_000
_PROMPTS_PER_TILE = 256
_SMALL_WORK = 50_000_000  # multiplications below which compiling (about a second) would cost more than it saves
_MAX_UNROLLED = 96  # responses x reward models; larger shapes take the kernel that is not unrolled


def choices(population: Population, scores: Scores, *, threads: int | None = None) -> tuple[U8, U8]:
    """Return the best and the worst response of every user for every prompt; the first of equal ones.

    The result does not depend on the machine, the number of threads or the size of the population: utilities are
    float32, summed in the order of the reward models, without fused multiply-add. Large work is compiled (about a
    second, once; kept on disk); the memory is that of the output plus a copy of the scores.

    Args:
        population: The users.
        scores: Standardised scores (n_prompts, n_responses, n_reward_models).
        threads: Threads; None takes all processors of this process.

    Returns:
        best, worst: uint8 (n_users, n_prompts), columns of the responses.

    Raises:
        AxisMismatch: If the reward models differ.
        ParameterError: If a score is not finite, or `threads` is out of range.

    >>> users = Population.one_per_reward_model(("a", "b"))
    >>> best, worst = choices(users, np.array([[[1, 3], [2, 0]]], np.float32))
    >>> best.tolist(), worst.tolist()
    ([[1], [0]], [[0], [1]])
    """
    values = checked_scores(population, scores)
    work = population.n_users * values.size
    if work <= _SMALL_WORK:
        return _choices(population, values, "numpy", threads)
    unrolled = values.shape[1] * values.shape[2] <= _MAX_UNROLLED
    return _choices(population, values, "fused" if unrolled else "buffered", threads)


def _choices(population: Population, values: F32, method: Method, threads: int | None) -> tuple[U8, U8]:
    """Return what `choices` does, by one of its three equivalent methods."""
    weights = checked_weights(population)
    best = np.empty((len(weights), len(values)), np.uint8)
    worst = np.empty_like(best)
    if not best.size:
        return best, worst
    build = {"numpy": _numpy_work, "buffered": _buffered_work, "fused": _fused_work}[method]
    # About 600,000 (user, prompt) pairs a block: enough work for a thread, and bounded memory.
    size = min(max(_PAIRS_PER_BLOCK // len(values), _USERS_PER_BLOCK), _MAX_USERS_PER_BLOCK)
    run_blocks(build(weights, values, best, worst), len(weights), size, threads)
    return best, worst


def _numpy_work(weights: F32, values: F32, best: U8, worst: U8) -> Callable[[slice], None]:
    table = np.ascontiguousarray(values.transpose(1, 2, 0))

    def work(users: slice) -> None:
        w = np.ascontiguousarray(weights[users].T)[:, :, None]
        for tile in blocks(table.shape[2], _PROMPTS_PER_TILE):
            high = dot(w, table[0, :, None, tile])  # `dot` adds in the order of the reward models, as the kernels do
            low = high.copy()
            best_tile, worst_tile = np.zeros(high.shape, np.uint8), np.zeros(high.shape, np.uint8)
            for r in range(1, len(table)):
                value = dot(w, table[r, :, None, tile])
                # Strict comparisons: of equal utilities the first response stays.
                np.copyto(best_tile, np.uint8(r), where=value > high)
                np.copyto(worst_tile, np.uint8(r), where=value < low)
                np.maximum(high, value, out=high)
                np.minimum(low, value, out=low)
            best[users, tile], worst[users, tile] = best_tile, worst_tile

    return work


def _buffered_work(weights: F32, values: F32, best: U8, worst: U8) -> Callable[[slice], None]:
    from personalllm.users import _kernels

    tiles, starts = _tiles(values, _kernels.TILE)
    n_responses = values.shape[1]

    def work(users: slice) -> None:
        _kernels.choose_buffered(tiles, starts, weights[users], n_responses, best[users], worst[users])

    return work


def _fused_work(weights: F32, values: F32, best: U8, worst: U8) -> Callable[[slice], None]:
    from personalllm.users import _kernels

    tiles, starts = _tiles(values, _kernels.TILE)
    responses, reward_models = (0,) * values.shape[1], (0,) * values.shape[2]

    def work(users: slice) -> None:
        _kernels.choose_fused(tiles, starts, weights[users], responses, reward_models, best[users], worst[users])

    return work


def _tiles(values: F32, width: int) -> tuple[F32, npt.NDArray[np.int64]]:
    """Return tiles of prompts, float32 (n_tiles, n_responses * n_reward_models * width), and where each starts.

    The last tile begins early enough to be full (its first prompts are done twice), unless there are fewer prompts
    than a tile holds: then it is padded with zeros.
    """
    n_prompts = len(values)
    starts = np.minimum(np.arange(0, n_prompts, width), max(n_prompts - width, 0)).astype(np.int64)
    columns = values.reshape(n_prompts, -1)
    tiles = np.zeros((len(starts), columns.shape[1], width), np.float32)
    for tile, start in zip(tiles, starts, strict=True):
        part = columns[start : start + width]
        tile[:, : len(part)] = part.T
    return tiles.reshape(len(starts), -1), starts


def choices_at(population: Population, scores: Scores, prompts: npt.ArrayLike) -> tuple[U8, U8]:
    """Return the best and the worst response of each user for some prompts of its own.

    Args:
        population: The users.
        scores: Standardised scores (n_prompts, n_responses, n_reward_models).
        prompts: Integers (n_users, k), rows of the scores.

    Returns:
        best, worst: uint8 (n_users, k), equal to `choices` at those prompts.

    Raises:
        AxisMismatch: If the reward models differ, or there is not one row of prompts for each user.
        ParameterError: If a prompt is out of range.

    >>> users = Population.one_per_reward_model(("a", "b"))
    >>> scores = np.array([[[1, 3], [2, 0]], [[0, 0], [1, 1]]], np.float32)
    >>> best, worst = choices_at(users, scores, [[0], [1]])
    >>> best.tolist(), worst.tolist()
    ([[1], [1]], [[0], [0]])
    """
    values = checked_scores(population, scores)
    rows: I32 = rows_of(prompts, population.n_users, len(values))
    best, worst = np.empty(rows.shape, np.uint8), np.empty(rows.shape, np.uint8)
    weights = checked_weights(population)
    for users in blocks(len(rows), max(1, PAIRS_PER_BLOCK // max(rows.shape[1], 1))):
        value = pair_utilities(weights[users].repeat(rows.shape[1], axis=0), values[rows[users].ravel()])
        best[users] = value.argmax(axis=1).reshape(rows[users].shape)
        worst[users] = value.argmin(axis=1).reshape(rows[users].shape)
    return best, worst


def ranks(
    population: Population, scores: Scores, positions: Sequence[int] = (0, -1), *, threads: int | None = None
) -> U8:
    """Return which response stands at some positions of every user's ranking of every prompt.

    Position 0 is the best response, -1 the worst. Equal utilities keep the order of the columns, so the last of
    several equally bad responses stands at -1, while `choices` names the first of them.

    Args:
        population: The users.
        scores: Standardised scores (n_prompts, n_responses, n_reward_models).
        positions: Each in [-n_responses, n_responses).
        threads: Threads; None takes all processors of this process.

    Returns:
        uint8 (n_users, n_prompts, n_positions), columns of the responses.

    Raises:
        AxisMismatch: If the reward models differ.
        ParameterError: If a position is out of range.

    >>> users = Population.one_per_reward_model(("a", "b"))
    >>> ranks(users, np.array([[[1, 3], [2, 0], [0, 1]]], np.float32), [0, 1, -1]).tolist()
    [[[1, 0, 2]], [[0, 2, 1]]]
    """
    values = checked_scores(population, scores)
    indices = check_positions(positions, values.shape[1])
    weights = checked_weights(population)
    table = np.ascontiguousarray(values.transpose(1, 2, 0))
    out = np.empty((len(weights), len(values), len(indices)), np.uint8)

    def work(users: slice) -> None:
        w = np.ascontiguousarray(weights[users].T)[:, :, None]
        for tile in blocks(table.shape[2], _PROMPTS_PER_TILE):
            rank = places(np.stack([dot(w, scores_of[:, None, tile]) for scores_of in table]))
            for q, position in enumerate(indices):
                at = np.zeros(rank.shape[1:], np.uint8)
                for r in range(len(rank)):
                    np.copyto(at, np.uint8(r), where=rank[r] == position)
                out[users, tile, q] = at

    if out.size:
        run_blocks(work, len(weights), _USERS_PER_BLOCK, threads)
    return out


def places(values: F32) -> U8:
    """Return the place of each response, 0 for the best, uint8 (n_responses, ...); equal ones keep their order.

    Args:
        values: Utilities, float32 (n_responses, ...).
    """
    rank = np.zeros(values.shape, np.uint8)
    for r in range(len(values)):
        for later in range(r + 1, len(values)):
            ahead = values[r] >= values[later]  # >=: equal utilities keep the order of the columns
            rank[later] += ahead
            rank[r] += ~ahead
    return rank


def check_positions(positions: Sequence[int], n_responses: int) -> list[int]:
    """Return positions counted from the best, each in [0, n_responses).

    Raises:
        ParameterError: If a position is not an integer in [-n_responses, n_responses).
    """
    array = np.asarray(positions)
    ok = array.ndim == 1 and np.issubdtype(array.dtype, np.integer)
    if not ok or not ((array >= -n_responses) & (array < n_responses)).all():
        raise ParameterError("positions", f"integers in [{-n_responses}, {n_responses})", positions)
    return [int(position) % n_responses for position in array]
