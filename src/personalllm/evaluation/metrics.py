"""Metrics of a policy, and their intervals by resampling users.

A policy gives each user `m` responses. Means are taken over a user's queries first, then over users, so that the user
is the unit of every interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch
from personalllm.core.seeding import generator
from personalllm.core.types import F32, F64
from personalllm.evaluation.results import METRICS, Estimate

__all__ = ["Draws", "differences", "draw_metrics", "estimate", "per_user_means", "wins"]

Draws: TypeAlias = dict[str, F64]

_BLOCK = 2_000_000
_COLUMNS = (*METRICS[:-1], "population_best_utility", "oracle_utility")


def wins(utility: F32, other: F32) -> F32:
    """Return 1 where `utility` is higher, 0.5 where both are equal, 0 where it is lower.

    Args:
        utility: float32, any shape, in standard deviations of the RMs.
        other: float32, the same shape.

    Returns:
        float32, the same shape; `wins(a, b) + wins(b, a) == 1`.

    >>> wins(np.float32([2, 1, 0]), np.float32([1, 1, 1])).tolist()
    [1.0, 0.5, 0.0]
    """
    won: F32 = np.greater(utility, other).astype(np.float32)
    return won + np.float32(0.5) * np.equal(utility, other).astype(np.float32)


def per_user_means(utility: F32, *, best: F32, population_best: F32, reference: F32) -> dict[str, F32]:
    """Return what each user got from a policy, on average over the user's queries.

    Args:
        utility: float32 (n_users, n_queries) of the policy's responses.
        best: The same of the user's best stored response.
        population_best: The same of the best policy that gives everybody the same response.
        reference: The same of the reference response model's response.

    Returns:
        float32 (n_users,) for each of `mean_utility`, `win_rate_reference`, `win_rate_best`, `regret` = mean of
        (best - utility), `oracle_utility`, `population_best_utility`, `reference_utility`.

    Raises:
        AxisMismatch: If the shapes differ.
    """
    if not utility.shape == best.shape == population_best.shape == reference.shape:
        raise AxisMismatch(
            f"Utilities of different queries: {utility.shape}, {best.shape}, {population_best.shape}, "
            f"{reference.shape}."
        )
    columns: dict[str, npt.NDArray[np.floating]] = {
        "mean_utility": utility,
        "win_rate_reference": wins(utility, reference),
        "win_rate_best": wins(utility, best),
        "regret": best.astype(np.float64) - utility,
        "oracle_utility": best,
        "population_best_utility": population_best,
        "reference_utility": reference,
    }
    return {name: column.mean(axis=1, dtype=np.float64).astype(np.float32) for name, column in columns.items()}


def _exact_mean(column: npt.NDArray[np.floating]) -> float:
    """Return the correctly rounded mean, which the order of the users cannot change."""
    return math.fsum(column.tolist()) / len(column)


def _point(per_user: Mapping[str, F32]) -> dict[str, float]:
    """Return the metrics over all users."""
    values = {name: _exact_mean(per_user[name]) for name in _COLUMNS}
    floor = values.pop("population_best_utility")
    room = values.pop("oracle_utility") - floor
    values["gain"] = (values["mean_utility"] - floor) / room if room > 0 else math.nan
    return values


def draw_metrics(per_user: Mapping[str, F32], *, draws: int, seed: int) -> Draws:
    """Return the metrics of resampled users; equal seeds give the same users, so that differences are paired.

    Args:
        per_user: As from `per_user_means`.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        float64 (draws,) for each of `METRICS`; gain is NaN where a resample leaves no room above the floor.
    """
    columns = np.stack([per_user[name].astype(np.float64) for name in _COLUMNS])
    n_users = columns.shape[1]
    rng = generator(seed, "bootstrap", n_users)
    means = np.empty((len(_COLUMNS), draws))
    step = max(1, _BLOCK // n_users)
    for start in range(0, draws, step):
        stop = min(draws, start + step)
        users = rng.integers(0, n_users, (stop - start, n_users), dtype=np.int32)
        for row, column in enumerate(columns):
            means[row, start:stop] = column[users].mean(axis=1)
    result = dict(zip(_COLUMNS, means, strict=True))
    floor = result.pop("population_best_utility")
    room = result.pop("oracle_utility") - floor
    result["gain"] = np.divide(result["mean_utility"] - floor, room, out=np.full(draws, np.nan), where=room > 0)
    return result


def _interval(draws: F64) -> tuple[float, float]:
    """Return the 95 % percentile interval of the draws that are defined."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)


def estimate(per_user: Mapping[str, F32], draws: Draws) -> dict[str, Estimate]:
    """Return the metrics with their 95 % user-bootstrap intervals.

    `gain` = (mean utility - population-best) / (oracle - population-best), a ratio of means; NaN if the oracle is
    no better than the population-best policy.

    Args:
        per_user: As from `per_user_means`.
        draws: As from `draw_metrics`.
    """
    return {
        name: Estimate(value, *(_interval(draws[name]) if not math.isnan(value) else (math.nan, math.nan)))
        for name, value in _point(per_user).items()
    }


def differences(
    per_user: Mapping[str, F32], draws: Draws, other_per_user: Mapping[str, F32], other_draws: Draws
) -> dict[str, Estimate]:
    """Return the metrics of one policy minus those of another, paired by user.

    Args:
        per_user: As from `per_user_means`.
        draws: As from `draw_metrics`.
        other_per_user: The same of the other policy, for the same users in the same order.
        other_draws: The same of the other policy, with the same seed.

    Raises:
        AxisMismatch: If the users or the resamples differ in number.
    """
    name = METRICS[0]
    if per_user[name].shape != other_per_user[name].shape or draws[name].shape != other_draws[name].shape:
        raise AxisMismatch("A paired difference needs the same users and resamples on both sides.")
    mine, other = _point(per_user), _point(other_per_user)
    return {key: Estimate(mine[key] - other[key], *_interval(draws[key] - other_draws[key])) for key in METRICS}
