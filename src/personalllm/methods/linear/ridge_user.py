"""`ridge-user`: one ridge regression for each user, about the pooled weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from personalllm.core.types import F32, F64, I64
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.held_out import HeldOut
from personalllm.methods.parts.linear_method import CalibratedMethod
from personalllm.methods.parts.logistic import newton_pooled, padded_blocks, sigmoid
from personalllm.methods.parts.low_rank import some_users

__all__ = ["RidgeUser", "Start"]

_RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass
class RidgeUser(CalibratedMethod):
    r"""Moves the pooled weights $w_0$ by one ridge regression: the fastest method that knows the user.

    $w_u = w_0 + (\frac14 \sum_i d_i d_i^\top + \rho I)^{-1} \sum_i \sigma(-w_0 \cdot d_i)\, d_i$ over the user's
    comparisons. It is one Newton step with the curvature of the log-likelihood replaced by its largest value 1/4
    (Boehning's bound), and no second step is taken. $\rho$ and a slope for each number of preferences are chosen on
    users and prompts held out.

    A preference of the best b over the worst w of $m + 2$ responses implies 2 m comparisons with the others o, whose
    mean is $\bar o$ and which weigh v each. Together $\sum_i d_i d_i^\top$ is $\frac{2 + v m}{2} (b - w)(b - w)^\top +
    \frac{v m}{2} (b + w - 2 \bar o)(b + w - 2 \bar o)^\top + 2 v \sum_o (o - \bar o)(o - \bar o)^\top$. For the last
    term its mean over the pool stands, so that a preference costs two rows, however many responses were shown.

    Args:
        n_features: Principal components of the embedding, >= 1; None for all.
        ridge: rho, > 0; None for the one of a grid that predicts best.
        text_measures: Whether to add the measures of the text and the cosine with the prompt.
    """

    id: ClassVar[str] = "ridge-user"
    title: ClassVar[str] = "Ridge regression per user"
    paper: ClassVar[str] = "Boehning, Multinomial logistic regression algorithm, Ann. Inst. Statist. Math. 44, 1992"
    objective: ClassVar[str] = (
        "The penalised log-likelihood of the pool under one linear utility, then the log-loss of users held out."
    )
    fitted_per_user: ClassVar[str] = "A vector of weights by one ridge regression about the pooled ones."
    cost: ClassVar[str] = (
        "One linear system of the size of twice the preferences or the features, whichever is smaller."
    )

    implied_count: ClassVar[float] = math.inf

    ridge: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("ridge", or_none=True)

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features, a given ridge."""
        return {"n_features": 8, "ridge": 2.0}

    def learn(self, pairs: Pairs) -> None:
        """Fit the pooled weights, then choose ridge and slopes."""
        super().learn(pairs)
        some = some_users(pairs)
        self.start_ = Start.of(some)
        parts, ridges = HeldOut.of(some), _RIDGES if self.ridge is None else (float(self.ridge),)
        self.ridge_ = ridges[len(ridges) // 2]
        if parts is None:
            return
        start, d = Start.of(parts.taught), parts.tests.differences()
        tried = []
        for ridge in ridges:

            def predict(history: Pairs, rho: float = ridge) -> F64:
                weights = start.moved(history, rho)[parts.tests.user]
                return np.asarray(np.einsum("nd,nd->n", d, weights, dtype=np.float64))

            slopes, loss = parts.slopes(predict)
            tried.append((loss, ridge, slopes))
        _, self.ridge_, self.slopes_ = min(tried, key=lambda row: row[0])

    def user_weights(self, pairs: Pairs) -> F32:
        """Return each user's weights."""
        return self.start_.moved(pairs, self.ridge_).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Start:
    r"""What the pool teaches: where users start, and how the responses between best and worst scatter.

    Attributes:
        shared: float64 (n_features,), the pooled weights $w_0$.
        axes: float64 (n_features, n_features), the axes of the scatter, orthonormal columns.
        scatter: float64 (n_features,), the variance of these responses within a prompt, along the axes.
    """

    shared: F64
    axes: F64
    scatter: F64

    @classmethod
    def of(cls, pairs: Pairs) -> Self:
        """Learn from the pool's comparisons."""
        shared, d = newton_pooled(pairs.given()), pairs.n_features
        _, others, between = _between(pairs)
        if not (others > 1).any():
            return cls(shared, np.eye(d), np.zeros(d))
        vectors = pairs.vectors.astype(np.float64)
        sums = between @ vectors / np.sqrt(np.maximum(1, others))[:, None]
        times = np.asarray(between.sum(axis=0)).ravel()
        squares = vectors.T @ (times[:, None] * vectors) - sums.T @ sums
        values, axes = np.linalg.eigh(squares / np.maximum(0, others - 1).sum())
        return cls(shared, axes, np.maximum(0.0, values))

    def moved(self, pairs: Pairs, ridge: float) -> F64:
        """Return each user's weights, float64 (n_users, n_features); the shared ones without comparisons."""
        vectors, utilities = pairs.vectors @ self.axes.astype(np.float32), pairs.vectors @ self.shared
        pull = sigmoid(utilities[pairs.rejected] - utilities[pairs.chosen])
        pull *= pairs.weights
        sides, signed = np.column_stack([pairs.chosen, pairs.rejected]), np.column_stack([pull, -pull])
        pulls = _sparse(signed, sides, 2 * pairs.offsets, len(vectors)) @ vectors
        rows, often = _rows(pairs, vectors)
        root = 1.0 / np.sqrt(ridge + often[:, None] * self.scatter)
        moves = root * pulls  # in axes in which the part without the rows is the identity
        for users, differences, _ in padded_blocks(rows):
            x = np.multiply(differences, root[users][:, None, :], out=differences)
            across, right = x.transpose(0, 2, 1), moves[users][:, :, None]
            if x.shape[1] < x.shape[2]:  # Woodbury
                right -= across @ np.linalg.solve(x @ across + np.eye(x.shape[1]), x @ right)
            else:
                right = np.linalg.solve(across @ x + np.eye(x.shape[2]), right)
            moves[users] = right[:, :, 0]
        return np.asarray(self.shared + (root * moves) @ self.axes.T)


def _sparse(values: NDArray[Any], columns: NDArray[Any], offsets: I64, width: int) -> Any:
    from scipy.sparse import csr_array

    return csr_array((values.ravel(), columns.ravel(), offsets), shape=(len(offsets) - 1, width))


def _between(pairs: Pairs) -> tuple[I64, I64, Any]:
    """Return of each preference its first row, how many responses lie between best and worst, and which, sparse."""
    first = np.flatnonzero(pairs.begins)
    others = (np.diff(first, append=len(pairs)) - 1) // 2
    offsets = np.concatenate([[0], np.cumsum(others)])
    # the rows after the first one: the best against each of the others, then each of them against the worst
    row = np.arange(offsets[-1]) + np.repeat(first + 1 - offsets[:-1], others)
    between = _sparse(np.ones(len(row), np.float32), pairs.rejected[row], offsets, len(pairs.vectors))
    return first, others, between


def _rows(pairs: Pairs, vectors: F32) -> tuple[Pairs, F64]:
    """Return the rows of each preference as differences of its user, and how often the scatter counts for each user."""
    first, others, between = _between(pairs)
    n, each = len(first), 2 if others.any() else 1
    # of what a preference implies each row weighs the same; one that implies nothing has no such row
    weight = np.where(others > 0, pairs.weights[np.minimum(first + 1, len(pairs) - 1)], 0.0)
    factors = [np.sqrt((2.0 + weight * others) / 8.0), np.sqrt(weight * others / 8.0)]
    best, worst = vectors[pairs.chosen[first]], vectors[pairs.rejected[first]]
    rows = np.zeros((each * n + 1, vectors.shape[1]), np.float32)
    np.multiply(best - worst, factors[0].astype(np.float32)[:, None], out=rows[:n])
    if each == 2:
        middle = between @ vectors
        middle *= (-2 / np.maximum(1, others)).astype(np.float32)[:, None]
        middle += best
        middle += worst
        np.multiply(middle, factors[1].astype(np.float32)[:, None], out=rows[n : 2 * n])
    row = np.add.outer(np.arange(n), n * np.arange(each)).ravel()
    user, prompt = (np.repeat(column[first], each) for column in (pairs.user, pairs.prompt))
    offsets = np.searchsorted(user, np.arange(pairs.n_users + 1)).astype(np.int64)
    often = np.bincount(pairs.user[first], 0.5 * weight * np.maximum(0, others - 1), pairs.n_users)
    return Pairs(rows, row, np.full(each * n, each * n), user, prompt, offsets), np.asarray(often, np.float64)
