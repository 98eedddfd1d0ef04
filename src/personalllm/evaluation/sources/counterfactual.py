"""Counterfactual histories: what the same prompts would say if the feedback were not this user's own."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import I32
from personalllm.feedback import InteractionPool

__all__ = ["Counterfactual", "flipped", "partners", "rewritten", "shuffled"]

Counterfactual = Literal["none", "other-user", "flipped", "shuffled"]


def partners(n_users: int, seed: int) -> I32:
    """Return another user for each user: a random permutation that is one cycle, without a fixed point.

    Args:
        n_users: Number of users, >= 2.
        seed: Seed of the draw.

    Returns:
        int32 (n_users,), a permutation without a fixed point; each user is equally likely to get each other one.

    Raises:
        ParameterError: If there is only one user.

    >>> sorted(partners(4, seed=0).tolist())
    [0, 1, 2, 3]
    """
    if n_users < 2:
        raise ParameterError("n_users", ">= 2, so that there is another user", n_users)
    order = generator(seed, "partners").permutation(n_users).astype(np.int32)
    partner = np.empty(n_users, np.int32)
    partner[order] = np.roll(order, -1)
    return partner


def flipped(pool: InteractionPool) -> InteractionPool:
    """Return the interactions with chosen and rejected swapped; ties stay ties."""
    return dataclasses.replace(pool, chosen=pool.rejected, rejected=pool.chosen)


def shuffled(pool: InteractionPool, seed: int) -> InteractionPool:
    """Return the interactions, their prompts and ties as they are, each with a random ordered pair of responses.

    Every ordered pair of two different responses of the prompt is equally likely; the first interactions do not depend
    on how many follow.

    Args:
        pool: The interactions, with at least 2 responses for each prompt.
        seed: Seed of the draw.
    """
    uniform = generator(seed, "shuffled pairs").random((len(pool), 2))
    first = (uniform[:, 0] * pool.n_responses).astype(np.int64)
    other = (uniform[:, 1] * (pool.n_responses - 1)).astype(np.int64)
    second = other + (other >= first)
    return dataclasses.replace(pool, chosen=first.astype(np.uint8), rejected=second.astype(np.uint8))


def rewritten(kind: Counterfactual, pool: InteractionPool, seed: int) -> InteractionPool:
    """Return the interactions as the counterfactual has them; those of `other-user` come from the partners already.

    Args:
        kind: `flipped` and `shuffled` change something.
        pool: The interactions of all target users, so that a limit on the users changes no draw.
        seed: Seed of `shuffled`.
    """
    if kind == "flipped":
        return flipped(pool)
    return shuffled(pool, seed) if kind == "shuffled" else pool
