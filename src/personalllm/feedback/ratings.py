"""Draw users' star ratings of single responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, U8
from personalllm.feedback.pool import RatingPool
from personalllm.feedback.rules import RatingRule
from personalllm.users.draws import user_blocks
from personalllm.users.population import Population
from personalllm.users.tables import checked_scores, rows_of
from personalllm.users.utility import utilities

if TYPE_CHECKING:
    from personalllm.data import ScoreTable

__all__ = ["ratings"]

_USERS_PER_BLOCK = 64


def ratings(
    population: Population, scores: ScoreTable | F32, prompts: npt.ArrayLike, rule: RatingRule, seed: int
) -> RatingPool:
    """Draw ratings of some responses to each prompt of every user.

    As in `interact`, the first users do not depend on how many follow.

    Args:
        population: The users.
        scores: Standardised scores (n_prompts, n_responses, n_reward_models).
        prompts: Integers (n_users, k), rows of the scores.
        rule: How a utility becomes stars, and how many responses of a prompt are rated.
        seed: Seed of all draws.

    Returns:
        n_users * k * responses_per_prompt ratings, each in [1, n_stars].

    Raises:
        AxisMismatch: If the reward models differ, or there is not one row of prompts for each user.
        ParameterError: If a prompt is out of range, or more responses are to be rated than there are.

    >>> users = Population.one_per_reward_model(("a", "b"))
    >>> scores = np.array([[[-2, 3], [2, 0]]], np.float32)
    >>> rule = RatingRule(n_stars=3, scale="thresholds", thresholds=(-1, 1), responses_per_prompt=2)
    >>> pool = ratings(users, scores, [[0], [0]], rule, seed=0)
    >>> sorted(zip(pool.user.tolist(), pool.response.tolist(), pool.rating.tolist()))
    [(0, 0, 1), (0, 1, 3), (1, 0, 3), (1, 1, 2)]
    """
    values = checked_scores(population, scores)
    n_prompts, n_responses = values.shape[:2]
    rated = rule.responses_per_prompt
    if rated > n_responses:
        raise ParameterError("responses_per_prompt", f"at most {n_responses}, the number of responses", rated)
    rows = rows_of(prompts, population.n_users, n_prompts)
    k = rows.shape[1]
    response = np.empty((population.n_users, k, rated), np.uint8)
    rating = np.empty_like(response)
    for block, users in user_blocks(population.n_users, _USERS_PER_BLOCK):
        some = rows[users]
        user = np.repeat(np.arange(users.start, users.stop), k)
        value = utilities(population, values, user, some.ravel()).reshape(*some.shape, n_responses)
        keys = generator(seed, "rated responses", block).random(value.shape)
        shown = keys.argsort(axis=2)[:, :, :rated]
        noise = generator(seed, "rating noise", block).standard_normal(shown.shape) * rule.noise
        seen = np.take_along_axis(value, shown, axis=2).astype(np.float64) + noise
        response[users], rating[users] = shown, _stars(rule, value, seen)
    return RatingPool(
        user=np.repeat(np.arange(population.n_users, dtype=np.int32), k * rated),
        prompt=rows.repeat(rated, axis=1).ravel(),
        response=response.ravel(),
        rating=rating.ravel(),
        n_users=population.n_users,
        n_prompts=n_prompts,
        n_responses=n_responses,
        origin={"rule": rule.spec(), "seed": int(seed)},
    )


def _stars(rule: RatingRule, values: F32, seen: npt.NDArray[np.float64]) -> U8:
    """Return stars, (n_users, k, n_rated), for utilities `seen` and the utilities (n_users, k, n_responses) shown."""
    n_users = len(values)
    if rule.scale == "thresholds":
        cuts = np.broadcast_to(np.asarray(rule.thresholds), (n_users, rule.n_stars - 1))
    else:
        levels = np.arange(1, rule.n_stars) / rule.n_stars
        cuts = np.quantile(values.reshape(n_users, -1).astype(np.float64), levels, axis=1).T
    stars = np.ones(seen.shape, np.uint8)
    for cut in cuts.T:
        stars += seen > cut[:, None, None]
    return stars
