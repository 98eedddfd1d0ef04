"""`rm-mixture`: a user is a mixture of the reward models, whose scores are given; an upper bound, never by default."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from personalllm.core.seeding import generator
from personalllm.core.types import F32, F64, I32, I64, Histories, Queries
from personalllm.methods.base import Need, fitting
from personalllm.methods.parts.beliefs import Belief
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.learner import PreferenceLearner
from personalllm.methods.parts.particles import learned, log_likelihoods, posterior, vote
from personalllm.methods.parts.posterior import Posterior

__all__ = ["RMMixture"]

_CONCENTRATIONS = (0.05, 0.3, 1.0)
_SCALES = (1.0, 3.0, 8.0, 24.0)
_FLAT_VOTES = 1.0
_EM_STEPS = 30
_LEARNT_FROM = 1_000


@dataclass
class RMMixture(Posterior, PreferenceLearner):
    r"""Finds which mixture of reward models a user is, from the models' own scores of the responses.

    The utility is $u = \beta\, w \cdot s(x)$ with s the standardised scores, $|w|$ on the simplex and $\beta$ how sure
    the user's choices are. The prior over $(w, \beta)$ is discrete: each reward model alone and draws from Dirichlet
    distributions of several concentrations, with several $\beta$; the same with random signs, for users who dislike
    what a reward model likes; and one taste that is indifferent. Their shares are learned from the pool by maximum
    likelihood (EM for a mixture with known components, which is convex). A user's posterior is exact, and a pair is
    predicted by the posterior mean of the probability.

    It knows the scores that simulated users are made of. What it reaches is what is left to gain once the response's
    features are perfect, not what can be learned from texts; so a protocol must allow it (`reward_signals`).

    Args:
        n_mixtures: Draws of weights, >= 1; a taste is one of them, with its signs or without, and one of four $\beta$.
    """

    id: ClassVar[str] = "rm-mixture"
    title: ClassVar[str] = "Mixture of reward models"
    paper: ClassVar[str] = ""
    objective: ClassVar[str] = (
        "Maximum likelihood of the shares of a fixed set of mixtures of reward models over the pool's comparisons "
        "(non-parametric empirical Bayes)."
    )
    fitted_per_user: ClassVar[str] = "The exact posterior over the mixtures."
    cost: ClassVar[str] = (
        "One product of k score differences with the mixtures for a new user, and one vote of the mixtures for each "
        "pair that is predicted."
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"signals"})

    n_mixtures: int = 500

    def __post_init__(self) -> None:
        self.check_positive("n_mixtures")

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Learn how common each mixture is."""
        self.tastes_ = self._tastes(len(self.signals.reward_models))
        pairs = self._pairs(pool)
        pairs = pairs.of_users(np.flatnonzero(pairs.counts)[:_LEARNT_FROM])
        self.log_prior_ = np.log(_shares(log_likelihoods(pairs, self.tastes_)))
        return self

    def adapt(self, histories: Histories) -> Self:
        """Find each target user's posterior."""
        self.shares_ = posterior(self.log_prior_, log_likelihoods(self._pairs(histories), self.tastes_))
        return self

    def utilities(self, queries: Queries) -> F32:
        """Return scores, float32 (n_queries, n_responses); their differences are log-odds."""
        return vote(self.shares_, self.tastes_, *self.tastes(queries), queries.user)

    def tastes(self, queries: Queries) -> tuple[F32, I64]:
        """Return the scores of all responses."""
        width = queries.corpus.n_responses
        query_prompts, index = np.unique(queries.prompt, return_inverse=True)
        columns = np.tile(np.arange(width, dtype=np.uint8), len(query_prompts))
        scores = self.signals.vectors(np.repeat(query_prompts, width).astype(np.int32), columns)
        return scores.reshape(len(query_prompts), width, scores.shape[1]), index.ravel().astype(np.int64)

    def known(self, histories: Histories) -> Pairs:
        """Return the comparisons in the scores."""
        return self._pairs(histories)

    def belief(self, pairs: Pairs, before: Belief | None = None) -> Belief:
        """Return the exact posterior over the mixtures."""
        return learned(self.tastes_, self.log_prior_, pairs, before)

    def without_prior(self) -> Self:
        """Return a copy for which all mixtures are equally common."""
        flat = copy(self)
        flat.log_prior_ = np.zeros(len(self.tastes_))
        return flat

    def predict(self, belief: Belief, tastes: F32, index: I64, user: I32) -> F32:
        """Return the scores of the mixtures' vote."""
        return vote(belief.shares, self.tastes_, tastes, index, user)

    def _tastes(self, n: int) -> F64:
        """Return the weights of all tastes, float64 (n_tastes, n_reward_models)."""
        rng = generator(self.seed, "rm-mixture", n)
        drawn: list[Any] = [np.eye(n), np.full((1, n), 1.0 / n)]
        each = -(-self.n_mixtures // len(_CONCENTRATIONS))
        drawn += [rng.dirichlet(np.full(n, concentration), each) for concentration in _CONCENTRATIONS]
        mixtures = np.concatenate(drawn)
        weights = np.concatenate([mixtures, mixtures * rng.choice([-1.0, 1.0], mixtures.shape)])
        return np.concatenate([np.zeros((1, n)), *(scale * weights for scale in _SCALES)])

    def _pairs(self, histories: Histories) -> Pairs:
        """Return what is learned from, in the scores."""
        histories, preference = histories.implied() if self.together else (histories, None)
        n = len(histories)
        prompts = np.concatenate([histories.prompt, histories.prompt])
        scores = self.signals.vectors(prompts, np.concatenate([histories.chosen, histories.rejected]))
        rows = np.arange(2 * n, dtype=np.int64)
        sides = rows[:n], rows[n:]
        pairs = Pairs(scores, *sides, histories.user, histories.prompt, histories.offsets, preference)
        return pairs.counting(self.together)


def _shares(log_likelihood: F64) -> F64:
    """Return the shares of the tastes, float64 (n_tastes,), with one user's worth of votes spread evenly."""
    n_users, n = log_likelihood.shape
    shares = np.full(n, 1.0 / n)
    if n_users:
        for _ in range(_EM_STEPS):
            votes = posterior(np.log(shares), log_likelihood).sum(axis=0)
            shares = (votes + _FLAT_VOTES / n) / (n_users + _FLAT_VOTES)
    return shares
