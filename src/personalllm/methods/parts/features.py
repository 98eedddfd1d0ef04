"""Features of responses for linear methods: principal components of the embedding within prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from personalllm.core.protocols import TextEmbedder
from personalllm.core.types import F32, F64, I32, I64, Corpus, Histories, Queries

__all__ = ["FeatureMap", "Pairs", "spread_within", "text_blocks", "used_responses"]


_TEXT_BLOCK = 4_096
_SMALL = 1e-6  # eigenvalues of float32 vectors below this share of the largest are rounding


@dataclass(frozen=True, eq=False)
class Pairs:
    """Comparisons in feature space, grouped by user.

    Attributes:
        vectors: float32 (n_distinct, n_features), the features of the distinct responses.
        chosen: int64 (n,), rows of `vectors`.
        rejected: int64 (n,), rows of `vectors`.
        user: int32 (n,), ascending.
        prompt: int32 (n,), rows of the corpus.
        offsets: int64 (n_users + 1,): the rows of user u are `offsets[u]:offsets[u + 1]`.
        preference: int64 (n,), ascending: the preference that a comparison follows from, whose first row is the one
            that was given and whose others are implied; None where every row is a preference of its own.
        weight: float64 (n,), >= 0: how much each row counts, e.g. less the older it is; None: 1 each.
    """

    vectors: F32
    chosen: I64
    rejected: I64
    user: I32
    prompt: I32
    offsets: I64
    preference: I64 | None = None
    weight: F64 | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def n_users(self) -> int:
        """Number of users, those without a comparison included."""
        return len(self.offsets) - 1

    @property
    def n_features(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def counts(self) -> I64:
        """int64 (n_users,): comparisons of each user."""
        return np.diff(self.offsets)

    @property
    def places(self) -> I64:
        """int64 (n,): the place of each row's preference in the history of its user, from 0."""
        number = np.cumsum(self.begins)
        return np.asarray(number - number[self.offsets[self.user]], dtype=np.int64)

    @property
    def n_preferences(self) -> I64:
        """int64 (n_users,): preferences of each user."""
        return self.counts if self.preference is None else self.given().counts

    @property
    def weights(self) -> F64:
        """float64 (n,): how much each row counts."""
        return np.ones(len(self)) if self.weight is None else self.weight

    def counting(self, together: float) -> Pairs:
        """Return the comparisons, those that a preference implies counting so much together, at most 1 each."""
        if self.preference is None or math.isinf(together):
            return self
        first = self.begins
        sizes = np.diff(np.flatnonzero(first), append=len(self))
        each = np.minimum(1.0, together / np.maximum(1, sizes - 1))
        return replace(self, weight=np.where(first, 1.0, np.repeat(each, sizes)))

    def given(self) -> Pairs:
        """Return the comparisons without those that are implied."""
        return self if self.preference is None else self.where(self.begins)

    @property
    def begins(self) -> npt.NDArray[np.bool_]:
        """Whether each row is the first of its preference, bool (n,)."""
        if self.preference is None:
            return np.ones(len(self), dtype=np.bool_)
        return np.asarray((np.diff(self.preference, prepend=-1) != 0) | (np.diff(self.user, prepend=-1) != 0))

    def differences(self, start: int = 0, stop: int | None = None) -> F32:
        """Return features of the chosen minus those of the rejected response, float32 (stop - start, n_features)."""
        rows = slice(start, stop)
        return np.asarray(self.vectors[self.chosen[rows]] - self.vectors[self.rejected[rows]])

    def with_vectors(self, vectors: F32) -> Pairs:
        """Return the comparisons of the same responses with other features, float32 (n_distinct, n)."""
        return replace(self, vectors=vectors)

    def of_users(self, users: npt.NDArray[np.integer[Any]]) -> Pairs:
        """Return the comparisons of these users, who are numbered from 0 in the order given."""
        counts = self.counts[users]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        user = np.repeat(np.arange(len(users)), counts)
        rows = np.arange(len(user)) - offsets[user] + self.offsets[users][user]
        return self._rows(rows, user.astype(np.int32), offsets)

    def first(self, n: int) -> Pairs:
        """Return the first n preferences of each user."""
        return self.where(self.places < n)

    def where(self, mask: npt.NDArray[np.bool_]) -> Pairs:
        """Return the comparisons for which `mask`, (n,), is true, of the same users."""
        offsets = np.concatenate([[0], np.cumsum(mask)])[self.offsets].astype(np.int64)
        return self._rows(np.flatnonzero(mask), self.user[mask], offsets)

    def _rows(self, rows: I64, user: I32, offsets: I64) -> Pairs:
        preference = None if self.preference is None else self.preference[rows]
        weight = None if self.weight is None else self.weight[rows]
        sides = self.chosen[rows], self.rejected[rows]
        return Pairs(self.vectors, *sides, user, self.prompt[rows], offsets, preference, weight)


def text_blocks(corpus: Corpus, keys: I64) -> Iterator[tuple[slice, list[str]]]:
    """Yield places among the ascending `keys` (prompt * n_responses + column) and texts, whole prompts at a time."""
    width = max(1, corpus.n_responses)
    start = 0
    while start < len(keys):
        stop = min(start + _TEXT_BLOCK, len(keys))
        if stop < len(keys):
            stop = int(np.searchsorted(keys, keys[stop] // width * width))
            if stop <= start:
                stop = int(np.searchsorted(keys, (keys[start] // width + 1) * width))
        texts: list[str] = []
        prompt, row = -1, []
        for key in keys[start:stop].tolist():
            if key // width != prompt:
                prompt = key // width
                row = list(corpus.responses[prompt])
            texts.append(row[key % width])
        yield slice(start, stop), texts
        start = stop


def used_responses(histories: Histories) -> tuple[I64, I64]:
    """Return the distinct responses of the histories as keys, ascending, and their places, (2, n)."""
    width = max(1, histories.corpus.n_responses)
    base = histories.prompt.astype(np.int64) * width
    keys = np.concatenate([base + histories.chosen, base + histories.rejected])
    distinct, index = np.unique(keys, return_inverse=True)
    return distinct, index.reshape(2, -1).astype(np.int64)


def spread_within(blocks: Iterable[tuple[I64, npt.NDArray[np.floating[Any]]]], width: int) -> F64:
    """Return the mean over prompts of the mean outer product of the difference of two of its responses.

    Args:
        blocks: Prompts, int64 (n,), ascending, and values, (n, width), whole prompts at a time.
        width: Number of values of a response.

    Returns:
        float64 (width, width).
    """
    total, n_prompts = np.zeros((width, width)), 0
    for prompts, values in blocks:
        first = np.flatnonzero(np.diff(prompts, prepend=-1))
        sizes = np.diff(first, append=len(prompts))
        means = np.add.reduceat(values.astype(np.float64), first, axis=0) / sizes[:, None]
        share = np.sqrt(2.0 / np.maximum(1, sizes - 1))
        centred = (values - np.repeat(means, sizes, axis=0)) * np.repeat(share, sizes)[:, None]
        total += centred.T @ centred
        n_prompts += int((sizes > 1).sum())
    return total / max(1, n_prompts)


@dataclass(frozen=True, eq=False)
class FeatureMap:
    r"""A linear map of embeddings to features: the leading principal components of responses within prompts.

    The components are the eigenvectors of $E[(e_a - e_b)(e_a - e_b)^\\top]$, a and b two responses of a prompt, by
    falling eigenvalue and with their largest entry positive; directions in which nothing varies are left at zero. All
    features are scaled by one number, so that a difference has mean squared norm 1.

    Attributes:
        components: float32 (dim, n_features), the scale included.
    """

    components: F32

    @classmethod
    def fit(cls, embedder: TextEmbedder, histories: Histories, n_features: int | None = None) -> Self:
        """Fit the map on the texts of the histories, each distinct response once.

        Args:
            embedder: Embeds the responses.
            histories: Whose responses to look at; without any, the first axes of the embedding are the features.
            n_features: Most components; None for all.
        """
        dim = embedder.dim
        n = dim if n_features is None else min(n_features, dim)
        corpus = histories.corpus
        keys, _ = used_responses(histories)
        blocks = (
            (keys[block] // corpus.n_responses, embedder.embed(texts)) for block, texts in text_blocks(corpus, keys)
        )
        # eigh, not svd: the dim x dim matrix is accumulated in blocks, so no array of all texts is held
        values, vectors = np.linalg.eigh(spread_within(blocks, dim))
        values, vectors = values[::-1][:n], vectors[:, ::-1][:, :n]
        if not values[0] > 0:
            return cls(np.eye(dim, n, dtype=np.float32))
        # an eigenvector is known up to its sign: fixed, or two machines would give other features
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(n)])
        mask = values > _SMALL * values[0]
        scaled = np.where(mask, vectors, 0.0) / np.sqrt(values[mask].sum())
        return cls(np.ascontiguousarray(scaled, dtype=np.float32))

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.components.shape[1])

    def of_keys(self, embedder: TextEmbedder, corpus: Corpus, keys: I64) -> F32:
        """Return the features of distinct responses, float32 (n, n_features); keys are prompt * n_responses + column.

        Args:
            embedder: The one that the map was fitted with.
            corpus: Where the keys point.
            keys: int64 (n,), ascending.
        """
        result = np.empty((len(keys), self.n_features), dtype=np.float32)
        for block, texts in text_blocks(corpus, keys):
            result[block] = embedder.embed(texts) @ self.components
        return result

    def pairs(self, embedder: TextEmbedder, histories: Histories, *, together: float = 0.0) -> Pairs:
        """Return the comparisons of the histories in feature space.

        Args:
            embedder: The one that the map was fitted with.
            histories: Whose comparisons.
            together: How much those that a preference implies count; they are left out if 0.
        """
        histories, preference = histories.implied() if together else (histories, None)
        keys, (chosen, rejected) = used_responses(histories)
        vectors, of = self.of_keys(embedder, histories.corpus, keys), histories
        pairs = Pairs(vectors, chosen, rejected, of.user, of.prompt, of.offsets, preference)
        return pairs.counting(together)

    def candidates(self, embedder: TextEmbedder, queries: Queries) -> tuple[F32, I64]:
        """Return the features of all responses of the prompts that are asked.

        Returns:
            float32 (n_distinct_prompts, n_responses, n_features), prompts ascending, zero beyond the responses of a
            prompt, and int64 (n_queries,): the place
            of each query's prompt among them.
        """
        corpus, width = queries.corpus, queries.corpus.n_responses
        query_prompts, index = np.unique(queries.prompt, return_inverse=True)
        there = np.arange(width) < corpus.counts[query_prompts][:, None]
        features = np.zeros((len(query_prompts), width, self.n_features), dtype=np.float32)
        keys = query_prompts.astype(np.int64)[:, None] * width + np.arange(width)
        features[there] = self.of_keys(embedder, corpus, keys[there])
        return features, index.ravel().astype(np.int64)
