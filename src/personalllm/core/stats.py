"""Compute intervals by resampling, paired tests over users, and corrections for several tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F64, I64

__all__ = ["DRAWS", "Interval", "bootstrap_means", "holm", "intervals", "percentiles", "resample_counts", "sign_flip_p"]

DRAWS = 2_000
"""Resamples behind an interval, unless said otherwise."""

# Indices held at once: 32 MB of int64, small beside a benchmark and large enough for BLAS.
_BLOCK = 4_000_000
_LOW, _HIGH = 0.025, 0.975
_SIGNS_PER_BLOCK = 4_000_000
# Sums of flipped signs that are equal on paper differ in the last bits; without slack such ties are lost at random.
_SLACK = 1e-12


class Interval(NamedTuple):
    """A mean and the ends of its 95 % percentile interval; the ends are NaN for fewer than two rows."""

    value: float
    low: float
    high: float


def resample_counts(n: int, draws: int, seed: int, *label: str) -> Iterator[tuple[int, I64]]:
    """Yield how often each of n rows is in each resample, a block of resamples at a time.

    The counts depend on `n`, `seed` and `label` alone, not on the block size, so that columns of different calls are
    resampled together and differences between them are paired.

    Args:
        n: Rows, >= 1.
        draws: Resamples.
        seed: Seed of the draws.
        *label: What the draws are for; part of the seed.

    Yields:
        The number of the block's first resample, and int64 (n_block, n), each row with sum n.
    """
    rng = generator(seed, *label, n)
    size = max(1, _BLOCK // n)
    for start in range(0, draws, size):
        m = min(size, draws - start)
        # One bincount for the whole block: row i of the block counts in bins i * n to i * n + n - 1.
        bins = rng.integers(0, n, (m, n)) + (np.arange(m) * n)[:, None]
        yield start, np.bincount(bins.ravel(), minlength=m * n).reshape(m, n)


def bootstrap_means(
    values: F64, *, draws: int = DRAWS, seed: int = 0, label: tuple[str, ...] = ("analysis", "bootstrap")
) -> F64:
    """Return the means of resamples of the rows, float64 (draws, n_columns).

    Args:
        values: float64 (n_rows, n_columns), finite, one row or more.
        draws: Resamples, >= 100.
        seed: Seed of the draws.
        label: What the draws are for, see `resample_counts`.

    Raises:
        ParameterError: If `draws` is below 100.
    """
    if draws < 100:
        raise ParameterError("draws", ">= 100", draws)
    n = len(values)
    means = np.empty((draws, values.shape[1]))
    for start, counts in resample_counts(n, draws, seed, *label):
        means[start : start + len(counts)] = counts.astype(np.float64) @ values / n
    return means


def percentiles(draws: F64) -> tuple[F64, F64]:
    """Return the 2.5 and 97.5 % points of each column, float64 (n_columns,) each."""
    low, high = np.quantile(draws, [_LOW, _HIGH], axis=0)
    return low, high


def intervals(values: F64, *, draws: int = DRAWS, seed: int = 0) -> list[Interval]:
    """Return the mean of each column with its 95 % percentile interval.

    Args:
        values: float64 (n_rows, n_columns), finite.
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


def holm(p_values: npt.ArrayLike) -> F64:
    r"""Return Holm's corrected p-values: `corrected <= a` controls the family-wise error at a, whatever the dependence.

    With $p_{(1)} \le \dots \le p_{(m)}$ the corrected value of rank j is
    $\max_{i \le j} \min(1, (m - i + 1) p_{(i)})$.

    Args:
        p_values: float (m,), each in [0, 1].

    Returns:
        float64 (m,), in the order given, never below the p-values.

    Raises:
        ParameterError: If a value is outside [0, 1] or the array is not one-dimensional.

    >>> holm([0.01, 0.04, 0.03, 0.005]).tolist()
    [0.03, 0.06, 0.06, 0.02]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ParameterError("p_values", "a column of numbers in [0, 1]", p_values)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return corrected


def sign_flip_p(differences: npt.ArrayLike, *, draws: int = 9_999, seed: int = 0) -> F64:
    r"""Return two-sided p-values of paired differences, by flipping the signs of whole users.

    Under the null hypothesis a user's difference is as likely to be d as -d. p is the share of sign patterns s with
    $|\sum_u s_u d_u| \ge |\sum_u d_u|$: over all $2^n$ patterns if they are no more than the draws, else
    $(1 + \#\{\dots\}) / (1 + draws)$ over random ones, the same for every column.

    Args:
        differences: float (n_users, n_comparisons).
        draws: Number of random sign patterns, >= 99; the smallest p is `1 / (1 + draws)`.
        seed: Seed of the patterns.

    Returns:
        float64 (n_comparisons,), in (0, 1]; NaN for a column that is not finite.

    Raises:
        ParameterError: If there is no user, or too few draws.

    >>> sign_flip_p([[1.0], [2.0], [3.0]]).tolist()
    [0.25]
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or not len(d):
        raise ParameterError("differences", "an array (n_users, n_comparisons) with a user", np.shape(differences))
    if draws < 99:
        raise ParameterError("draws", ">= 99", draws)
    n_users = len(d)
    # NaN exceeds no threshold, so such a column would get the smallest p of all
    finite = np.isfinite(d).all(axis=0)
    d = np.where(finite, d, 0.0)
    threshold = np.abs(d.sum(axis=0)) - _SLACK * np.abs(d).sum(axis=0)
    if 2**n_users <= draws + 1:
        patterns = (np.arange(2**n_users)[:, None] >> np.arange(n_users)) & 1
        extreme = np.abs((1.0 - 2.0 * patterns) @ d) >= threshold
        return np.where(finite, extreme.mean(axis=0), np.nan)
    rng = generator(seed, "sign flips", n_users)
    n_extreme = np.zeros(d.shape[1])
    step = max(1, _SIGNS_PER_BLOCK // n_users)
    for start in range(0, draws, step):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (min(step, draws - start), n_users), dtype=np.int8)
        n_extreme += (np.abs(signs @ d) >= threshold).sum(axis=0)
    return np.where(finite, (1 + n_extreme) / (1 + draws), np.nan)
