"""`embedding-ranker`: a user is the mean of what they chose minus what they rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from personalllm.core.types import F32, Histories, Queries
from personalllm.methods.base import Method, Need, fitting
from personalllm.methods.parts.vectors import UserSums, score_candidates

__all__ = ["EmbeddingRanker"]


@dataclass
class EmbeddingRanker(Method):
    """Ranks by the cosine of a response embedding with the user's vector.

    The user's vector is `v = (sum_i (e(chosen_i) - e(rejected_i)) + s m) / (n + s)` over the user's n interactions, e
    the response embedding, m the same mean over all interactions of the pool, s the shrinkage. A user without history
    gets m. The difference of winning and losing embeddings is the user embedding of section 4 of the PersonalLLM paper.

    Args:
        shrinkage: How many interactions the pool's mean counts for, >= 0; 0 trusts the user's history alone.
    """

    id: ClassVar[str] = "embedding-ranker"
    title: ClassVar[str] = "Embedding ranker"
    paper: ClassVar[str] = "Zollo et al., PersonalLLM, arXiv 2409.20296, section 4 (user embedding)"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedder"})

    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        self.check_number("shrinkage", above_zero=False)

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Exercise the shrinkage."""
        return {"shrinkage": 2.0}

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Average the differences over all interactions of the pool."""
        self.pool_mean_ = UserSums.of(self.embedder, pool).mean_over_pairs()
        return self

    def adapt(self, histories: Histories) -> Self:
        """Average the differences over each target user's interactions."""
        self.user_vectors_ = UserSums.of(self.embedder, histories).means(self.pool_mean_, self.shrinkage)
        return self

    def utilities(self, queries: Queries) -> F32:
        """Return cosines in [-1, 1], float32 (n_queries, n_responses)."""
        return score_candidates(self.embedder, self.user_vectors_, queries)
