"""`pref`: a bilinear factorisation of rewards, and a user's vector by maximum likelihood."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from personalllm.core.types import F32, F64
from personalllm.methods.parts.beliefs import Belief
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.logistic import newton_map
from personalllm.methods.parts.low_rank import fit_basis, in_basis, some_users, start_weights
from personalllm.methods.parts.posterior import LinearPosterior

__all__ = ["PReF"]


@dataclass
class PReF(LinearPosterior):
    r"""Factorises rewards: $u = \lambda_u^\top B^\top x$, $\lambda_u$ free.

    The factors start from the singular vectors of the users' own fits and are refined by the likelihood of the pool's
    comparisons, the base rewards and the users' vectors in turn; they are scaled so that the pool's vectors have second
    moment 1 in each direction. A new user's vector is $\arg\max_\lambda \sum_i \log\sigma(\lambda \cdot B^\top d_i) -
    \rho |\lambda|^2 / 2$.

    In the authors' code (github.com/idanshen/PReF_code) the base rewards are a linear head of a language model that
    learns along, and start from singular vectors of the matrix of choices; a new user's vector starts at random and
    takes 5,000 steps of gradient descent without a penalty. Here the base rewards are linear in fixed features, and all
    fits are of second order.

    Args:
        n_features: Principal components of the embedding, >= 1.
        n_basis: Base rewards, >= 1.
        ridge: rho, > 0.
        basis_ridge: Penalty of the base rewards, > 0.
        rounds: How often base rewards and vectors are fitted in turn, >= 1.
    """

    id: ClassVar[str] = "pref"
    title: ClassVar[str] = "PReF: reward factorisation"
    paper: ClassVar[str] = (
        "Shenfeld et al., Language Model Personalization via Reward Factorization, arXiv 2503.06358, 2025"
    )
    objective: ClassVar[str] = "The likelihood of the pool's comparisons under a bilinear reward of user and response."
    fitted_per_user: ClassVar[str] = "A free vector of n_basis entries by penalised maximum likelihood."
    moderated: ClassVar[bool] = False
    cost: ClassVar[str] = "About six Newton steps for a user, each O(min(k, r)^3) for k comparisons and r base rewards."

    n_basis: int = 10
    ridge: float = 1.0
    basis_ridge: float = 3.0
    rounds: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_basis", "rounds")
        self.check_number("ridge", "basis_ridge")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features, few base rewards."""
        return {"n_features": 8, "n_basis": 3, "rounds": 3}

    def learn(self, pairs: Pairs) -> None:
        """Fit the base rewards, in turn with the vectors of the pool's users."""
        some = some_users(pairs)
        rank = min(self.n_basis, pairs.n_features)
        if not some.n_users:
            self.basis_ = np.zeros((pairs.n_features, rank))
            return
        weights = start_weights(some)
        _, _, axes = np.linalg.svd(weights, full_matrices=False)
        basis = _unit_moments(axes[:rank].T, weights @ axes[:rank].T)
        for _ in range(self.rounds):
            vectors = newton_map(in_basis(some, basis), 0.0, self.ridge).mean
            basis = fit_basis(some, vectors, basis, self.basis_ridge)
            basis = _unit_moments(basis, newton_map(in_basis(some, basis), 0.0, self.ridge).mean)
        self.basis_ = basis

    def user_weights(self, pairs: Pairs) -> F32:
        """Return B lambda_u for each user."""
        return (self.belief(in_basis(pairs, self.basis_)).mean @ self.basis_.T).astype(np.float32)

    @property
    def basis(self) -> F64:
        """The base rewards."""
        return self.basis_

    def belief(self, pairs: Pairs, before: Belief | None = None) -> Belief:
        """Return Laplace's approximation."""
        start = None if before is None else before.mean
        laplace = newton_map(pairs, 0.0, self.ridge, covariance="each", start=start)
        return Belief(laplace.mean, laplace.covariance, pairs.n_preferences)

    def without_prior(self) -> Self:
        """Return a copy: the penalty is about zero and alike in all directions as it is."""
        return copy(self)


def _unit_moments(basis: F64, vectors: F64) -> F64:
    """Return the basis in which the users' vectors have second moment 1, as far as they vary."""
    values, axes = np.linalg.eigh(vectors.T @ vectors / len(vectors))
    values, axes = values[::-1], axes[:, ::-1]
    return np.asarray((basis @ axes) * np.sqrt(np.maximum(values, 1e-8)))
