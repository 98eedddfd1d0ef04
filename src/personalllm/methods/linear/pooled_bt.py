"""`pooled-bt`: one linear Bradley-Terry model of all users of the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from personalllm.core.types import F32, Queries
from personalllm.methods.base import Method
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.linear_method import LinearMethod, score_queries
from personalllm.methods.parts.logistic import newton_pooled

__all__ = ["PooledBT"]


@dataclass
class PooledBT(LinearMethod):
    r"""Ranks for everybody alike: $\arg\max_w \sum_i \log\sigma(w \cdot d_i) - \rho |w|^2 / 2$ over the whole pool.

    $d_i$ are the features of the chosen minus those of the rejected response. It is what a single reward model does,
    and says how much of a preference is shared.

    Args:
        n_features: Principal components of the embedding, >= 1.
        ridge: rho, > 0.
    """

    id: ClassVar[str] = "pooled-bt"
    title: ClassVar[str] = "Pooled Bradley-Terry"
    paper: ClassVar[str] = "Bradley and Terry, Rank analysis of incomplete block designs, Biometrika 39, 1952"
    objective: ClassVar[str] = "The penalised log-likelihood of all comparisons of the pool under one linear utility."
    fitted_per_user: ClassVar[str] = "Nothing: a new user's comparisons are not looked at."
    cost: ClassVar[str] = "A few Newton steps over the pool, O(n d^2) each; nothing for a new user."

    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("ridge")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features, another ridge."""
        return {"n_features": 8, "ridge": 0.5}

    def learn(self, pairs: Pairs) -> None:
        """Fit the one vector."""
        self.shared_ = newton_pooled(pairs, self.ridge).astype(np.float32)

    adapt = Method.adapt

    def utilities(self, queries: Queries) -> F32:
        """Return utilities, the same for every user, float32 (n_queries, n_responses)."""
        candidates, index = self.features_.candidates(self.embedder, queries)
        return score_queries(self.shared_[None], candidates, index, queries.user)
