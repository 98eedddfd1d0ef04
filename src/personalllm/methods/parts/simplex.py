"""Mixture weights of users: a posterior on the simplex, batched over users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from personalllm.core.types import F64

__all__ = ["MixturePrior", "simplex_posterior"]


_STEPS = 40
_HALVINGS = 12
_INSIDE = 0.95
_CLOSE = 1e-9


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


def _mixed(margins: F64, there: F64, prior: MixturePrior) -> tuple[F64, F64, F64]:
    """Return maximum, covariance and log evidence for users who mix."""
    mean, strength = prior.mean, prior.strength
    w = np.broadcast_to(mean, (len(margins), len(mean))).copy()
    pull = strength * mean
    value = _value(margins, there, pull, w)
    for _ in range(_STEPS):
        gradient, inverse = _system(margins, there, pull, w)
        ones, against = inverse.sum(axis=2), np.einsum("ukl,ul->uk", inverse, gradient)
        step = ones * (against.sum(axis=1) / ones.sum(axis=1))[:, None] - against
        fall = -(gradient * step).sum(axis=1)
        if fall.max(initial=0.0) < _CLOSE:
            break
        room = np.where(step < 0, -w / np.minimum(step, -np.finfo(np.float64).tiny), np.inf).min(axis=1)
        size = np.minimum(1.0, _INSIDE * room)
        for _ in range(_HALVINGS):
            trial = w + size[:, None] * step
            new = _value(margins, there, pull, trial)
            worse = new > value - 1e-4 * size * fall + 1e-12 * np.abs(value)
            if not worse.any():
                break
            size = np.where(worse, 0.5 * size, size)
        better = new <= value
        w = np.where(better[:, None], trial, w)
        value = np.where(better, new, value)
    _, inverse = _system(margins, there, pull, w)
    ones = inverse.sum(axis=2)
    total = ones.sum(axis=1)
    along = inverse - ones[:, :, None] * ones[:, None, :] / total[:, None, None]
    volume = 0.5 * (np.linalg.slogdet(inverse)[1] - np.log(total) + (len(mean) - 1) * np.log(2 * np.pi))
    evidence = -_value(margins, there, pull, w) - prior.log_normaliser + volume
    return w / w.sum(axis=1, keepdims=True), along, evidence


def _value(margins: F64, there: F64, pull: F64, w: F64) -> F64:
    logits = np.einsum("unk,uk->un", margins, w)
    return np.asarray((there * np.logaddexp(0.0, -logits)).sum(axis=1) - np.log(w) @ pull)


def _system(margins: F64, there: F64, pull: F64, w: F64) -> tuple[F64, F64]:
    """Return the gradient, (n_users, n_parts), and the inverse of the Hessian."""
    wrong = 0.5 * (1.0 - np.tanh(0.5 * np.einsum("unk,uk->un", margins, w)))
    gradient = -np.einsum("un,unk->uk", there * wrong, margins) - pull / w
    weighted = margins * (there * wrong * (1 - wrong))[..., None]
    hessian = weighted.transpose(0, 2, 1) @ margins
    diagonal = np.arange(len(pull))
    hessian[:, diagonal, diagonal] += pull / w**2
    return gradient, np.linalg.inv(hessian)
