"""`lookup-icl`: learning across users, looked up among the pool users who asked something similar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from personalllm.core.types import F32, Conversation, Histories, Queries
from personalllm.methods.base import Need, fitting
from personalllm.methods.parts.across import AcrossUsers
from personalllm.methods.parts.retrieval import concatenated_ranges, nearest, owners, rank_by_best_match, unit_rows
from personalllm.methods.parts.vectors import PairVectors

__all__ = ["LookupICL"]


@dataclass
class LookupICL(AcrossUsers):
    """Shows the feedback of similar users, found for each query among those who own a prompt similar to it.

    1. Candidates are the pool users who own at least one of the `n_prompts` pool prompts nearest to the query's.
    2. Candidate u is ranked by `mean_i max_j cos(d_i, d_uj)` over the target user's interactions i and those of u, j;
       `d = e(prompt, winning) - e(prompt, losing)`, or one of its two parts. A user without history counts as one
       interaction, the mean over all embedded interactions of the pool.
    3. Of the interactions of the best `n_similar` candidates, the `n_shots` whose prompts are nearest to the query's
       are shown, as in `meta-icl`.

    This is the look-up variant in the code that accompanies section 4 (learning across users). The paper does not say
    how many prompts count as similar nor how many users are kept: `n_prompts` and `n_similar` are this package's.

    Args:
        n_shots: Examples shown, >= 1.
        feedback: `winning` (as in the paper), `losing`, `winning-and-losing` or `losing-as-winning` (mislabelled).
        layout: `text` (one user turn, as in the paper) or `turns` (only where all that is shown is shown as liked).
        max_history_tokens: Most tokens of history in the prompt.
        reply_tokens: Room in the context window that is left to the reply.
        n_similar: Pool users that examples are taken from, >= 1.
        embedding: Vector of an interaction: `winning-minus-losing`, `winning` or `losing`.
        embedding_pairs: Only the first so many interactions of each pool user are compared; all if None.
        search: `exact`, or `faiss` for an approximate index (extra `faiss`) over the prompts.
        n_prompts: Pool prompts whose owners are candidates, >= 1.
    """

    id: ClassVar[str] = "lookup-icl"
    title: ClassVar[str] = "Look-up ICL"
    paper: ClassVar[str] = "Zollo et al., PersonalLLM, arXiv 2409.20296, section 4 (learning across users, look-up)"
    needs: ClassVar[frozenset[Need]] = frozenset({"embedder", "llm"})

    n_prompts: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_prompts")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Fewer similar users and similar prompts than the contract suite's pool has."""
        return {"n_shots": 2, "n_similar": 2, "n_prompts": 3}

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Embed the prompts and the interactions of the pool."""
        super().fit(pool)
        compared = pool.first(self.embedding_pairs)
        self.pairs_ = PairVectors.of(self.embedder, compared, self.embedding)
        self.pair_offsets_ = compared.offsets
        return self

    def adapt(self, histories: Histories) -> Self:
        """Embed the target users' interactions; a user without any gets the pool's mean."""
        targets = PairVectors.of(self.embedder, histories, self.embedding)
        counts = np.diff(histories.offsets)
        new = histories.offsets[:-1][counts == 0]
        self.own_vectors_: F32 = np.insert(
            targets.units[targets.index], new, unit_rows(self.pairs_.mean[None, :]), axis=0
        )
        self.own_offsets_ = np.append(0, np.cumsum(np.maximum(counts, 1)))
        return self

    def messages(self, queries: Queries) -> list[Conversation]:
        """Return interactions of similar users and the prompt, for each query."""
        query_vectors = self.embedded_queries(queries)
        near = nearest(query_vectors, self.prompt_vectors_, self.n_prompts, search=self.search)
        starts, stops = self.own_offsets_[queries.user], self.own_offsets_[queries.user + 1]
        users = rank_by_best_match(
            self.own_vectors_[concatenated_ranges(starts, stops)],
            np.append(0, np.cumsum(stops - starts)),
            self.pairs_.units,
            self.pairs_.index,
            self.pair_offsets_,
            owners(near, self.prompt_place_, self.offsets_),
            self.n_similar,
        )
        return self.borrow(queries, query_vectors, users)
