"""Intervals by resampling prompts: the voters are taken as they are, the prompts as a sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F64

__all__ = ["DRAWS", "Interval", "Measured", "bootstrap_means", "intervals", "percentiles"]

DRAWS = 2_000
"""Resamples behind an interval, unless said otherwise."""

_BLOCK = 4_000_000
_LOW, _HIGH = 0.025, 0.975


class Interval(NamedTuple):
    """A mean over prompts and the ends of its 95 % interval; the ends are NaN where there is one prompt or none."""

    value: float
    low: float
    high: float


class Measured(NamedTuple):
    """One figure of an analysis: of which population, which quantity, at which level, over how many prompts."""

    population: str
    quantity: str
    level: str
    value: float
    low: float
    high: float
    n_prompts: int


def bootstrap_means(values: F64, *, draws: int = DRAWS, seed: int = 0) -> F64:
    """Return the means of resamples of the rows, float64 (draws, n_columns).

    The rows that a draw takes depend on the number of rows and the seed alone, so that columns of different calls with
    equally many rows are resampled together.

    Args:
        values: float64 (n_rows, n_columns), finite.
        draws: Resamples, >= 100.
        seed: Seed of the draws.

    Raises:
        ParameterError: If `draws` is below 100.
    """
    if draws < 100:
        raise ParameterError("draws", ">= 100", draws)
    n = len(values)
    rng = generator(seed, "analysis", "bootstrap", n)
    means = np.empty((draws, values.shape[1]))
    size = max(1, _BLOCK // max(n, 1))
    for start in range(0, draws, size):
        m = min(size, draws - start)
        places = rng.integers(0, n, (m, n)) + (np.arange(m) * n)[:, None]
        times = np.bincount(places.ravel(), minlength=m * n).reshape(m, n)
        means[start : start + m] = times.astype(np.float64) @ values / n
    return means


def percentiles(draws: F64) -> tuple[F64, F64]:
    """Return the 2.5 and 97.5 % points of each column, float64 (n_columns,) each."""
    low, high = np.quantile(draws, [_LOW, _HIGH], axis=0)
    return low, high


def intervals(values: F64, *, draws: int = DRAWS, seed: int = 0) -> list[Interval]:
    """Return the mean of each column with its interval.

    Args:
        values: float64 (n_rows, n_columns), finite, one row for each prompt.
        draws: Resamples of the rows, >= 100.
        seed: Seed of the draws.

    >>> [interval.value for interval in intervals(np.array([[0.0, 2.0], [1.0, 2.0]]))]
    [0.5, 2.0]
    """
    if len(values) < 2:
        means = values.mean(0) if len(values) else np.full(values.shape[1], np.nan)
        return [Interval(float(value), np.nan, np.nan) for value in means]
    low, high = percentiles(bootstrap_means(values, draws=draws, seed=seed))
    return [Interval(float(v), float(a), float(b)) for v, a, b in zip(values.mean(0), low, high, strict=True)]
