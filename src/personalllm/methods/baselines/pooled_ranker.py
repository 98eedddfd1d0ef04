"""`pooled-ranker`: one taste for everybody, learned from the pool; what personalisation has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from personalllm.core.types import F32, Histories, Queries
from personalllm.methods.base import Method, Need, fitting
from personalllm.methods.parts.vectors import UserSums, score_candidates

__all__ = ["PooledRanker"]


@dataclass
class PooledRanker(Method):
    """Ranks by the cosine of a response with the pool's mean (chosen - rejected) response embedding.

    Not personalised: the embedding ranker minus this shows what knowing the user adds.
    """

    id: ClassVar[str] = "pooled-ranker"
    title: ClassVar[str] = "Pooled ranker"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedder"})

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Average the differences over all interactions of the pool."""
        self.pool_mean_ = UserSums.of(self.embedder, pool).mean_over_pairs()
        return self

    def utilities(self, queries: Queries) -> F32:
        """Return cosines in [-1, 1], float32 (n_queries, n_responses)."""
        return score_candidates(self.embedder, self.pool_mean_[None, :], queries)
