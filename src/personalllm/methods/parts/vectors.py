"""Vectors of texts and of users: each distinct text is embedded once, users are sums over their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from personalllm.core.protocols import TextEmbedder
from personalllm.core.types import F32, I64, Corpus, Histories, Queries
from personalllm.methods.parts.retrieval import unit_rows

__all__ = [
    "PairVectors",
    "UserEmbedding",
    "UserSums",
    "embed_prompts",
    "embed_responses",
    "score_candidates",
]

Rows = npt.NDArray[np.integer[Any]]
UserEmbedding = Literal["winning-minus-losing", "winning", "losing"]

_PROMPT_BLOCK = 64
_PAIR_BLOCK = 8_192


def _distinct(keys: I64, size: int) -> tuple[I64, I64]:
    """Return the distinct keys in [0, size), ascending, and the place of each key among them."""
    seen = np.zeros(size, dtype=bool)
    seen[keys] = True
    distinct = np.flatnonzero(seen)
    index = np.zeros(size, dtype=np.int64)
    index[distinct] = np.arange(len(distinct))
    return distinct, index[keys]


def embed_prompts(embedder: TextEmbedder, corpus: Corpus, rows: Rows) -> tuple[F32, I64]:
    """Embed the distinct prompts among `rows`.

    Returns:
        Vectors, float32 (n_distinct, dim), and int64 (n,): the vector of each row.
    """
    distinct, index = _distinct(rows.astype(np.int64), corpus.n_prompts)
    return embedder.embed([corpus.text(row) for row in distinct.tolist()]), index


def embed_responses(
    embedder: TextEmbedder, corpus: Corpus, prompts: Rows, responses: Rows, *, with_prompt: bool = False
) -> tuple[F32, I64]:
    """Embed the distinct responses among (prompt row, response column), alone or each behind its prompt.

    Returns:
        Vectors, float32 (n_distinct, dim), and int64 (n,): the vector of each entry.
    """
    width = corpus.n_responses
    distinct, index = _distinct(prompts.astype(np.int64) * width + responses, corpus.n_prompts * width)
    texts: list[str] = []
    current, prompt, row = -1, "", []
    for key in distinct.tolist():
        if key // width != current:
            current = key // width
            prompt, row = corpus.text(current), list(corpus.responses[current])
        texts.append(f"{prompt}\n\n{row[key % width]}" if with_prompt else row[key % width])
    return embedder.embed(texts), index


def _sides(histories: Histories, embedding: UserEmbedding) -> tuple[npt.NDArray[np.uint8], F32]:
    """Return the columns whose vectors make up an interaction's, uint8 (n, n_sides), and their signs, (n_sides,)."""
    if embedding == "winning":
        return histories.chosen[:, None], np.ones(1, dtype=np.float32)
    if embedding == "losing":
        return histories.rejected[:, None], np.ones(1, dtype=np.float32)
    return np.column_stack([histories.chosen, histories.rejected]), np.array([1, -1], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class PairVectors:
    """Vectors of interactions: prompt and response together, winning, losing, or the difference of the two.

    Attributes:
        units: float32 (n_distinct, dim), the vectors of the distinct interactions, at unit length.
        index: int64 (n,): the vector of each row of the histories.
        mean: float32 (dim,), the mean over all rows before they got unit length; zero if there are none.
    """

    units: F32
    index: I64
    mean: F32

    @classmethod
    def of(cls, embedder: TextEmbedder, histories: Histories, embedding: UserEmbedding) -> Self:
        """Embed the distinct texts, then put the vectors together in blocks."""
        columns, signs = _sides(histories, embedding)
        width, n_sides = histories.corpus.n_responses, len(signs)
        keys = histories.prompt.astype(np.int64)
        for side in range(n_sides):
            keys = keys * width + columns[:, side]
        distinct, first, index = np.unique(keys, return_index=True, return_inverse=True)
        prompts = np.repeat(histories.prompt[first], n_sides)
        texts, where = embed_responses(embedder, histories.corpus, prompts, columns[first].ravel(), with_prompt=True)
        sides = where.reshape(len(distinct), n_sides)
        uses = np.bincount(index, minlength=len(distinct)).astype(np.float64)
        units = np.empty((len(distinct), embedder.dim), dtype=np.float32)
        total = np.zeros(embedder.dim)
        for start in range(0, len(distinct), _PAIR_BLOCK):
            block = slice(start, start + _PAIR_BLOCK)
            vectors = np.asarray(sum(sign * texts[sides[block, side]] for side, sign in enumerate(signs)))
            total += uses[block] @ vectors
            units[block] = unit_rows(vectors)
        return cls(units, index, (total / max(1, len(histories))).astype(np.float32))


@dataclass(frozen=True, eq=False)
class UserSums:
    """Sums over each user's interactions of (vector of the chosen - vector of the rejected response), or of one side.

    Attributes:
        sums: float32 (n_users, dim); zero for a user without interactions.
        counts: int64 (n_users,), interactions of each user.
    """

    sums: F32
    counts: I64

    @classmethod
    def of(
        cls,
        embedder: TextEmbedder,
        histories: Histories,
        *,
        with_prompt: bool = False,
        embedding: UserEmbedding = "winning-minus-losing",
    ) -> Self:
        """Add up the histories, each user's rows in their order."""
        from scipy.sparse import csr_array

        n = len(histories)
        columns, signs = _sides(histories, embedding)
        n_sides = len(signs)
        vectors, index = embed_responses(
            embedder,
            histories.corpus,
            np.repeat(histories.prompt, n_sides),
            columns.ravel(),
            with_prompt=with_prompt,
        )
        counts = np.diff(histories.offsets)
        if n == 0:
            return cls(np.zeros((histories.n_users, embedder.dim), dtype=np.float32), counts)
        rows = csr_array(
            (np.tile(signs, n), index, n_sides * histories.offsets), shape=(histories.n_users, len(vectors))
        )
        return cls(np.asarray(rows @ vectors, dtype=np.float32), counts)

    def mean_over_pairs(self) -> F32:
        """Return the mean vector over all interactions of all users, float32 (dim,); zero if there are none."""
        total = self.sums.sum(axis=0, dtype=np.float64)
        return np.asarray(total / max(1, int(self.counts.sum())), dtype=np.float32)

    def means(self, prior: F32, strength: float = 0.0) -> F32:
        """Return each user's mean vector, shrunk towards a prior: `(sum + s prior) / (n + s)`.

        Args:
            prior: float32 (dim,); stands in for a user without interactions, too.
            strength: s >= 0, in interactions.

        Returns:
            float32 (n_users, dim).
        """
        weight = np.where(self.counts > 0, strength, 1.0)[:, None]
        total = self.counts[:, None] + weight
        return np.asarray((self.sums + weight * prior.astype(np.float64)) / total, dtype=np.float32)


def score_candidates(embedder: TextEmbedder, vectors: F32, queries: Queries) -> F32:
    """Return the cosine of each query's candidates with the vector of the user who asks.

    Args:
        embedder: Embeds the candidate responses, unit rows.
        vectors: float32 (n_users, dim), or (1, dim) for one vector that serves everybody.
        queries: Who asks what.

    Returns:
        float32 (n_queries, n_responses); 0 for a user whose vector is zero.
    """
    corpus, width = queries.corpus, queries.corpus.n_responses
    result = np.zeros((len(queries), width), dtype=np.float32)
    query_prompts, index = _distinct(queries.prompt.astype(np.int64), corpus.n_prompts)
    candidates, _ = embed_responses(
        embedder, corpus, np.repeat(query_prompts, width), np.tile(np.arange(width), len(query_prompts))
    )
    users = unit_rows(vectors).astype(np.float64)
    asking = queries.user if len(vectors) > 1 else np.zeros(len(queries), dtype=np.int32)
    order = np.argsort(index, kind="stable")
    bounds = np.searchsorted(index[order], np.arange(len(query_prompts) + 1))
    dense = 4 * len(queries) >= len(vectors) * len(query_prompts)
    step = _PROMPT_BLOCK if dense else 1  # a wide product is wasted where few users share a prompt
    for start in range(0, len(query_prompts), step):
        stop = min(start + step, len(query_prompts))
        rows = order[bounds[start] : bounds[stop]]
        present, who = np.unique(asking[rows], return_inverse=True)
        block = users[present] @ candidates[start * width : stop * width].astype(np.float64).T
        result[rows] = block.reshape(len(present), stop - start, width)[who, index[rows] - start]
    return result
