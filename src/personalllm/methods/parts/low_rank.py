r"""Low-rank utilities: $u = w_u^\top B^\top x$ with a basis B that users share and few weights $w_u$ for each user."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personalllm.core.seeding import generator
from personalllm.core.types import F64, I64
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.logistic import (
    best_ridge,
    log_sigmoid,
    newton_map,
    newton_pooled,
    padded_blocks,
    sigmoid,
)
from personalllm.methods.parts.simplex import climb_simplex, spread_along

__all__ = [
    "as_one_user",
    "fit_basis",
    "in_basis",
    "simplex_laplace",
    "simplex_map",
    "some_users",
    "start_points",
    "start_weights",
]

_MOST_USERS, _MOST_COMPARISONS = 1_000, 200_000
_CG_STEPS = 12  # a truncated Newton step need not be exact: it is an ascent direction after any number of them
_CURVATURE_ROWS = (
    50_000  # nor need its curvature, for which so many comparisons stand (Byrd et al., SIAM J. Optim. 2011)
)
_HALVINGS = 12


def some_users(pairs: Pairs, n_users: int = _MOST_USERS) -> Pairs:
    """Return at most n_users of those with comparisons, evenly spread, and at most 200,000 comparisons of theirs."""
    users = np.flatnonzero(pairs.counts)
    spread = np.linspace(0, len(users) - 1, min(len(users), n_users)).astype(np.int64)
    some = pairs.of_users(users[spread])
    return some.first(max(1, _MOST_COMPARISONS // max(1, some.n_users)))


def as_one_user(pairs: Pairs) -> Pairs:
    """Return the comparisons as if one user had made them all."""
    user, offsets = np.zeros_like(pairs.user), np.array([0, len(pairs)], dtype=np.int64)
    return replace(pairs, user=user, offsets=offsets)


def in_basis(pairs: Pairs, basis: F64) -> Pairs:
    """Return the comparisons with the features B^T x, basis float64 (n_features, rank)."""
    return pairs.with_vectors((pairs.vectors @ basis).astype(np.float32))


def start_weights(pairs: Pairs) -> F64:
    """Return each user's weights on the features, shrunk towards the pooled ones, float64 (n_users, n_features)."""
    shared = newton_pooled(pairs, 1.0)
    return newton_map(pairs, shared, best_ridge(pairs, shared)).mean


def start_points(weights: F64, rank: int) -> F64:
    """Return `rank` extreme points of the users' weights, float64 (n_features, rank).

    Successive projection: in the subspace of the leading rank - 1 principal components, take the point farthest from
    the affine hull of those taken so far, beginning with the one farthest from the mean.
    """
    centre = weights.mean(axis=0)
    _, _, axes = np.linalg.svd(weights - centre, full_matrices=False)
    axes = axes[: max(1, rank - 1)]
    points = (weights - centre) @ axes.T
    left = points.copy()
    extreme: list[int] = []
    for i in range(rank):
        extreme.append(int((left**2).sum(axis=1).argmax()))
        if i == 0:
            left = points - points[extreme[0]]
            continue
        direction = left[extreme[-1]] / max(1e-12, float(np.linalg.norm(left[extreme[-1]])))
        left = left - np.outer(left @ direction, direction)
    return np.asarray((centre + points[extreme] @ axes).T)


class _Bilinear:
    r"""The map from a basis to the logits $d_i^\top B w_{u(i)}$, and its transpose.

    Both go through the distinct responses, of which there are far fewer than comparisons.
    """

    def __init__(self, pairs: Pairs, weights: F64) -> None:
        from personalllm.methods.parts import pair_kernels

        self.x: F64 = pairs.vectors.astype(np.float64)
        self.weights = np.ascontiguousarray(weights, dtype=np.float64)
        self.rows: tuple[NDArray[Any], ...] = (pairs.chosen, pairs.rejected, pairs.user)
        self.margins, self.pull_back = pair_kernels.margins, pair_kernels.pull_back

    def some(self, rows: I64) -> _Bilinear:
        """Return the map to the logits of some rows."""
        part = copy(self)
        part.rows = tuple(column[rows] for column in self.rows)
        return part

    def __call__(self, basis: F64) -> F64:
        """Return the logits, float64 (n,), of a basis, float64 (n_features, rank)."""
        out = np.empty(len(self.rows[0]))
        self.margins(np.ascontiguousarray(self.x @ basis), *self.rows, self.weights, out)
        return out

    def transposed(self, values: F64) -> F64:
        """Return the gradient, float64 (n_features, rank), of the sum of values, (n,), times logits."""
        out = np.zeros((len(self.x), self.weights.shape[1]))
        self.pull_back(values, *self.rows, self.weights, out)
        return np.asarray(self.x.T @ out)


def fit_basis(pairs: Pairs, weights: F64, basis: F64, ridge: float, steps: int = 4) -> F64:
    r"""Raise $\sum_i \log\sigma(d_i^\top B w_{u(i)}) - \rho |B|^2 / 2$ over B by truncated Newton steps.

    Args:
        pairs: The comparisons.
        weights: float64 (n_users, rank), held fixed.
        basis: Where to start, float64 (n_features, rank).
        ridge: rho.
        steps: Newton steps, each solved by at most 12 steps of conjugate gradients.
    """
    bilinear = _Bilinear(pairs, weights)
    logits, counted = bilinear(basis), pairs.weights
    part, n = bilinear, len(pairs)
    rows = np.arange(n)
    if n > _CURVATURE_ROWS:
        rows = np.sort(generator("curvature", n).choice(n, _CURVATURE_ROWS, replace=False))
        part = bilinear.some(rows)
    value = float((counted * log_sigmoid(logits)).sum()) - 0.5 * ridge * float((basis**2).sum())
    for _ in range(steps):
        p = sigmoid(logits)
        gradient = bilinear.transposed(counted * (1.0 - p)) - ridge * basis
        step = _conjugate_gradients(part, (n / len(rows)) * (counted * p * (1.0 - p))[rows], gradient, ridge)
        along = bilinear(step)
        size = 1.0
        for _ in range(_HALVINGS):
            new, new_logits = basis + size * step, logits + size * along
            there = float((counted * log_sigmoid(new_logits)).sum()) - 0.5 * ridge * float((new**2).sum())
            if there >= value:
                break
            size *= 0.5
        else:
            break
        gain, basis, logits, value = there - value, new, new_logits, there
        if gain <= 1e-6 * abs(value):
            break
    return basis


def _conjugate_gradients(bilinear: _Bilinear, curvature: F64, gradient: F64, ridge: float) -> F64:
    """Solve H S = gradient roughly; return S."""
    step = np.zeros_like(gradient)
    residual = gradient.copy()
    direction = residual.copy()
    size = float((residual**2).sum())
    goal = 1e-4 * size
    for _ in range(_CG_STEPS):
        if size <= goal or size == 0.0:
            break
        product = bilinear.transposed(curvature * bilinear(direction)) + ridge * direction
        rate = size / float((direction * product).sum())
        step += rate * direction
        residual -= rate * product
        new = float((residual**2).sum())
        direction = residual + (new / size) * direction
        size = new
    return step


def simplex_map(pairs: Pairs, prior: F64, *, max_steps: int = 60) -> F64:
    r"""Fit each user's weights on the simplex: $\arg\max_w \sum_i \log\sigma(w \cdot d_i) + \sum_j c_j \log w_j$.

    The second term is a Dirichlet prior with parameters 1 + c. Newton steps under the constraint that the weights sum
    to 1, cut so that all stay positive (see `climb_simplex`).

    Args:
        pairs: The comparisons, features in the basis.
        prior: c, float64 (rank,), > 0.
        max_steps: Most Newton steps.

    Returns:
        float64 (n_users, rank), rows sum to 1; c / sum(c) for a user without comparisons.
    """
    weights = np.tile(prior / prior.sum(), (pairs.n_users, 1))
    for users, x, there in padded_blocks(pairs):
        weights[users] = climb_simplex(x, there, prior, weights[users], max_steps)
    return weights


def simplex_laplace(pairs: Pairs, prior: F64, start: F64 | None = None) -> tuple[F64, F64]:
    """Return the maxima of `simplex_map`, and the covariance of each user's weights along the simplex.

    Args:
        pairs: As in `simplex_map`.
        prior: As in `simplex_map`.
        start: Weights near the maxima, float64 (n_users, rank), to save steps.

    Returns:
        float64 (n_users, rank), and float64 (n_users, rank, rank), of rank - 1.
    """
    mode = prior / prior.sum()
    weights = np.tile(mode, (pairs.n_users, 1)) if start is None else start.copy()
    nothing = np.zeros((1, 1, len(prior)))
    covariance = np.repeat(spread_along(nothing, np.zeros((1, 1)), prior, mode[None])[0], pairs.n_users, axis=0)
    weights[pairs.counts == 0] = mode
    for users, x, there in padded_blocks(pairs):
        weights[users] = climb_simplex(x, there, prior, weights[users])
        covariance[users] = spread_along(x, there, prior, weights[users])[0]
    return weights, covariance
