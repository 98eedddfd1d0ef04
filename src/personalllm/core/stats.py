"""Paired tests over users, and what several of them at once may claim."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F64

__all__ = ["holm", "sign_flip_p"]


_SIGNS_PER_BLOCK = 4_000_000
_SLACK = 1e-12


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
        float64 (n_comparisons,), in (0, 1].

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
    threshold = np.abs(d.sum(axis=0)) - _SLACK * np.abs(d).sum(axis=0)
    if 2**n_users <= draws + 1:
        patterns = (np.arange(2**n_users)[:, None] >> np.arange(n_users)) & 1
        extreme = np.abs((1.0 - 2.0 * patterns) @ d) >= threshold
        return np.asarray(extreme.mean(axis=0))
    rng = generator(seed, "sign flips", n_users)
    found = np.zeros(d.shape[1])
    step = max(1, _SIGNS_PER_BLOCK // n_users)
    for start in range(0, draws, step):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (min(step, draws - start), n_users), dtype=np.int8)
        found += (np.abs(signs @ d) >= threshold).sum(axis=0)
    return np.asarray((1 + found) / (1 + draws))
