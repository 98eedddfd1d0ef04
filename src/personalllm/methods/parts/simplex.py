"""Mixture weights of users: a posterior on the simplex, batched over users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from personalllm.core.types import F64
from personalllm.methods.parts.logistic import log_sigmoid, sigmoid

__all__ = ["MixturePrior", "climb_simplex", "simplex_posterior", "spread_along"]


_HALVINGS = 12
_INSIDE = 0.95


@dataclass(frozen=True)
class MixturePrior:
    """How users mix parts: with probability `pure` a user is one part, else Dirichlet(strength * mean + 1).

    Attributes:
        mean: float64 (n_parts,), positive, sums to 1: the shares of the pure users, and the centre of the others.
        strength: > 0; that of as many comparisons.
        pure: In [0, 1).
    """

    mean: F64
    strength: float
    pure: float

    @property
    def log_normaliser(self) -> float:
        """Log of the integral of the product of w_k^(strength mean_k) over the simplex."""
        powers = self.strength * self.mean + 1
        return float(gammaln(powers).sum() - gammaln(powers.sum()))


def simplex_posterior(margins: F64, there: F64, prior: MixturePrior) -> tuple[F64, F64]:
    r"""Return the posterior mean of each user's mixture weights, and their covariance.

    The users who mix are approximated by Laplace's method at the maximum of
    $\sum_i \log \sigma(m_i \cdot w) + s \sum_k p_k \log w_k$ over the simplex, found by Newton's method; it is
    concave. The users who are one part are enumerated. The two are weighed by their evidence. For users who mix, the
    maximum stands in for the mean, which lies nearer to the middle after few comparisons.

    Args:
        margins: (n_users, n, n_parts): each part's utility of the chosen minus that of the rejected response.
        there: (n_users, n): 1 or 0 for comparisons that are there.
        prior: The population.

    Returns:
        (n_users, n_parts) and (n_users, n_parts, n_parts).
    """
    w, along, log_mixed = _mixed(margins, there, prior)
    if prior.pure == 0:
        return w, along
    alone = -np.einsum("un,unk->uk", there, np.logaddexp(0.0, -margins))
    logs = np.column_stack([np.log(prior.pure * prior.mean) + alone, np.log1p(-prior.pure) + log_mixed])
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    pure, mixed = shares[:, :-1], shares[:, -1:]
    mean = pure + mixed * w
    second = mixed[:, :, None] * (along + w[:, :, None] * w[:, None, :])
    diagonal = np.arange(len(prior.mean))
    second[:, diagonal, diagonal] += pure
    return mean, second - mean[:, :, None] * mean[:, None, :]


def climb_simplex(x: F64, there: F64, prior: F64, w: F64, max_steps: int = 60) -> F64:
    r"""Return each user's maximum over the simplex of $\sum_i \log\sigma(w \cdot x_i) + \sum_k c_k \log w_k$.

    The objective is concave, and the second term keeps the maximum off the border. Newton steps under the constraint
    that the weights sum to 1: the step solves H s = g - lambda 1 with lambda such that s sums to 0.

    Args:
        x: float64 (n_users, n, n_parts).
        there: float64 (n_users, n): 1 or 0 for rows that are there.
        prior: c, float64 (n_parts,), > 0.
        w: Where to start, float64 (n_users, n_parts), > 0, rows sum to 1.
        max_steps: Most Newton steps.
    """
    n = len(w)
    now = _value(x, there, prior, w)
    for _ in range(max_steps):
        gradient, hessian = _system(x, there, prior, w)
        solved = np.linalg.solve(hessian, np.stack([gradient, np.ones_like(w)], axis=2))
        step = solved[:, :, 0] - solved[:, :, 1] * (solved[:, :, 0].sum(axis=1) / solved[:, :, 1].sum(axis=1))[:, None]
        # the log is not defined beyond the border: go at most 95 % of the way to it
        room = np.where(step < 0, w / np.maximum(-step, 1e-300), np.inf).min(axis=1)
        size = np.minimum(1.0, _INSIDE * room)
        gain = np.zeros(n)
        for _ in range(_HALVINGS):
            new = w + size[:, None] * step
            gain = _value(x, there, prior, new) - now
            if not (gain < 0).any():
                break
            size = np.where(gain < 0, 0.5 * size, size)
        new = np.where((gain >= 0)[:, None], new, w)
        now = np.where(gain >= 0, now + gain, now)
        w = new
        if np.all(gain <= 1e-8 * (1.0 + np.abs(now))):
            break
    return np.asarray(w / w.sum(axis=1, keepdims=True))


def _value(x: F64, there: F64, prior: F64, w: F64) -> F64:
    logits = (x @ w[:, :, None])[:, :, 0]
    return np.asarray((there * log_sigmoid(logits)).sum(axis=1) + (prior * np.log(w)).sum(axis=1))


def _system(x: F64, there: F64, prior: F64, w: F64) -> tuple[F64, F64]:
    """Return the gradient, (n_users, n_parts), and minus the Hessian, (n_users, n_parts, n_parts)."""
    transposed, diagonal = x.transpose(0, 2, 1), np.arange(w.shape[1])
    p = sigmoid((x @ w[:, :, None])[:, :, 0])
    gradient = (transposed @ (there * (1.0 - p))[:, :, None])[:, :, 0] + prior / w
    hessian = transposed @ ((there * p * (1.0 - p))[:, :, None] * x)
    hessian[:, diagonal, diagonal] += prior / w**2
    return gradient, hessian


def _mixed(margins: F64, there: F64, prior: MixturePrior) -> tuple[F64, F64, F64]:
    """Return maximum, covariance and log evidence for users who mix."""
    mean, pull = prior.mean, prior.strength * prior.mean
    w = climb_simplex(margins, there, pull, np.broadcast_to(mean, (len(margins), len(mean))))
    along, inverse, total = spread_along(margins, there, pull, w)
    volume = 0.5 * (np.linalg.slogdet(inverse)[1] - np.log(total) + (len(mean) - 1) * np.log(2 * np.pi))
    evidence = _value(margins, there, pull, w) - prior.log_normaliser + volume
    return w, along, evidence


def spread_along(x: F64, there: F64, prior: F64, w: F64) -> tuple[F64, F64, F64]:
    """Return the covariance along the simplex at w, the inverse Hessian, and the sum of that one's entries.

    Args:
        x: As in `climb_simplex`.
        there: As in `climb_simplex`.
        prior: As in `climb_simplex`.
        w: float64 (n_users, n_parts), the maxima.
    """
    inverse: F64 = np.asarray(np.linalg.inv(_system(x, there, prior, w)[1]))
    ones: F64 = inverse.sum(axis=2)
    total: F64 = ones.sum(axis=1)
    # the inverse Hessian less its part across the constraint
    return inverse - ones[:, :, None] * ones[:, None, :] / total[:, None, None], inverse, total
