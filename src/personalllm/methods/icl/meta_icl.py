"""`meta-icl`: learning across users, examples borrowed from the pool users with the most similar taste."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from personalllm.core.types import Conversation, Histories, Queries
from personalllm.methods.base import Need, fitting
from personalllm.methods.parts.across import AcrossUsers
from personalllm.methods.parts.retrieval import nearest, unit_rows
from personalllm.methods.parts.vectors import UserSums

__all__ = ["MetaICL"]


@dataclass
class MetaICL(AcrossUsers):
    """Shows the feedback of similar users on similar prompts (section 4, learning across users).

    1. A user's vector is `v_u = mean_i d_i` over their interactions, with `d_i = e(prompt_i, winning_i) -
       e(prompt_i, losing_i)`, or one of its two parts; e is the embedding of prompt and response together. A user
       without history gets the mean over all embedded interactions of the pool.
    2. The `n_similar` pool users with the largest `cos(v_u, v_target)` are found.
    3. Of their interactions, the `n_shots` whose prompts are nearest to the query's prompt are shown. A prompt is
       shown once, as the most similar of these users answered it.

    Args:
        n_shots: Examples shown, >= 1.
        feedback: `winning` (as in the paper), `losing`, `winning-and-losing` or `losing-as-winning` (mislabelled).
        layout: `text` (one user turn, as in the paper) or `turns` (only where all that is shown is shown as liked).
        max_history_tokens: Most tokens of history in the prompt.
        reply_tokens: Room in the context window that is left to the reply.
        n_similar: Pool users that examples are taken from, >= 1.
        embedding: User embedding: `winning-minus-losing`, `winning` or `losing`.
        embedding_pairs: Only the first so many interactions of each pool user make up the user's vector; all if None.
        search: `exact`, or `faiss` for an approximate index (extra `faiss`).
    """

    id: ClassVar[str] = "meta-icl"
    title: ClassVar[str] = "Meta-ICL"
    paper: ClassVar[str] = "Zollo et al., PersonalLLM, arXiv 2409.20296, section 4 (learning across users)"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedder", "llm"})

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Compute the vectors of the pool's users and embed its prompts."""
        super().fit(pool)
        sums = self._sums(pool.first(self.embedding_pairs))
        self.pool_mean_ = sums.mean_over_pairs()
        self.pool_users_ = np.flatnonzero(sums.counts).astype(np.int32)
        self.pool_vectors_ = unit_rows(sums.means(self.pool_mean_)[self.pool_users_])
        return self

    def adapt(self, histories: Histories) -> Self:
        """Find the most similar pool users of each target user: `similar_`, int32 (n_users, n_similar)."""
        vectors = unit_rows(self._sums(histories).means(self.pool_mean_))
        self.similar_ = self.pool_users_[nearest(vectors, self.pool_vectors_, self.n_similar, search=self.search)]
        return self

    def messages(self, queries: Queries) -> list[Conversation]:
        """Return interactions of similar users and the prompt, for each query."""
        return self.borrow(queries, self.embedded_queries(queries), self.similar_[queries.user])

    def _sums(self, histories: Histories) -> UserSums:
        """Return the sums of each user's interaction vectors."""
        return UserSums.of(self.embedder, histories, with_prompt=True, embedding=self.embedding)
