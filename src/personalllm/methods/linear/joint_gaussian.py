"""`joint-gaussian`: a new user's standings of responses, jointly Gaussian with those of the pool's users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from personalllm.core.types import F32, Histories, Queries
from personalllm.methods.base import Method, Need, fitting
from personalllm.methods.parts.features import FeatureMap
from personalllm.methods.parts.standings import Standings, Tastes, pool_weights, response_names

__all__ = ["JointGaussian"]

_NOISES = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
_MOST_USERS, _JUDGES, _UNTUNED = 2_000, 100, 1.0


@dataclass
class JointGaussian(Method):
    r"""Takes what people think of all responses as one Gaussian, and conditions it on what a new user compared.

    How a user ranks a response among those of its prompt is its standing. The standings of all responses are jointly
    Gaussian, with the mean and the covariance that the pool's users show. Where somebody of the pool ranked a response,
    its own column counts; a new response has the column that its text lets expect, by ridge regression of each user's
    standings on features of the embedding, which may come out as nothing. A new user's expected standings are then a
    sum of the pool's users, weighted so that it fits what the new user compared. The noise is that which predicts other
    users of the pool best on prompts held out. Differences of standings are no log-odds.

    It is at its best where many users ranked the same responses; where each compared prompts of their own, the columns
    are nearly empty and it does little more than the text says.

    Args:
        n_features: Principal components of the embedding, >= 1.
    """

    id: ClassVar[str] = "joint-gaussian"
    title: ClassVar[str] = "Joint Gaussian of all standings"
    paper: ClassVar[str] = (
        "Goldberg, Roeder, Gupta and Perkins, Eigentaste: a constant time collaborative filtering algorithm, "
        "Information Retrieval 4, 2001 (the same Gaussian, reduced to two dimensions)"
    )
    objective: ClassVar[str] = (
        "Squared error of the pool's standings, those on prompts held out for penalties and noise."
    )
    fitted_per_user: ClassVar[str] = "A weight for each user of the pool (at most 2,000), by one linear system."
    cost: ClassVar[str] = "For h responses that a user compared, O(h^3) and h products of the pool's size."
    needs: ClassVar[frozenset[Need]] = frozenset({"embedder"})

    n_features: int = 32

    def __post_init__(self) -> None:
        self.check_positive("n_features")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features."""
        return {"n_features": 8}

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Fit the Gaussian and its noise."""
        self.features_ = FeatureMap.fit(self.embedder, pool, self.n_features)
        standings = Standings.of(pool, self.features_, self.embedder)
        users = np.flatnonzero(np.diff(standings.offsets))
        users = users[np.unique(np.linspace(0, max(0, len(users) - 1), _MOST_USERS).astype(np.int64))[: len(users)]]
        standings = standings.where(np.ones(len(standings.user), np.bool_), users)
        self.noise_ = _noise(standings)
        self.tastes_ = Tastes.fit(standings)
        return self

    def adapt(self, histories: Histories) -> Self:
        """Weigh the pool's users for each target user."""
        standings = Standings.of(histories, self.features_, self.embedder)
        self.user_weights_ = pool_weights(self.tastes_, standings, self.noise_)
        return self

    def utilities(self, queries: Queries) -> F32:
        """Return expected standings, float32 (n_queries, n_responses)."""
        corpus, tastes = queries.corpus, self.tastes_
        result = np.zeros((len(queries), corpus.n_responses), np.float32)
        order = np.argsort(queries.prompt, kind="stable")
        prompts, starts = np.unique(queries.prompt[order], return_index=True)
        for prompt, rows in zip(prompts.tolist(), np.split(order, starts)[1:], strict=True):
            n = int(corpus.counts[prompt])
            keys = prompt * corpus.n_responses + np.arange(n, dtype=np.int64)
            names = response_names(corpus, keys)
            x = self.features_.of_keys(self.embedder, corpus, keys).astype(np.float64)
            x = x - x.mean(axis=0)
            users = queries.user[rows]
            standing = tastes.means(names, x) + self.user_weights_[users] @ tastes.columns(names, x)
            result[rows, :n] = standing
        return result


def _noise(standings: Standings) -> float:
    """Return the noise with which what some users of the pool compared is predicted best from what others did.

    A third of the users, at most 100, are judges: their order of responses to every fourth prompt is predicted from
    what they compared on the others, by the Gaussian of the other users.
    """
    users = np.arange(standings.n_users)
    judges = users[users % 3 == 0][:_JUDGES]
    teachers = np.setdiff1d(users, judges)
    is_held = np.isin(standings.prompt[standings.item], np.unique(standings.prompt)[3::4])
    tests, history = (standings.where(rows, judges) for rows in (is_held, ~is_held))
    if not len(tests.user) or len(teachers) < 2:
        return _UNTUNED
    tastes = Tastes.fit(standings.where(np.ones(len(is_held), np.bool_), teachers))
    items, place = np.unique(tests.item, return_inverse=True)
    names, x = tests.names[items], tests.features[items]
    means, columns = tastes.means(names, x), tastes.columns(names, x)

    def loss(noise: float) -> float:
        expected = (means + pool_weights(tastes, history, noise) @ columns)[tests.user, place.ravel()]
        return float(((tests.value - expected) ** 2).sum())

    return min(_NOISES, key=loss)
