"""Factors of users and of responses, fitted to comparisons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personalllm.core.types import F64
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.linear_method import moderated_margins
from personalllm.methods.parts.logistic import log_sigmoid, newton_map, newton_pooled, sigmoid

__all__ = ["Factors", "fit_factors", "held_out", "held_out_loss", "population"]

_ITERATIONS = 80
_HELD_OUT = 5
_EM_STEPS = 8
_PSEUDO_USERS = 5.0
_CONSENSUS_VARIANCE = 0.1  # users weigh what all like by about 1, give or take a third


@dataclass(frozen=True, eq=False)
class Factors:
    """Factors of responses, the first of which every pool user weighs by 1 (the consensus), and of users.

    Attributes:
        slopes: float64 (n_features, 1 + n_factors): factors of a response are its features times these.
        deviations: float64 (n_responses, 1 + n_factors): what a response's own factors add.
        users: float64 (n_users, n_factors).
    """

    slopes: F64
    deviations: F64
    users: F64

    def of(self, pairs: Pairs) -> Pairs:
        """Return comparisons of the same responses with factors in place of features."""
        return pairs.with_vectors((pairs.vectors @ self.slopes + self.deviations).astype(np.float32))


class _Problem:
    """Half the penalised deviance of factors, and its gradient, over one flat vector."""

    def __init__(self, pairs: Pairs, n_factors: int, penalty: float, deviation_penalty: float) -> None:
        from scipy.sparse import csr_array

        n, self.weights = len(pairs), pairs.weights
        self.pairs, self.features, self.penalty = pairs, pairs.vectors.astype(np.float64), penalty
        self.deviation_penalty = deviation_penalty
        rows = np.repeat(np.arange(n), 2)
        columns = np.column_stack([pairs.chosen, pairs.rejected]).ravel()
        self.items = csr_array((np.tile([1.0, -1.0], n), (rows, columns)), shape=(n, len(pairs.vectors)))
        self.items_t = self.items.T.tocsr()
        self.users_t = csr_array((np.ones(n), (pairs.user, np.arange(n))), shape=(pairs.n_users, n))
        width = 1 + n_factors
        self.shapes = ((pairs.n_features, width), (len(pairs.vectors), width), (pairs.n_users, n_factors))

    def split(self, flat: F64) -> tuple[F64, F64, F64]:
        first, second = (int(np.prod(shape)) for shape in self.shapes[:2])
        parts = np.split(flat, [first, first + second])
        slopes, deviations, users = (part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True))
        return slopes, deviations, users

    def __call__(self, flat: F64) -> tuple[float, F64]:
        slopes, deviations, users = self.split(flat)
        user_weights = np.column_stack([np.ones(len(users)), users])
        apart = self.items @ (self.features @ slopes + deviations)
        who = user_weights[self.pairs.user]
        logits = np.einsum("nr,nr->n", apart, who)
        value = -float((self.weights * log_sigmoid(logits)).sum())
        value += 0.5 * float(self.penalty * (slopes**2).sum() + self.deviation_penalty * (deviations**2).sum())
        value += 0.5 * float((users**2).sum())
        pull = (self.weights * (sigmoid(logits) - 1.0))[:, None]
        by_item = self.items_t @ (pull * who)
        gradients = (
            self.features.T @ by_item + self.penalty * slopes,
            by_item + self.deviation_penalty * deviations,
            (self.users_t @ (pull * apart))[:, 1:] + users,
        )
        return value, np.concatenate([part.ravel() for part in gradients])


def _start(problem: _Problem, n_factors: int) -> F64:
    """Return where the search starts: the pooled weights, and the leading directions in which users differ."""
    pairs = problem.pairs
    pooled = newton_pooled(pairs, problem.penalty)
    differences = pairs.differences().astype(np.float64)
    pulls = np.asarray(problem.users_t @ ((1.0 - sigmoid(differences @ pooled))[:, None] * differences))
    left, sizes, right = np.linalg.svd(pulls, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])[:n_factors]
    # p (1 - p) is at most 1/4: an upper bound of the curvature, so that the first step does not overshoot
    stiffness = 0.25 * len(pairs) / pairs.n_users / pairs.n_features + problem.penalty
    slopes, users = np.zeros(problem.shapes[0]), np.zeros(problem.shapes[2])
    m = min(n_factors, len(sizes))
    scale = np.sqrt(pairs.n_users)
    slopes[:, 0] = pooled
    slopes[:, 1 : m + 1] = (right[:m].T * signs) * sizes[:m] / scale / stiffness
    users[:, :m] = left[:, :m] * signs * scale
    return np.concatenate([slopes.ravel(), np.zeros(int(np.prod(problem.shapes[1]))), users.ravel()])


def fit_factors(pairs: Pairs, n_factors: int, penalty: float, deviation_penalty: float) -> Factors:
    """Return the factors of largest penalised likelihood that L-BFGS finds from the leading directions.

    Args:
        pairs: The comparisons, at least one.
        n_factors: Factors besides the consensus, >= 1.
        penalty: On the squares of the slopes, > 0; that on the users' factors is 1.
        deviation_penalty: On the squares of the deviations, > 0.
    """
    from scipy.optimize import minimize

    problem = _Problem(pairs, n_factors, penalty, deviation_penalty)
    start = _start(problem, n_factors)
    posterior = minimize(problem, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS, "gtol": 1e-4})
    return Factors(*(np.array(part) for part in problem.split(posterior.x)))


def held_out(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Return the comparisons of four fifths of the prompts, and those that were made of the others."""
    last = pairs.prompt % _HELD_OUT == _HELD_OUT - 1
    return pairs.where(~last), pairs.where(last).given()


def held_out_loss(factors: Factors, train: Pairs, test: Pairs) -> float:
    """Return the mean log-loss of the later comparisons, users' posteriors and their population fitted to the known."""
    mean, spread = population(factors.of(train))
    posterior = newton_map(factors.of(train), mean, np.linalg.inv(spread), covariance="each", tolerance=1e-6)
    return float(-log_sigmoid(moderated_margins(posterior.mean, posterior.covariance, factors.of(test))).mean())


def population(pairs: Pairs) -> tuple[F64, F64]:
    """Fit a Gaussian over users' weights of the responses' factors by expectation maximisation.

    Args:
        pairs: Comparisons whose vectors are the responses' factors, the consensus first.

    Returns:
        The mean, float64 (d,), and the covariance, float64 (d, d).
    """
    d = pairs.n_features
    mean = np.eye(d)[0]
    start = np.diag(np.where(np.arange(d) == 0, _CONSENSUS_VARIANCE, 1.0))
    spread, weights = start, np.broadcast_to(mean, (pairs.n_users, d))
    for _ in range(_EM_STEPS):
        posterior = newton_map(pairs, mean, np.linalg.inv(spread), covariance="sum", start=weights, tolerance=1e-6)
        weights = posterior.mean
        mean = weights.mean(axis=0)
        apart = weights - mean
        total = posterior.covariance[0] + apart.T @ apart + _PSEUDO_USERS * start
        spread = total / (pairs.n_users + _PSEUDO_USERS)
    return mean, spread
