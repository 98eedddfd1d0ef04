"""`meta-icl`: learning across users, liked responses borrowed from the pool users with the most similar taste."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from personalllm.algorithms._prompting import SIMILAR, InContext, liked
from personalllm.algorithms._retrieval import concatenated_ranges, cosine_top_k, similarities, top_rows, unit_rows
from personalllm.algorithms._vectors import UserSums, embed_prompts
from personalllm.algorithms.base import Need
from personalllm.types import F32, Conversation, Histories, Queries

__all__ = ["MetaICL"]

_QUERY_BLOCK = 256


@dataclass
class MetaICL(InContext):
    """Shows liked responses of similar users to similar prompts (section 4, learning across users).

    1. A user's vector is winning minus losing, the mean over their interactions of
       `e(prompt, chosen) - e(prompt, rejected)`, e the embedding of prompt and response together. A user without
       history gets the pool's mean.
    2. The `n_similar` pool users with the largest cosine to the target user are found.
    3. Of their interactions, the `n_shots` whose prompts are nearest to the query's prompt are shown, winning responses
       only. A prompt is shown once, as the most similar of these users answered it.

    Args:
        n_shots: Examples shown, >= 1.
        max_history_tokens: Most tokens of history in the prompt.
        reply_tokens: Room in the context window that is left to the reply.
        n_similar: Pool users that examples are taken from, >= 1.
    """

    id: ClassVar[str] = "meta-icl"
    title: ClassVar[str] = "Meta-ICL"
    paper: ClassVar[str] = "Zollo et al., PersonalLLM, arXiv 2409.20296, section 4 (learning across users)"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedder", "llm"})

    n_similar: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_similar")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Fewer similar users than the contract suite's pool has."""
        return {"n_shots": 2, "n_similar": 2}

    def fit(self, pool: Histories) -> Self:
        """Compute the vectors of the pool's users and embed its prompts."""
        sums = UserSums.of(self.embedder, pool, with_prompt=True)
        self.pool_, self.offsets_ = pool, pool.offsets
        self.pool_mean_ = sums.mean_over_pairs()
        self.pool_users_ = np.flatnonzero(sums.counts).astype(np.int32)
        self.pool_vectors_ = unit_rows(sums.means(self.pool_mean_)[self.pool_users_])
        self.prompt_vectors_, self.prompt_place_ = embed_prompts(self.embedder, pool.corpus, pool.prompt)
        return self

    def adapt(self, histories: Histories) -> Self:
        """Find the most similar pool users of each target user: `similar_`, int32 (n_users, n_similar)."""
        sums = UserSums.of(self.embedder, histories, with_prompt=True)
        vectors = unit_rows(sums.means(self.pool_mean_))
        self.similar_ = self.pool_users_[cosine_top_k(vectors, self.pool_vectors_, self.n_similar)]
        return self

    def messages(self, queries: Queries) -> list[Conversation]:
        """Return liked responses of similar users and the prompt, for each query."""
        conversations = []
        for i, near in enumerate(self._prompt_similarities(queries)):
            prompt = queries.corpus.prompts[int(queries.prompt[i])]
            examples = [liked(self.pool_, row) for row in self._examples(int(queries.user[i]), near)]
            conversations.append(self.converse(prompt, examples, SIMILAR))
        return conversations

    def _prompt_similarities(self, queries: Queries) -> Iterator[F32]:
        """Yield, for each query, the cosines of its prompt with the pool's distinct prompts."""
        asked, place = embed_prompts(self.embedder, queries.corpus, queries.prompt)
        for start in range(0, len(queries), _QUERY_BLOCK):
            needed, inverse = np.unique(place[start : start + _QUERY_BLOCK], return_inverse=True)
            yield from similarities(asked[needed], self.prompt_vectors_)[inverse]

    def _examples(self, user: int, near: F32) -> list[int]:
        """Return the rows of the pool to show to one target user, nearest prompt first."""
        similar = self.similar_[user]
        rows = concatenated_ranges(self.offsets_[similar], self.offsets_[similar + 1])
        prompts, first = np.unique(self.prompt_place_[rows], return_index=True)
        nearest = top_rows(near[prompts][None, :], self.n_shots)[0]
        return [int(row) for row in rows[first[nearest]]]
