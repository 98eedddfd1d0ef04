"""`lore`: a low-rank basis of rewards, and a user's place in its simplex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from personalllm.core.types import F32
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.linear_method import LinearMethod
from personalllm.methods.parts.low_rank import (
    as_one_user,
    fit_basis,
    in_basis,
    simplex_map,
    some_users,
    start_points,
    start_weights,
)

__all__ = ["LoRe"]

_MOST_USERS = 1_000
_FLOOR = 0.01


@dataclass
class LoRe(LinearMethod):
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
        n_features: Principal components of the embedding, >= 1.
        n_basis: Basis rewards, >= 1.
        prior_strength: Sum of the Dirichlet parameters less one each, > 0.
        ridge: Penalty of the basis, > 0.
        rounds: How often basis and weights are fitted in turn, >= 1.
    """

    id: ClassVar[str] = "lore"
    title: ClassVar[str] = "LoRe: low-rank reward basis"
    paper: ClassVar[str] = "Bose et al., LoRe: Personalizing LLMs via Low-Rank Reward Modeling, arXiv 2504.14439, 2025"
    objective: ClassVar[str] = "The likelihood of the pool's comparisons under convex combinations of basis rewards."
    fitted_per_user: ClassVar[str] = "Weights on the simplex of the basis rewards; the basis stays."
    cost: ClassVar[str] = "About ten Newton steps for a user, each O(k r^2 + r^3) for k comparisons and rank r."

    n_basis: int = 10
    prior_strength: float = 5.0
    ridge: float = 1.0
    rounds: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_basis", "rounds")
        self.check_number("prior_strength", "ridge")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features, a small basis."""
        return {"n_features": 8, "n_basis": 3, "rounds": 3}

    def learn(self, pairs: Pairs) -> None:
        """Fit the basis, in turn with the weights of the pool's users."""
        some, rank = some_users(pairs, _MOST_USERS), self.n_basis
        uniform = np.full(rank, self.prior_strength / rank)
        self.prior_ = uniform
        if not some.n_users:
            self.basis_ = np.zeros((pairs.n_features, rank))
            return
        basis = start_points(start_weights(some), rank)
        for _ in range(self.rounds):
            weights = simplex_map(in_basis(some, basis), uniform)
            basis = fit_basis(some, weights, basis, self.ridge)
        shared = simplex_map(as_one_user(in_basis(some, basis)), np.full(rank, _FLOOR))[0]
        self.basis_, self.prior_ = basis, self.prior_strength * shared + _FLOOR

    def user_weights(self, pairs: Pairs) -> F32:
        """Return B w_u for each user."""
        weights = simplex_map(in_basis(pairs, self.basis_), self.prior_)
        return (weights @ self.basis_.T).astype(np.float32)
