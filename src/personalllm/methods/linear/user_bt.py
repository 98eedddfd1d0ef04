"""`user-bt`: a linear Bradley-Terry model of each user alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from personalllm.core.types import F32
from personalllm.methods.base import OFF
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.linear_method import LinearMethod
from personalllm.methods.parts.logistic import best_ridge, newton_map

__all__ = ["UserBT"]


@dataclass
class UserBT(LinearMethod):
    r"""Fits each user alone: $\arg\max_w \sum_i \log\sigma(w \cdot d_i) - \rho |w|^2 / 2$ over the user's comparisons.

    Nothing is learned from other users but the features and, unless it is given, the ridge. A user without comparisons
    gets equal scores. What the best and the worst imply is off: with no pool to learn from it made choices worse.

    Args:
        n_features: Principal components of the embedding, >= 1.
        ridge: rho, > 0; None for the one of a grid under which the pool's comparisons are most probable.
    """

    id: ClassVar[str] = "user-bt"
    title: ClassVar[str] = "Bradley-Terry per user"
    paper: ClassVar[str] = "Bradley and Terry, Rank analysis of incomplete block designs, Biometrika 39, 1952"
    objective: ClassVar[str] = "The penalised log-likelihood of one user's comparisons under a linear utility."
    fitted_per_user: ClassVar[str] = "A vector of n_features weights, from zero."
    cost: ClassVar[str] = "About six Newton steps for a user, each O(min(k, d)^3) for k comparisons and d features."

    implied: bool = field(default=False, kw_only=True, metadata={OFF: False})
    ridge: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("ridge", or_none=True)

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features, a given ridge."""
        return {"n_features": 8, "ridge": 0.5}

    def learn(self, pairs: Pairs) -> None:
        """Choose the ridge."""
        self.ridge_ = best_ridge(pairs) if self.ridge is None else float(self.ridge)

    def user_weights(self, pairs: Pairs) -> F32:
        """Return each user's maximum."""
        return newton_map(pairs, 0.0, self.ridge_).mean.astype(np.float32)
