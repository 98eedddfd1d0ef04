"""Known populations of weights, and what is known of a user after some comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from personalllm.core.types import F64

__all__ = ["Prior", "predictive", "sample_posterior"]


_CHAINS, _BURN_IN, _KEPT, _THIN = 8, 80, 60, 2
_SHARPNESS = 2.0
_MAX_SHRINKS = 60


@dataclass(frozen=True, eq=False)
class Prior:
    """A population of weight vectors.

    Attributes:
        kind: `gaussian`: w = mean + z . basis; `simplex`: w = softmax(2 z) . basis; z standard normal; `clusters`: w is
            row j of the basis with probability `shares[j]`.
        basis: float64 (n_latent, n_features).
        mean: float64 (n_features,), for `gaussian`.
        shares: float64 (n_latent,), for `clusters`.
    """

    kind: Literal["gaussian", "simplex", "clusters"]
    basis: F64
    mean: F64 | None = None
    shares: F64 | None = None

    def weights(self, latent: F64) -> F64:
        """Return the weights, (..., n_features), of latent vectors, (..., n_latent)."""
        if self.kind == "simplex":
            powers = np.exp(_SHARPNESS * (latent - latent.max(axis=-1, keepdims=True)))
            return np.asarray(powers / powers.sum(axis=-1, keepdims=True) @ self.basis)
        return np.asarray(latent @ self.basis + (0.0 if self.mean is None else self.mean))

    def draw(self, n: int, rng: np.random.Generator) -> F64:
        """Return the weights of n users, float64 (n, n_features)."""
        if self.shares is not None:
            return np.asarray(self.basis[rng.choice(len(self.basis), size=n, p=self.shares)])
        return self.weights(rng.standard_normal((n, len(self.basis))))


def _log_likelihood(weights: F64, differences: F64) -> F64:
    """Return (n_users, n_draws): log probability of each user's comparisons, (n_users, k, d), under the weights."""
    logits = weights @ differences.transpose(0, 2, 1)
    return np.asarray(-np.logaddexp(0.0, -logits).sum(axis=2))


def sample_posterior(prior: Prior, differences: F64, rng: np.random.Generator) -> tuple[F64, F64]:
    """Return weights that could be each user's, and their probabilities.

    Args:
        prior: The population.
        differences: float64 (n_users, k, n_features), features of the chosen minus the rejected response.
        rng: For the draws; not used where the posterior is exact.

    Returns:
        float64 (n_users, n_draws, n_features) and float64 (n_users, n_draws), rows of which sum to 1.
    """
    n_users = len(differences)
    if prior.shares is not None:
        support = np.broadcast_to(prior.basis, (n_users, *prior.basis.shape))
        log = np.log(prior.shares) + _log_likelihood(support, differences)
        shares = np.exp(log - log.max(axis=1, keepdims=True))
        return np.asarray(support), shares / shares.sum(axis=1, keepdims=True)
    latent = _elliptical(prior, differences, rng)
    n_draws = latent.shape[1]
    return prior.weights(latent), np.full((n_users, n_draws), 1.0 / n_draws)


def _elliptical(prior: Prior, differences: F64, rng: np.random.Generator) -> F64:
    """Return draws by elliptical slice sampling (Murray, Adams, MacKay 2010), (n_users, n_draws, n_latent)."""
    shape = (len(differences), _CHAINS, len(prior.basis))
    state = rng.standard_normal(shape)
    likelihood = _log_likelihood(prior.weights(state), differences)
    kept = []
    for step in range(_BURN_IN + _KEPT * _THIN):
        other = rng.standard_normal(shape)
        floor = likelihood + np.log(rng.random(shape[:2]))
        angle = rng.uniform(0.0, 2.0 * np.pi, shape[:2])
        low, high = angle - 2.0 * np.pi, angle.copy()
        moving = np.ones(shape[:2], dtype=bool)
        new, value = state.copy(), likelihood.copy()
        for _ in range(_MAX_SHRINKS):
            user, chain = np.nonzero(moving)  # the likelihood is what costs, and most chains soon stand still
            turn = angle[user, chain, None]
            turned = state[user, chain] * np.cos(turn) + other[user, chain] * np.sin(turn)
            there = _log_likelihood(prior.weights(turned)[:, None], differences[user])[:, 0]
            found = there > floor[user, chain]
            arrived = user[found], chain[found]
            new[arrived], value[arrived], moving[arrived] = turned[found], there[found], False
            if not moving.any():
                break
            low, high = np.where(moving & (angle < 0), angle, low), np.where(moving & (angle >= 0), angle, high)
            angle = np.where(moving, rng.uniform(low, high), angle)
        state, likelihood = new, value
        if step >= _BURN_IN and (step - _BURN_IN) % _THIN == 0:
            kept.append(state)
    return np.concatenate(kept, axis=1)


def predictive(weights: F64, shares: F64, pairs: F64) -> tuple[F64, F64]:
    """Return what draws say of pairs.

    Args:
        weights: float64 (n_users, n_draws, n_features).
        shares: float64 (n_users, n_draws).
        pairs: float64 (n_pairs, n_features), features of a minus those of b.

    Returns:
        P(u_a > u_b) and the mean of sigmoid(u_a - u_b), float64 (n_users, n_pairs) each.
    """
    better = np.empty((len(weights), len(pairs)))
    label = np.empty_like(better)
    for user, (draws, share) in enumerate(zip(weights, shares, strict=True)):
        logits = draws @ pairs.T
        better[user] = share @ (logits > 0)
        label[user] = share @ (1.0 / (1.0 + np.exp(-logits)))
    return better, label
