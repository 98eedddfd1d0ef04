"""`lore`: a low-rank basis of rewards, and a user's place in its simplex."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from personalllm.core.types import F32, F64
from personalllm.methods.parts.beliefs import Belief
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.held_out import HeldOut
from personalllm.methods.parts.low_rank import (
    as_one_user,
    fit_basis,
    in_basis,
    simplex_laplace,
    simplex_map,
    some_users,
    start_points,
    start_weights,
)
from personalllm.methods.parts.posterior import LinearPosterior

__all__ = ["LoRe"]

_FLOOR = 0.01
_RIDGES, _STRENGTHS = (0.3, 1.0, 3.0), (0.5, 2.0, 5.0, 15.0)
_TRIAL_ROUNDS = 2


@dataclass
class LoRe(LinearPosterior):
    r"""Ranks by a user's mixture of basis rewards: $u = w_u^\top B^\top x$ with $w_u$ on the simplex.

    The basis and the weights of the pool's users are fitted in turn to the likelihood of their comparisons (truncated
    Newton for B, Newton on the simplex for all $w_u$ at once), from extreme points of the users' own fits. A new user
    gets weights alone. They have a Dirichlet prior whose mode is the one mixture that fits the pool best, so a user
    without comparisons gets that.

    As in the authors' code (github.com/facebookresearch/LoRe) the basis is a linear map of fixed embeddings and the
    weights are on the simplex. There both are fitted by Adam, the basis may be drawn towards the head of a reference
    reward model, and weights have no prior; here the fits are of second order, the basis is drawn to zero, and the
    prior of the weights is added.

    Args:
        n_features: Principal components of the embedding, >= 1; None for all, as published.
        n_basis: Basis rewards, >= 1.
        prior_strength: Sum of the Dirichlet parameters less one each, > 0; None for the one of a grid that predicts
            best on users and prompts held out.
        ridge: Penalty of the basis, > 0; None as above.
        rounds: How often basis and weights are fitted in turn, >= 1.
    """

    id: ClassVar[str] = "lore"
    title: ClassVar[str] = "LoRe: low-rank reward basis"
    paper: ClassVar[str] = "Bose et al., LoRe: Personalizing LLMs via Low-Rank Reward Modeling, arXiv 2504.14439, 2025"
    objective: ClassVar[str] = "The likelihood of the pool's comparisons under convex combinations of basis rewards."
    fitted_per_user: ClassVar[str] = "Weights on the simplex of the basis rewards; the basis stays."
    moderated: ClassVar[bool] = False
    cost: ClassVar[str] = "About ten Newton steps for a user, each O(k r^2 + r^3) for k comparisons and rank r."

    n_features: int | None = None
    n_basis: int = 10
    prior_strength: float | None = None
    ridge: float | None = None
    rounds: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_basis", "rounds")
        self.check_number("prior_strength", "ridge", or_none=True)

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features, a small basis."""
        return {"n_features": 8, "n_basis": 3, "rounds": 3}

    def learn(self, pairs: Pairs) -> None:
        """Choose ridge and prior strength, then fit the basis, in turn with the weights of the pool's users."""
        some = some_users(pairs)
        uniform = np.full(self.n_basis, 1.0 / self.n_basis)
        if not some.n_users:
            self.basis_, self.prior_ = np.zeros((pairs.n_features, self.n_basis)), uniform
            return
        ridge, strength = self._chosen(some)
        basis = self._basis(some, ridge, strength, self.rounds)
        self.basis_, self.prior_ = basis, strength * _shared(some, basis) + _FLOOR

    def _chosen(self, pairs: Pairs) -> tuple[float, float]:
        """Return ridge and prior strength: those given, else those that predict best on users and prompts held out."""
        ridges = _RIDGES if self.ridge is None else (float(self.ridge),)
        strengths = _STRENGTHS if self.prior_strength is None else (float(self.prior_strength),)
        parts = HeldOut.of(pairs) if len(ridges) * len(strengths) > 1 else None
        if parts is None:
            return ridges[-1], strengths[-1]
        tried = []
        for ridge in ridges:
            basis = self._basis(parts.taught, ridge, strengths[0], _TRIAL_ROUNDS)
            tests, shared = in_basis(parts.tests, basis), _shared(parts.taught, basis)
            d = tests.differences().astype(np.float64)
            for strength in strengths:

                def predict(history: Pairs, prior: F64 = strength * shared + _FLOOR, basis: F64 = basis) -> F64:
                    return np.asarray((d * simplex_map(in_basis(history, basis), prior)[tests.user]).sum(axis=1))  # noqa: B023

                tried.append((parts.log_loss(predict), ridge, strength))
        return min(tried)[1:]

    def _basis(self, pairs: Pairs, ridge: float, strength: float, rounds: int) -> F64:
        """Return the basis, float64 (n_features, n_basis), fitted in turn with the weights of all users."""
        basis = start_points(start_weights(pairs), self.n_basis)
        for _ in range(rounds):
            weights = simplex_map(in_basis(pairs, basis), np.full(self.n_basis, strength / self.n_basis))
            basis = fit_basis(pairs, weights, basis, ridge)
        return basis

    def user_weights(self, pairs: Pairs) -> F32:
        """Return B w_u for each user."""
        weights = simplex_map(in_basis(pairs, self.basis_), self.prior_)
        return (weights @ self.basis_.T).astype(np.float32)

    @property
    def basis(self) -> F64:
        """The basis rewards."""
        return self.basis_

    def belief(self, pairs: Pairs, before: Belief | None = None) -> Belief:
        """Return the maxima on the simplex, and Laplace's approximation along it."""
        mean, covariance = simplex_laplace(pairs, self.prior_, None if before is None else before.mean)
        return Belief(mean, covariance, pairs.n_preferences)

    def without_prior(self) -> Self:
        """Return a copy whose prior is as strong but has all basis rewards alike."""
        flat = copy(self)
        flat.prior_ = np.full(self.n_basis, self.prior_.sum() / self.n_basis)
        return flat


def _shared(pairs: Pairs, basis: F64) -> F64:
    """Return the one mixture that fits all comparisons best, float64 (n_basis,)."""
    return np.asarray(simplex_map(as_one_user(in_basis(pairs, basis)), np.full(basis.shape[1], _FLOOR))[0])
