"""The base of methods with a linear utility: features, weights of users, and scores of candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from personalllm.core.types import F32, F64, I64, Histories, Queries
from personalllm.methods.base import fitting
from personalllm.methods.parts.features import FeatureMap, Pairs
from personalllm.methods.parts.held_out import SHOTS, user_slopes
from personalllm.methods.parts.learner import PreferenceLearner
from personalllm.methods.parts.surface import TextFeatureMap

__all__ = ["CalibratedMethod", "LinearMethod", "moderated_margins", "moderated_scores", "score_queries"]

_QUERY_BLOCK = 8_192
_NUMBERS = 8_000_000


def score_queries(weights: npt.NDArray[np.floating[Any]], candidates: F32, index: I64, user: npt.ArrayLike) -> F32:
    """Return each candidate's features times the weights of the user who asks, float32 (n_queries, n_responses).

    Args:
        weights: (n_users, n_features), or (1, n_features) for one vector that serves everybody.
        candidates: float32 (n_distinct_prompts, n_responses, n_features).
        index: int64 (n_queries,), the prompt of each query among the candidates.
        user: Integers (n_queries,).
    """
    who = np.asarray(user) if len(weights) > 1 else np.zeros(len(index), dtype=np.int64)
    result = np.empty((len(index), candidates.shape[1]), dtype=np.float32)
    for start in range(0, len(index), _QUERY_BLOCK):
        rows = slice(start, start + _QUERY_BLOCK)
        chosen = weights[who[rows]].astype(np.float64)[:, :, None]
        result[rows] = (candidates[index[rows]].astype(np.float64) @ chosen)[:, :, 0]
    return result


def moderated_scores(mean: F64, covariance: F32, candidates: F32, index: I64, user: npt.ArrayLike) -> F32:
    r"""Return posterior-predictive scores, float32 (n_queries, n_responses): the logit is drawn in by its variance.

    With $\mu_{ab} = m \cdot (x_a - x_b)$ and $s_{ab}^2 = (x_a - x_b)^\top V (x_a - x_b)$ the predictive log-odds are
    about $\mu_{ab} / \sqrt{1 + \pi s_{ab}^2 / 8}$. Scores are differences that come nearest to them in least squares:
    $s_a = \frac{1}{n} \sum_b \mu_{ab} / \sqrt{1 + \pi s_{ab}^2 / 8}$.

    Args:
        mean: float64 (n_users, n_features).
        covariance: float32 (n_users, n_features, n_features).
        candidates: As in `score_queries`.
        index: As in `score_queries`.
        user: As in `score_queries`.
    """
    who = np.asarray(user)
    result = np.empty((len(index), candidates.shape[1]), dtype=np.float32)
    step = max(1, _NUMBERS // max(1, mean.shape[1] ** 2))
    for start in range(0, len(index), step):
        rows = slice(start, start + step)
        x = candidates[index[rows]]
        logits = (x.astype(np.float64) @ mean[who[rows]][:, :, None])[:, :, 0]
        inner = ((x @ covariance[who[rows]]) @ x.transpose(0, 2, 1)).astype(np.float64)
        squares = np.diagonal(inner, axis1=1, axis2=2)
        # |x_a - x_b|^2 by the expansion can fall below zero by rounding where two responses are nearly equal
        variance = np.maximum(0.0, squares[:, :, None] + squares[:, None, :] - 2.0 * inner)
        apart = logits[:, :, None] - logits[:, None, :]
        result[rows] = (apart / np.sqrt(1.0 + np.pi / 8.0 * variance)).mean(axis=2)
    return result


def moderated_margins(mean: F64, covariance: npt.NDArray[np.floating[Any]], pairs: Pairs) -> F64:
    """Return the moderated log-odds of the comparisons that users made, float64 (n,), as `moderated_scores` does."""
    result = np.empty(len(pairs))
    step = max(1, _NUMBERS // max(1, mean.shape[1] ** 2))
    for start in range(0, len(pairs), step):
        d, user = pairs.differences(start, start + step), pairs.user[start : start + step]
        logits = (d * mean[user]).sum(axis=1)
        variance = ((d[:, None, :] @ covariance[user])[:, 0] * d).sum(axis=1)
        result[start : start + step] = logits / np.sqrt(1.0 + np.pi / 8.0 * variance)
    return result


@dataclass
class LinearMethod(PreferenceLearner):
    """Base of the methods whose utility is linear in the features of a response: u = w . x.

    A subclass implements `learn` (from the pool) and `user_weights` (of the target users).
    It handles a pool without comparisons and users without comparisons.

    Args:
        n_features: Principal components of the embedding, >= 1; None for all.
    """

    n_features: int | None = 64

    def __post_init__(self) -> None:
        self.check_positive("n_features", or_none=True)

    def make_features(self, pool: Histories) -> FeatureMap:
        """Return the features, fitted on the texts of the pool."""
        return FeatureMap.fit(self.embedder, pool, self.n_features)

    def comparisons(self, histories: Histories) -> Pairs:
        """Return what is learned from: the comparisons that were made and, unless switched off, those implied."""
        return self.features_.pairs(self.embedder, histories, together=self.together)

    def learn(self, pairs: Pairs) -> None:
        """Learn what users share from the comparisons of the pool; keep it in attributes that end in an underscore."""
        raise NotImplementedError

    def user_weights(self, pairs: Pairs) -> F32:
        """Return the weights of the target users, float32 (n_users, n_features), from their comparisons."""
        raise NotImplementedError

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Fit the features on the texts of the pool, then learn from its comparisons."""
        self.features_ = self.make_features(pool)
        self.learn(self.comparisons(pool))
        return self

    def adapt(self, histories: Histories) -> Self:
        """Fit the weights of the target users."""
        self.user_weights_ = self.user_weights(self.comparisons(histories))
        return self

    def utilities(self, queries: Queries) -> F32:
        """Return utilities, float32 (n_queries, n_responses); their differences are log-odds."""
        candidates, index = self.features_.candidates(self.embedder, queries)
        return score_queries(self.user_weights_, candidates, index, queries.user)


@dataclass
class CalibratedMethod(LinearMethod):
    """Base of the linear methods that read measures of the text too and are calibrated on users and prompts held out.

    A subclass's `learn` sets `slopes_`, a factor of the log-odds for each number of preferences in `SHOTS`.

    Args:
        n_features: Principal components of the embedding, >= 1; None for all.
        text_measures: Whether to add the measures of the text and the cosine with the prompt.
    """

    text_measures: bool = True

    def make_features(self, pool: Histories) -> FeatureMap:
        """Return the components and, unless switched off, the measures of the text."""
        kind = TextFeatureMap if self.text_measures else FeatureMap
        return kind.fit(self.embedder, pool, self.n_features)

    def learn(self, pairs: Pairs) -> None:
        """Set slopes that change nothing; a subclass begins with that."""
        self.slopes_ = np.ones(len(SHOTS))

    def adapt(self, histories: Histories) -> Self:
        """Fit the weights of the target users, and keep their slopes."""
        self.user_slopes_ = user_slopes(self.slopes_, np.diff(histories.offsets))
        return super().adapt(histories)

    def utilities(self, queries: Queries) -> F32:
        """Return calibrated utilities, float32 (n_queries, n_responses)."""
        return super().utilities(queries) * self.user_slopes_[queries.user][:, None]
