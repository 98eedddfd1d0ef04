"""Users' comparisons as padded arrays, split into support (given) and target (predicted)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from personalllm.core.protocols import TextEmbedder
from personalllm.core.types import F32, I32, I64, Corpus, Histories, Queries
from personalllm.methods.parts.features import FeatureMap

__all__ = ["Comparisons", "Episode", "Inputs"]

Bools = npt.NDArray[np.bool_]

_SMALL = 1e-9
_BETWEEN = 0.1


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a network sees of a response: its features about the mean of its prompt's responses, and that mean.

    Attributes:
        features: The linear map of embeddings.
        offset: float32 (n_features,): the mean of the prompts' means.
        scales: Factors of the halves: the first gets mean squared entries of 1 in the pool, the second is kept small,
            so that a network does not learn the pool's prompts by heart.
    """

    features: FeatureMap
    offset: F32
    scales: tuple[float, float]

    @classmethod
    def fit(cls, embedder: TextEmbedder, pool: Histories, n_features: int) -> Self:
        """Fit the features and the scales on the texts of the pool."""
        features = FeatureMap.fit(embedder, pool, n_features)
        plain = cls(features, np.zeros(features.n_features, dtype=np.float32), (1.0, 1.0))
        table, _ = plain.of(embedder, pool.corpus, pool.prompt)
        if table.size == 0:
            return plain
        n = features.n_features
        means = table[:, 0, n:].astype(np.float64)
        offset = means.mean(axis=0)
        n_entries = n * int(pool.corpus.counts[np.unique(pool.prompt)].sum())
        within = float(np.square(table[:, :, :n], dtype=np.float64).sum()) / n_entries
        between = float(np.square(means - offset).mean())
        least = _SMALL * max(within, between)
        scales = tuple(float(1 / np.sqrt(value)) if value > least else 0.0 for value in (within, between))
        return cls(features, offset.astype(np.float32), (scales[0], _BETWEEN * scales[1]))

    @property
    def width(self) -> int:
        """Length of an input: twice the number of features."""
        return 2 * self.features.n_features

    def of(self, embedder: TextEmbedder, corpus: Corpus, prompts: I32) -> tuple[F32, I64]:
        """Return the inputs of all responses of the prompts.

        Returns:
            float32 (n_distinct_prompts, n_responses, width), and int64 (n,): the place of each prompt among them.
        """
        queries = Queries(corpus, 1, np.zeros(len(prompts), dtype=np.int32), prompts)
        table, index = self.features.candidates(embedder, queries)
        counts = corpus.counts[np.unique(prompts)].astype(np.float32)[:, None, None]
        mean = table.sum(axis=1, keepdims=True) / np.maximum(1, counts)  # what is not there is zero in the table
        halves = (table - mean) * self.scales[0], np.broadcast_to((mean - self.offset) * self.scales[1], table.shape)
        inputs = np.concatenate(halves, axis=2, dtype=np.float32)
        inputs[np.arange(table.shape[1]) >= counts[:, :, 0]] = 0.0
        return inputs, index


@dataclass(frozen=True, eq=False)
class Episode:
    """Comparisons of some users: the support is given, the target is predicted.

    Attributes:
        user: int64 (n_users,).
        support: float32 (n_users, n_support, 2, width): the inputs of chosen and rejected response, those that are
            implied among them; padded.
        support_mask: bool (n_users, n_support): which of them are there.
        target: float32 (n_users, n_target, 2, width); padded.
        target_mask: bool (n_users, n_target).
    """

    user: I64
    support: F32
    support_mask: Bools
    target: F32
    target_mask: Bools


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Preferences in a network's inputs, grouped by user, each with the comparisons that follow from it.

    Attributes:
        inputs: float32 (n_distinct, width), of the responses.
        sides: int64 (n, n_following, 2), rows of `inputs`: chosen, rejected; first the comparison that was made, then
            those that are implied, padded with -1.
        prompt: int32 (n,), rows of the corpus.
        user: int32 (n,), ascending.
        n_users: Number of users, those without a preference included.
    """

    inputs: F32
    sides: I64
    prompt: I32
    user: I32
    n_users: int

    @classmethod
    def of(cls, inputs: Inputs, embedder: TextEmbedder, histories: Histories, *, implied: bool = False) -> Self:
        """Return the preferences of the histories, with what they imply if asked for."""
        table, index = inputs.of(embedder, histories.corpus, histories.prompt)
        width = max(1, table.shape[1])
        comparisons, row = histories.implied() if implied else (histories, np.arange(len(histories)))
        place = np.arange(len(row)) - np.searchsorted(row, row)
        sides = np.full((len(histories), int(place.max(initial=0)) + 1, 2), -1, dtype=np.int64)
        columns = np.column_stack([comparisons.chosen, comparisons.rejected])
        sides[row, place] = index[row][:, None] * width + columns
        return cls(table.reshape(-1, inputs.width), sides, histories.prompt, histories.user, histories.n_users)

    def __len__(self) -> int:
        return len(self.user)

    def given(self) -> Comparisons:
        """Return the comparisons without those that are implied."""
        return replace(self, sides=self.sides[:, :1])

    @property
    def offsets(self) -> I64:
        """int64 (n_users + 1,): the rows of user u are `offsets[u]:offsets[u + 1]`."""
        return np.searchsorted(self.user, np.arange(self.n_users + 1)).astype(np.int64)

    @property
    def counts(self) -> I64:
        """int64 (n_users,): preferences of each user."""
        return np.diff(self.offsets)

    def where(self, keep: Bools) -> Comparisons:
        """Return the preferences that are kept; users keep their numbers."""
        return Comparisons(self.inputs, self.sides[keep], self.prompt[keep], self.user[keep], self.n_users)

    def take(self, rows: I64, there: Bools) -> tuple[F32, Bools]:
        """Return the comparisons of preferences, rows of users (n_users, n), and which of them are there.

        Returns:
            float32 (n_users, n * n_following, 2, input width), and bool (n_users, n * n_following).
        """
        n_users, n = rows.shape
        following = self.sides.shape[1]
        if len(self) == 0:
            shape = n_users, n * following
            return np.zeros((*shape, 2, self.inputs.shape[1]), dtype=np.float32), np.zeros(shape, dtype=np.bool_)
        sides = self.sides[np.minimum(rows, len(self) - 1)]
        mask = there[:, :, None] & (sides[..., 0] >= 0)
        return self.inputs[sides.reshape(n_users, n * following, 2)], mask.reshape(n_users, n * following)

    def first(self, users: I64, width: int) -> tuple[F32, Bools]:
        """Return the comparisons that follow from the first `width` preferences of users.

        Returns:
            float32 (n_users, width * n_following, 2, input width), padded; and bool (n_users, width * n_following):
            which are there.
        """
        places = np.arange(width)
        return self.take(self.offsets[users][:, None] + places, places < self.counts[users][:, None])

    def drawn(self, users: I64, n_support: int, n_target: int, rng: np.random.Generator) -> Episode:
        """Split the preferences of each user at random: at most `n_support` are given, at least one is predicted.

        Args:
            users: int64 (n,), each with a preference.
            n_support: Maximum number of given preferences; what they imply is given too.
            n_target: Maximum number of predicted preferences; what they imply is not asked.
            rng: Draws the order of each user's preferences.
        """
        counts = self.counts[users][:, None]
        most = int(counts.max())
        draws = rng.random((len(users), most))
        draws[np.arange(most) >= counts] = 2.0
        rows = self.offsets[users][:, None] + draws.argsort(axis=1, kind="stable")
        n_first = np.minimum(n_support, counts - 1)
        support = rows[:, : min(n_support, most)]
        places = n_first + np.arange(min(n_target, most))
        target = np.take_along_axis(rows, np.minimum(places, most - 1), axis=1)
        support_mask = np.arange(support.shape[1]) < n_first
        return Episode(users, *self.take(support, support_mask), *self.given().take(target, places < counts))
