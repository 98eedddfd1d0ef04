"""What the methods that learn across users share: the pool, its user embeddings, and the examples taken from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, get_args

import numpy as np

from personalllm.core.types import F32, I32, Conversation, Histories, Queries
from personalllm.methods.base import fitting
from personalllm.methods.parts.prompting import InContext
from personalllm.methods.parts.retrieval import Search, nearest_interactions
from personalllm.methods.parts.vectors import UserEmbedding, embed_prompts

__all__ = ["AcrossUsers"]


@dataclass
class AcrossUsers(InContext):
    """Parameters that learning across users adds, and its last step: examples from the most similar pool users.

    Args:
        n_similar: Pool users that examples are taken from, >= 1.
        embedding: What an interaction's vector is: `e(prompt, winning) - e(prompt, losing)` (`winning-minus-losing`),
            `e(prompt, winning)` or `e(prompt, losing)`.
        embedding_pairs: Only the first so many interactions of each pool user's history are embedded, >= 1; all if
            None. Examples are taken from all of them.
        search: `exact`, or `faiss` for an approximate index (extra `faiss`).
    """

    n_similar: int = 20
    embedding: UserEmbedding = "winning-minus-losing"
    embedding_pairs: int | None = None
    search: Search = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_similar")
        self.check_positive("embedding_pairs", or_none=True)
        self.check_one_of("embedding", get_args(UserEmbedding))
        self.check_one_of("search", get_args(Search))

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Fewer similar users than the contract suite's pool has."""
        return {"n_shots": 2, "n_similar": 2}

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Keep the pool and embed its prompts."""
        self.pool_, self.offsets_ = pool, pool.offsets
        self.prompt_vectors_, self.prompt_place_ = embed_prompts(self.embedder, pool.corpus, pool.prompt)
        return self

    def embedded_queries(self, queries: Queries) -> F32:
        """Return the vectors of the queries' prompts, float32 (n_queries, dim)."""
        vectors, place = embed_prompts(self.embedder, queries.corpus, queries.prompt)
        return vectors[place]

    def borrow(self, queries: Queries, query_vectors: F32, users: I32) -> list[Conversation]:
        """Return, for each query, the interactions of its similar users whose prompts are nearest, and the prompt.

        Args:
            queries: Who asks what.
            query_vectors: float32 (n_queries, dim), vectors of their prompts.
            users: int32 (n_queries, n_similar), pool users most similar first; padded with -1.
        """
        absent = len(self.offsets_) - 1
        offsets = np.append(self.offsets_, self.offsets_[-1])
        padded = np.where(users < 0, absent, users).astype(np.int32)
        rows = nearest_interactions(
            query_vectors, self.prompt_vectors_, self.prompt_place_, offsets, padded, self.n_shots
        )
        return [
            self.converse(queries.corpus.messages(row), self.pool_, [j for j in near if j >= 0], "similar")
            for row, near in zip(queries.prompt.tolist(), rows.tolist(), strict=True)
        ]
