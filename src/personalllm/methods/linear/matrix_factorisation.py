"""`matrix-factorisation`: collaborative filtering with factors for users and responses; new responses by regression."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from personalllm.core.types import F32, F64, Histories, Queries
from personalllm.methods.base import fitting
from personalllm.methods.parts.factors import Factors, fit_factors, held_out, held_out_loss, population
from personalllm.methods.parts.features import FeatureMap, Pairs, used_responses
from personalllm.methods.parts.learner import PreferenceLearner
from personalllm.methods.parts.linear_method import moderated_scores
from personalllm.methods.parts.logistic import newton_map
from personalllm.methods.parts.standings import Names, response_names

__all__ = ["MatrixFactorisation"]

_PENALTIES = (1000.0, 100.0, 30.0, 10.0, 3.0, 1.0)
_SIZES = (2, 4, 8)
_UNTUNED, _LEAST_TUNED = 10.0, 100
_TUNED_ON, _LEARNT_FROM = 300, 2_000


@dataclass
class MatrixFactorisation(PreferenceLearner):
    r"""Factors the users' comparisons into factors of users and factors of responses.

    The utility of response j for user u is $b_j + p_u \cdot q_j$. Classical factorisation knows nothing of a response
    that nobody has compared. Here $b_j = \beta \cdot x_j + \epsilon_j$ and $q_j = W^\top x_j + \delta_j$: a linear
    function of the features x plus a deviation of the response's own, which is 0 for an unknown response; a response is
    known by the texts of it and its prompt. $\beta$, W, the deviations and the pool's p maximise the penalised
    Bradley-Terry likelihood. The number of factors and the penalty of $\beta$ and W are those that best predict the
    comparisons of a fifth of the prompts, held out; a pool that holds out fewer than 100 comparisons gets few factors
    and a strong penalty instead. A Gaussian over $(c_u, p_u)$, $c_u$ the weight of the consensus b, is then fitted to
    the pool, and a new user gets its posterior with the responses' factors held fixed. Predictions average over the
    posterior.

    Args:
        n_factors: Most factors besides the consensus, >= 1.
        n_features: Principal components of the embedding, >= 1.
        deviation_penalty: On the squares of the deviations, > 0; the larger, the more alike are responses with like
            features.
    """

    id: ClassVar[str] = "matrix-factorisation"
    title: ClassVar[str] = "Matrix factorisation"
    paper: ClassVar[str] = (
        "Koren, Bell and Volinsky, Matrix factorization techniques for recommender systems, Computer 42, 2009; "
        "Agarwal and Chen, Regression-based latent factor models, KDD 2009 (factors of unknown items by regression)"
    )
    objective: ClassVar[str] = (
        "The pool's Bradley-Terry likelihood, penalised by the squares of the factors, jointly over the factors of "
        "users and of responses."
    )
    fitted_per_user: ClassVar[str] = "A Gaussian posterior of n_factors + 1 weights: a maximum and a Hessian."
    cost: ClassVar[str] = (
        "About six Newton steps for a user in at most n_factors + 1 dimensions; the pool costs some twenty L-BFGS runs "
        "of at most 80 sparse products each, all but one on 300 users."
    )
    n_factors: int = 8
    n_features: int = 64
    deviation_penalty: float = 10.0

    def __post_init__(self) -> None:
        self.check_positive("n_factors", "n_features")
        self.check_number("deviation_penalty")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few factors of few features."""
        return {"n_factors": 4, "n_features": 16}

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Factor the pool's comparisons, then fit the population of user factors."""
        self.features_ = FeatureMap.fit(self.embedder, pool, self.n_features)
        pairs, self.names_ = _by_text(*self._comparisons(pool))
        pairs = pairs.of_users(np.flatnonzero(pairs.counts)[:_LEARNT_FROM])
        width = 1 + self.n_factors
        if not len(pairs):
            self.slopes_, self.deviations_ = np.zeros((pairs.n_features, width)), np.zeros((len(self.names_), width))
            self.mean_, self.spread_ = np.eye(width)[0], np.eye(width)
            return self
        factors = self._factors(pairs)
        self.slopes_, self.deviations_ = factors.slopes, factors.deviations
        self.mean_, self.spread_ = population(factors.of(pairs))
        return self

    def _factors(self, pairs: Pairs) -> Factors:
        """Return the factors whose number and penalty predict best what is held out of some users' comparisons."""
        train, test = held_out(pairs.of_users(np.arange(min(_TUNED_ON, pairs.n_users))))
        if min(len(train), len(test)) < _LEAST_TUNED:
            self.size_, self.penalty_ = min(_SIZES[0], self.n_factors), _UNTUNED
            return fit_factors(pairs, self.size_, self.penalty_, self.deviation_penalty)
        sizes = [size for size in _SIZES if size < self.n_factors] + [self.n_factors]
        grid = [(size, penalty) for size in sizes for penalty in _PENALTIES]
        losses = [
            held_out_loss(fit_factors(train, *settings, self.deviation_penalty), train, test) for settings in grid
        ]
        self.size_, self.penalty_ = grid[int(np.argmin(losses))]
        return fit_factors(pairs, self.size_, self.penalty_, self.deviation_penalty)

    def adapt(self, histories: Histories) -> Self:
        """Find each target user's posterior."""
        pairs, names = self._comparisons(histories)
        pairs = pairs.with_vectors(self._items(pairs.vectors, names).astype(np.float32))
        posterior = newton_map(pairs, self.mean_, np.linalg.inv(self.spread_), covariance="each")
        self.user_mean_ = posterior.mean
        self.user_spread_ = posterior.covariance.astype(np.float32)
        return self

    def utilities(self, queries: Queries) -> F32:
        """Return moderated utilities, float32 (n_queries, n_responses); their differences are log-odds."""
        candidates, index = self.features_.candidates(self.embedder, queries)
        width = queries.corpus.n_responses
        keys = (np.unique(queries.prompt).astype(np.int64)[:, None] * width + np.arange(width)).ravel()
        features = candidates.reshape(len(keys), candidates.shape[2])
        items = self._items(features, response_names(queries.corpus, keys)).astype(np.float32)
        shape = (*candidates.shape[:2], items.shape[1])
        return moderated_scores(self.user_mean_, self.user_spread_, items.reshape(shape), index, queries.user)

    def _comparisons(self, histories: Histories) -> tuple[Pairs, Names]:
        """Return what is learned from, and the names of the distinct responses, in the order of their vectors."""
        pairs = self.features_.pairs(self.embedder, histories, together=self.together)
        of = histories.implied()[0] if self.together else histories
        return pairs, response_names(histories.corpus, used_responses(of)[0])

    def _items(self, features: F32, names: Names) -> F64:
        """Return the factors of responses, float64 (n, 1 + n_factors), with the deviations of those that are known."""
        items = features.astype(np.float64) @ self.slopes_
        index = np.searchsorted(self.names_, names)
        train = np.flatnonzero(index < len(self.names_))
        train = train[self.names_[index[train]] == names[train]]
        items[train] += self.deviations_[index[train]]
        return np.asarray(items)


def _by_text(pairs: Pairs, names: Names) -> tuple[Pairs, Names]:
    """Return the comparisons with equal texts of a prompt as one response, and the distinct names, ascending."""
    distinct, first, index = np.unique(names, return_index=True, return_inverse=True)
    index = index.ravel().astype(np.int64)
    chosen, rejected = index[pairs.chosen], index[pairs.rejected]
    return replace(pairs, vectors=pairs.vectors[first], chosen=chosen, rejected=rejected), distinct
