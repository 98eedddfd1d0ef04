"""Compute utilities of users: for chosen (user, prompt) pairs, or for all of them in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch
from personalllm.core.types import F32
from personalllm.users.draws import check_count
from personalllm.users.population import Population
from personalllm.users.tables import Scores, blocks, checked_scores, checked_weights, dot, indices

__all__ = ["iter_utilities", "utilities"]

PAIRS_PER_BLOCK = 4_096
_PROMPTS_PER_TILE = 128


def utilities(population: Population, scores: Scores, users: npt.ArrayLike, prompts: npt.ArrayLike) -> F32:
    r"""Return the utility of every response for pairs of a user and a prompt.

    $u = \sum_b w_b s_b$ in float32, in the order of the reward models, without fused multiply-add (paper, section 2).

    Args:
        population: The users.
        scores: Standardised scores (n_prompts, n_responses, n_reward_models).
        users: Integers (n,), rows of the population.
        prompts: Integers (n,), rows of the scores.

    Returns:
        float32 (n, n_responses), in standard deviations, higher is better.

    Raises:
        AxisMismatch: If the reward models differ, or the two columns differ in length.
        ParameterError: If an index is out of range.

    >>> users = Population(weights=[[0.5, 0.5], [1, 0]], reward_models=("a", "b"))
    >>> scores = np.array([[[1, 3], [2, 0]]], np.float32)
    >>> utilities(users, scores, users=[0, 1], prompts=[0, 0]).tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    values, weights = checked_scores(population, scores), checked_weights(population)
    user = indices("users", users, population.n_users)
    prompt = indices("prompts", prompts, values.shape[0])
    if user.ndim != 1 or user.shape != prompt.shape:
        raise AxisMismatch(
            f"users of shape {user.shape} and prompts of shape {prompt.shape} are not pairs.",
            "Give two columns of the same length.",
        )
    out = np.empty((len(user), values.shape[1]), np.float32)
    for block in blocks(len(user), PAIRS_PER_BLOCK):
        out[block] = pair_utilities(weights[user[block]], values[prompt[block]])
    return out


def pair_utilities(weights: F32, scores: F32) -> F32:
    """Return utilities, float32 (n, n_responses), of weights (n, n_reward_models) and scores (n, n_responses, ...)."""
    return dot(np.ascontiguousarray(weights.T)[:, None], np.ascontiguousarray(scores.transpose(2, 1, 0))).T


def iter_utilities(population: Population, scores: Scores, users_per_block: int = 64) -> Iterator[tuple[slice, F32]]:
    """Yield the utilities of every user for every response, a block of users at a time.

    Args:
        population: The users.
        scores: Standardised scores (n_prompts, n_responses, n_reward_models).
        users_per_block: Users in a block, >= 1; a block takes 4 x users x prompts x responses bytes.

    Yields:
        The rows of the users, and float32 (n_block_users, n_prompts, n_responses); each array is a new one.

    Raises:
        AxisMismatch: If the reward models differ.
        ParameterError: If `users_per_block` is out of range.

    >>> users = Population.one_per_reward_model(("a", "b"))
    >>> scores = np.array([[[1, 3], [2, 0]]], np.float32)
    >>> [block.tolist() for rows, block in iter_utilities(users, scores)]
    [[[[1.0, 2.0]], [[3.0, 0.0]]]]
    """
    size = check_count("users_per_block", users_per_block)
    values, weights = checked_scores(population, scores), checked_weights(population)
    table = np.ascontiguousarray(values.transpose(2, 0, 1))
    return _iter_blocks(weights, table, size)


def _iter_blocks(weights: F32, table: F32, users_per_block: int) -> Iterator[tuple[slice, F32]]:
    n_prompts, n_responses = table.shape[1:]
    for users in blocks(len(weights), users_per_block):
        w = weights[users].T[:, :, None, None]
        out = np.empty((w.shape[1], n_prompts, n_responses), np.float32)
        for tile in blocks(n_prompts, _PROMPTS_PER_TILE):
            out[:, tile] = dot(w, table[:, None, tile])
        yield users, out
