"""Draw weight vectors: Dirichlet in log space, mixtures, near-duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F64

__all__ = ["check_alpha", "check_count", "dirichlet_rows", "drop_near_duplicates", "mixture_rows", "user_blocks"]


_BLOCK = 1_024
_SMALLEST_ALPHA, _LARGEST_ALPHA = 1e-9, 1e9


def user_blocks(n_users: int, size: int = _BLOCK) -> Iterator[tuple[int, slice]]:
    """Yield (block number, rows) over users; the number seeds the block, so users keep their draws as more join."""
    for start in range(0, n_users, size):
        yield start // size, slice(start, min(start + size, n_users))


def check_count(name: str, value: object) -> int:
    """Return a count as an int.

    Raises:
        ParameterError: If it is not an integer >= 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ParameterError(name, "an integer >= 1", value)
    return int(value)


def check_alpha(alpha: float | Sequence[float], n_reward_models: int) -> F64:
    """Return one concentration for each reward model, float64 (n_reward_models,).

    Raises:
        ParameterError: If a value is out of range, or there is no reward model.
        AxisMismatch: If the number of values is neither one nor that of the reward models.
    """
    if n_reward_models < 1:
        raise ParameterError("reward_models", "one name or more", ())
    values = np.asarray(alpha, dtype=np.float64)
    if values.ndim == 0:
        values = np.full(n_reward_models, float(values))
    if values.shape != (n_reward_models,):
        raise AxisMismatch(
            f"{values.size} values of alpha for {n_reward_models} reward models.",
            "Give one alpha, or one for each reward model.",
        )
    if not ((values >= _SMALLEST_ALPHA) & (values <= _LARGEST_ALPHA)).all():
        raise ParameterError("alpha", f"in [{_SMALLEST_ALPHA:g}, {_LARGEST_ALPHA:g}]", alpha)
    return values


def _log_space_dirichlet(alpha: F64, seed: int, purpose: str, block: int) -> F64:
    """Return Dirichlet rows for concentrations (n, n_reward_models), each > 0.

    If g ~ Gamma(alpha + 1) and v is uniform, then g v^(1/alpha) ~ Gamma(alpha); its logarithm cannot underflow.
    """
    gamma = generator(seed, purpose, "gamma", block).standard_gamma(alpha + 1)
    uniform = 1.0 - generator(seed, purpose, "uniform", block).random(alpha.shape)
    # At alpha = .001 half of the draws of Gamma(alpha) underflow to 0, and 0 / 0 would follow: hence the logarithms.
    # 1 - random() is in (0, 1], so the logarithm is finite.
    logs = np.log(gamma) + np.log(uniform) / alpha
    # Subtracting the maximum makes one weight exp(0) = 1 before the division, so the sum is never 0.
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def dirichlet_rows(n_users: int, alpha: F64, seed: int) -> F64:
    """Return float64 (n_users, n_reward_models): rows from Dirichlet(alpha)."""
    rows = np.empty((n_users, len(alpha)))
    # Each block has a stream of its own, so the first users are the same however many follow.
    for block, users in user_blocks(n_users):
        concentration = np.broadcast_to(alpha, (users.stop - users.start, len(alpha)))
        rows[users] = _log_space_dirichlet(concentration, seed, "population", block)
    return rows


def mixture_rows(n_users: int, alphas: Sequence[float], shares: Sequence[float], n_rms: int, seed: int) -> F64:
    """Return float64 (n_users, n_rms): each row from a symmetric Dirichlet whose alpha is drawn with `shares`."""
    upper = np.cumsum(shares)[:-1]
    rows = np.empty((n_users, n_rms))
    for block, users in user_blocks(n_users):
        kinds = np.searchsorted(upper, generator(seed, "mixture", block).random(users.stop - users.start), "right")
        concentration = np.asarray(alphas, np.float64)[kinds][:, None].repeat(n_rms, axis=1)
        rows[users] = _log_space_dirichlet(concentration, seed, "mixed population", block)
    return rows


def drop_near_duplicates(weights: F64, tolerance: float) -> npt.NDArray[np.int64]:
    """Return the rows that are kept, ascending: a row goes if it is within `tolerance` of an earlier kept one.

    Args:
        weights: float64 (n_users, n_reward_models).
        tolerance: Total variation distance.
    """
    from scipy.spatial.distance import cdist

    # Blocks bound the memory: distances of 256 users to 1,024 earlier ones at a time, not of all to all.
    size = 256
    distinct = np.empty(len(weights), np.int64)
    n_kept = 0
    for _, users in user_blocks(len(weights), size):
        alive = np.ones(users.stop - users.start, dtype=bool)
        for start in range(0, n_kept, 4 * size):
            earlier = weights[distinct[start : min(start + 4 * size, n_kept)]]
            alive &= (cdist(weights[users], earlier, "cityblock") / 2 > tolerance).all(axis=1)
        near = cdist(weights[users], weights[users], "cityblock") / 2 <= tolerance
        for row in np.flatnonzero(alive):
            if alive[row]:
                alive[row + 1 :] &= ~near[row, row + 1 :]
        passing = np.flatnonzero(alive) + users.start
        distinct[n_kept : n_kept + len(passing)] = passing
        n_kept += len(passing)
    return distinct[:n_kept]
