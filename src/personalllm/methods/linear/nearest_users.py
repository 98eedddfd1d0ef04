"""`nearest-users`: predict as those pool users would whose tastes agree best with what this user preferred."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from personalllm.core.types import F32, F64, Histories, Queries
from personalllm.methods.base import fitting
from personalllm.methods.parts.features import FeatureMap, Pairs
from personalllm.methods.parts.learner import PreferenceLearner
from personalllm.methods.parts.logistic import newton_map, newton_pooled
from personalllm.methods.parts.particles import log_likelihoods, posterior, vote

__all__ = ["NearestUsers"]

_PRECISIONS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
_EVERY, _FEWEST_JUDGES, _MOST_ASKED, _MOST_WEIGHED = 5, 10, 200, 100
_LEAST_PROBABILITY = 1e-6
_LEAST_GAIN = 0.1
"""Nats of a user's comparisons that differing must be worth, for the evidence to decide how much users differ."""


@dataclass
class NearestUsers(PreferenceLearner):
    r"""Lets pool users vote, each with the weight with which the target user's comparisons speak for them.

    Two users rarely see the same pair, so agreement is judged by models: each pool user v gets weights $w_v$ (per-user
    Bradley-Terry fit, shrunk towards the pooled one). The target user's comparisons $d_i$ give v the weight
    $\pi_v \propto \exp(\frac{1}{T} \sum_i \log \sigma(w_v \cdot d_i))$, and a pair is predicted by the vote
    $P_{ab} = \sum_v \pi_v \sigma(w_v \cdot (x_a - x_b))$. Without comparisons every pool user has the same vote.

    T is the one that best predicts the second half of a pool user's comparisons from the first half, over a fifth of
    the pool's users who have no vote meanwhile. As long as it predicts these better, pool users' tastes are fitted once
    more about the mean of their own neighbours' tastes instead of the pooled one.

    Args:
        n_neighbours: Only so many pool users vote, those of largest weight (and their ties); None for all, whose
            weights fall off by themselves.
        n_features: Principal components of the embedding, >= 1.
        max_pool_users: The first so many users of the pool may vote.
        smoothings: How often, at most, tastes are fitted again about the neighbours' mean, >= 1.
    """

    id: ClassVar[str] = "nearest-users"
    title: ClassVar[str] = "Nearest users"
    paper: ClassVar[str] = (
        "Resnick et al., GroupLens: an open architecture for collaborative filtering of netnews, CSCW 1994 (neighbours "
        "vote); the weights by likelihood are this package's"
    )
    objective: ClassVar[str] = (
        "No joint objective: each pool user's regularised Bradley-Terry likelihood; the temperature and the smoothing "
        "by the held-out log-loss of pool users."
    )
    fitted_per_user: ClassVar[str] = "One weight for each pool user: how well their taste explains the comparisons."
    cost: ClassVar[str] = (
        "One product of k differences with the pool users' weights for a new user, and one vote of the pool for each "
        "pair that is predicted; linear in the number of pool users."
    )
    n_neighbours: int | None = None
    n_features: int = 64
    max_pool_users: int = 1_000
    smoothings: int = 3

    def __post_init__(self) -> None:
        self.check_positive("n_features", "max_pool_users", "smoothings")
        self.check_positive("n_neighbours", or_none=True)

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Fit the pool users' tastes and the temperature."""
        self.features_ = FeatureMap.fit(self.embedder, pool, self.n_features)
        pairs = self.features_.pairs(self.embedder, pool, together=self.together)
        pairs = pairs.of_users(np.flatnonzero(pairs.counts)[: self.max_pool_users])
        if not len(pairs):
            self.tastes_, self.temperature_ = np.zeros((1, pairs.n_features)), 1.0
            return self
        number = np.arange(pairs.n_users)
        judges = pairs.of_users(number[number % _EVERY == _EVERY - 1][:_MOST_ASKED])
        voters = pairs.of_users(number[number % _EVERY != _EVERY - 1])
        precision = _precision(voters, judges)
        temperatures = self._temperatures(voters, judges, precision)
        self.tastes_, self.temperature_ = _tastes(pairs, precision=precision), temperatures[-1]
        for temperature in temperatures[:-1]:
            self.tastes_ = _tastes(pairs, _centres(pairs, self.tastes_, temperature))
        return self

    def _temperatures(self, voters: Pairs, judges: Pairs, precision: float | None) -> list[float]:
        """Return the temperature of each smoothing that is worth it, then the one of the prediction."""
        if not len(judges):
            return [1.0]
        chosen: list[float] = []
        least, tastes = np.inf, _tastes(voters, precision=precision)
        for _ in range(1 + self.smoothings):
            temperature, loss = _temperature(judges, tastes)
            if loss >= least:
                break
            chosen.append(temperature)
            least, tastes = loss, _tastes(voters, _centres(voters, tastes, temperature))
        return chosen

    def adapt(self, histories: Histories) -> Self:
        """Weigh the pool users by agreement."""
        pairs = self.features_.pairs(self.embedder, histories, together=self.together)
        agreement = log_likelihoods(pairs, self.tastes_) / self.temperature_
        if self.n_neighbours is not None and self.n_neighbours < len(self.tastes_):
            least = -np.partition(-agreement, self.n_neighbours - 1, axis=1)[:, self.n_neighbours - 1]
            agreement = np.where(agreement >= least[:, None], agreement, -np.inf)
        self.shares_ = posterior(0.0, agreement)
        return self

    def utilities(self, queries: Queries) -> F32:
        """Return scores, float32 (n_queries, n_responses); their differences are log-odds."""
        candidates, index = self.features_.candidates(self.embedder, queries)
        return vote(self.shares_, self.tastes_, candidates, index, queries.user)


def _tastes(pairs: Pairs, centres: F64 | None = None, precision: float | None = None) -> F64:
    """Return each user's weights, shrunk towards a centre.

    Args:
        pairs: The comparisons.
        centres: float64 (n_users, n_features); None for the pooled weights.
        precision: How strongly; None: as makes the comparisons most probable.
    """
    about = newton_pooled(pairs) if centres is None else centres
    if precision is None:
        precision = _PRECISIONS[int(np.argmax(_evidence(pairs, about)))]
    return newton_map(pairs, about, precision).mean


def _evidence(pairs: Pairs, about: F64) -> F64:
    """Return the log probability of comparisons about a centre, mean of some users, float64, for each precision."""
    sample = pairs.of_users(np.arange(min(_MOST_WEIGHED, pairs.n_users))).given()
    near = about if about.ndim == 1 else about[: sample.n_users]
    return np.array([newton_map(sample, near, precision).log_evidence.mean() for precision in _PRECISIONS])


def _precision(voters: Pairs, judges: Pairs) -> float | None:
    """Return the precision about the pooled weights whose tastes predict best; None to go by the evidence.

    The evidence is of users who differ alike in all directions. Where they differ in few, it gains next to nothing by
    letting them differ, and all voters would vote the same; then their votes on judges' comparisons decide, if there
    are enough judges to say anything.
    """
    if judges.n_users < _FEWEST_JUDGES:
        return None
    about = newton_pooled(voters)
    evidence = _evidence(voters, about)
    if evidence.max() - evidence[-1] >= _LEAST_GAIN:
        return None
    losses = [_temperature(judges, newton_map(voters, about, precision).mean)[1] for precision in _PRECISIONS]
    return _PRECISIONS[int(np.argmin(losses))]


def _centres(pairs: Pairs, tastes: F64, temperature: float) -> F64:
    """Return the mean taste of each user's neighbours, the user left out, float64 (n_users, n_features)."""
    if len(tastes) < 2:
        return tastes
    agreement = log_likelihoods(pairs, tastes) / temperature
    np.fill_diagonal(agreement, -np.inf)
    return np.asarray(posterior(0.0, agreement) @ tastes)


def _halves(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Return the first half of each user's preferences, with what they imply, and the second half, without."""
    late = pairs.places >= pairs.n_preferences[pairs.user] // 2
    return pairs.where(~late), pairs.where(late).given()


def _temperature(judges: Pairs, tastes: F64) -> tuple[float, float]:
    """Return the temperature at which the tastes' votes best predict users' second halves, and the log-loss there."""
    train, test = _halves(judges)
    agreement = log_likelihoods(train, tastes)
    votes = 0.5 + 0.5 * np.tanh(0.5 * (test.differences().astype(np.float64) @ tastes.T))
    won = [np.einsum("nt,nt->n", posterior(0.0, agreement / t)[test.user], votes) for t in _TEMPERATURES]
    losses = [float(-np.log(np.maximum(p, _LEAST_PROBABILITY)).mean()) for p in won]
    best = int(np.argmin(losses))
    return _TEMPERATURES[best], losses[best]
