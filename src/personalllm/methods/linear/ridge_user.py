"""`ridge-user`: one ridge regression for each user, about the pooled weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from personalllm.core.types import F32, F64, Histories, Queries
from personalllm.methods.parts.features import FeatureMap, Pairs
from personalllm.methods.parts.held_out import SHOTS, HeldOut, user_slopes
from personalllm.methods.parts.linear_method import LinearMethod
from personalllm.methods.parts.logistic import newton_pooled, padded_blocks, sigmoid
from personalllm.methods.parts.low_rank import some_users
from personalllm.methods.parts.surface import TextFeatureMap

__all__ = ["RidgeUser"]

_MOST_USERS = 1_000
_RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass
class RidgeUser(LinearMethod):
    r"""Moves the pooled weights $w_0$ by one ridge regression: the fastest method that knows the user.

    $w_u = w_0 + (\frac14 \sum_i d_i d_i^\top + \rho I)^{-1} \sum_i \sigma(-w_0 \cdot d_i)\, d_i$ over the user's
    comparisons. It is one Newton step with the curvature of the log-likelihood replaced by its largest value 1/4
    (Boehning's bound), so it cannot overshoot, and no second step is taken. $\rho$ and a slope for each number of
    preferences are chosen on users and prompts held out.

    Args:
        n_features: Principal components of the embedding, >= 1; None for all.
        ridge: rho, > 0; None for the one of a grid that predicts best.
        implied: Whether to use what the best and the worst of several responses say about the others.
        text_measures: Whether to add the measures of the text and the cosine with the prompt.
    """

    id: ClassVar[str] = "ridge-user"
    title: ClassVar[str] = "Ridge regression per user"
    paper: ClassVar[str] = "Boehning, Multinomial logistic regression algorithm, Ann. Inst. Statist. Math. 44, 1992"
    objective: ClassVar[str] = (
        "The penalised log-likelihood of the pool under one linear utility, then the log-loss of users held out."
    )
    fitted_per_user: ClassVar[str] = "A vector of weights by one ridge regression about the pooled ones."
    cost: ClassVar[str] = "One linear system of the size of the comparisons or the features, whichever is smaller."

    ridge: float | None = None
    implied: bool = True
    text_measures: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ridge is not None:
            self.check_number("ridge")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features, a given ridge."""
        return {"n_features": 8, "ridge": 2.0}

    def make_features(self, pool: Histories) -> FeatureMap:
        """Return the components and, unless switched off, the measures of the text."""
        kind = TextFeatureMap if self.text_measures else FeatureMap
        return kind.fit(self.embedder, pool, self.n_features)

    def comparisons(self, histories: Histories) -> Pairs:
        """Return the comparisons that were made and, unless switched off, those that are implied."""
        return self.features_.pairs(self.embedder, histories, implied=self.implied)

    def learn(self, pairs: Pairs) -> None:
        """Fit the pooled weights, then choose ridge and slopes."""
        some = some_users(pairs, _MOST_USERS)
        self.shared_ = newton_pooled(some.given())
        parts, ridges = HeldOut.of(some), _RIDGES if self.ridge is None else (float(self.ridge),)
        self.ridge_, self.slopes_ = ridges[len(ridges) // 2], np.ones(len(SHOTS))
        if parts is None:
            return
        shared, d = newton_pooled(parts.taught.given()), parts.tests.differences()
        tried = []
        for ridge in ridges:

            def predict(history: Pairs, rho: float = ridge) -> F64:
                weights = _moved(history, shared, rho)[parts.tests.user]
                return np.asarray(np.einsum("nd,nd->n", d, weights, dtype=np.float64))

            slopes, loss = parts.slopes(predict)
            tried.append((loss, ridge, slopes))
        _, self.ridge_, self.slopes_ = min(tried, key=lambda row: row[0])

    def user_weights(self, pairs: Pairs) -> F32:
        """Return each user's weights, and keep the slopes."""
        self.user_slopes_ = user_slopes(self.slopes_, pairs.n_preferences)
        return _moved(pairs, self.shared_, self.ridge_).astype(np.float32)

    def utilities(self, queries: Queries) -> F32:
        """Return calibrated utilities, float32 (n_queries, n_responses)."""
        return super().utilities(queries) * self.user_slopes_[queries.user][:, None]


def _moved(pairs: Pairs, shared: F64, ridge: float) -> F64:
    """Return each user's weights, float64 (n_users, n_features); the shared ones without comparisons."""
    weights = np.tile(shared, (pairs.n_users, 1))
    for users, x, there in padded_blocks(pairs):
        rest = there * sigmoid(-(x @ shared))
        across = x.transpose(0, 2, 1)
        if x.shape[1] < x.shape[2]:  # as many unknowns as comparisons, if these are fewer than features
            system = 0.25 * (x @ across) + ridge * np.eye(x.shape[1])
            weights[users] += (across @ np.linalg.solve(system, rest[:, :, None]))[:, :, 0]
        else:
            system = 0.25 * (across @ x) + ridge * np.eye(x.shape[2])
            weights[users] += np.linalg.solve(system, across @ rest[:, :, None])[:, :, 0]
    return weights
