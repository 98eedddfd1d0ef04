"""What is known of users' tastes after some comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from personalllm.core.types import F64, I64

__all__ = ["Belief"]

_JITTER = 1e-10  # of the mean variance: a covariance along the simplex is singular


@dataclass(frozen=True, eq=False)
class Belief:
    """The distribution of some users' tastes, vectors of which a response's utility is a linear function.

    Attributes:
        mean: float64 (n_users, n_tastes).
        covariance: float64 (n_users, n_tastes, n_tastes).
        n: int64 (n_users,): comparisons that it rests on.
        particles: float64 (n_particles, n_tastes): the vectors that a taste may be; None if it is normal.
        log_shares: float64 (n_users, n_particles): of the particles.
    """

    mean: F64
    covariance: F64
    n: I64
    particles: F64 | None = None
    log_shares: F64 | None = None

    @classmethod
    def of_particles(cls, particles: F64, log_shares: F64, n: I64) -> Self:
        """Return the belief that users' tastes are particles; `log_shares` need not be normalised."""
        shares = np.exp(log_shares - log_shares.max(axis=1, keepdims=True))
        total = shares.sum(axis=1, keepdims=True)
        shares /= total
        mean = shares @ particles
        width = particles.shape[1]
        squares = (particles[:, :, None] * particles[:, None, :]).reshape(len(particles), -1)
        covariance = (shares @ squares).reshape(-1, width, width) - mean[:, :, None] * mean[:, None, :]
        return cls(mean, covariance, n, particles, log_shares - log_shares.max(axis=1, keepdims=True) - np.log(total))

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.mean)

    @property
    def shares(self) -> F64:
        """float64 (n_users, n_particles), rows of sum 1."""
        assert self.log_shares is not None  # noqa: S101
        return np.exp(self.log_shares)

    def draw(self, rng: np.random.Generator) -> F64:
        """Return a taste of each user, float64 (n_users, n_tastes)."""
        if self.particles is not None:
            reached = self.shares.cumsum(axis=1)
            below = reached < (rng.random(self.n_users) * reached[:, -1])[:, None]
            return np.asarray(self.particles[below.sum(axis=1)])
        width = self.mean.shape[1]
        size = np.einsum("ukk->u", self.covariance) / width
        root = np.linalg.cholesky(self.covariance + (_JITTER * size + 1e-300)[:, None, None] * np.eye(width))
        normal = rng.standard_normal(self.mean.shape)
        return np.asarray(self.mean + (root @ normal[:, :, None])[:, :, 0])
