r"""Bradley-Terry fits by Newton's method, batched over users.

The model of a comparison is $P(a \succ b) = \sigma(w \cdot (x_a - x_b))$, with a Gaussian prior on w. A user with fewer
comparisons than features is solved in the dual: the system is as large as the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from personalllm.core.types import F64, I64
from personalllm.methods.parts.features import Pairs

__all__ = [
    "MOST_RIDGE",
    "Laplace",
    "best_ridge",
    "log_sigmoid",
    "newton_map",
    "newton_pooled",
    "padded_blocks",
    "prior_root",
    "sigmoid",
]

_BLOCK_NUMBERS = 4_000_000  # float64 numbers of a block of users: 32 MB for each of the few temporaries
_HALVINGS = 50
_RIDGE_USERS = 256
_MOST_POWER = 10
MOST_RIDGE = 2.0**_MOST_POWER
"""The largest ridge that `best_ridge` returns: the evidence rises all the way to users who do not differ."""


def sigmoid(logits: F64) -> F64:
    """Return 1 / (1 + exp(-logits)), without overflow."""
    # tanh saturates where exp would overflow
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def log_sigmoid(logits: F64) -> F64:
    """Return log sigmoid(logits), without overflow."""
    return np.asarray(-np.logaddexp(0.0, -logits))


def prior_root(precision: npt.ArrayLike, n_features: int) -> F64:
    r"""Return A with $A A^\top$ the covariance, float64 (d, d), of a precision: a number, (d,) or (d, d)."""
    values = np.asarray(precision, dtype=np.float64)
    if values.ndim < 2:
        return np.diag(1.0 / np.sqrt(np.broadcast_to(values, n_features)))
    return np.asarray(np.linalg.inv(np.linalg.cholesky(values)).T)


def padded_blocks(pairs: Pairs) -> Iterator[tuple[I64, F64, F64]]:
    """Yield users with at least one comparison, a block at a time, users of like counts together.

    Yields:
        Users, int64 (n_block,); their differences, float64 (n_block, width, n_features), zero where a user has fewer
        than `width` comparisons; and how much each row counts, float64 (n_block, width), 0 where there is none.
    """
    counts, weights = pairs.counts, pairs.weights
    users = np.flatnonzero(counts)
    users = users[np.argsort(counts[users], kind="stable")]
    start = 0
    while start < len(users):
        # padding to the longest history of a block wastes at most a quarter beyond the shortest histories
        limit = max(4, int(1.25 * counts[users[start]]))
        stop = int(np.searchsorted(counts[users], limit, side="right"))
        width = int(counts[users[stop - 1]])
        stop = min(stop, start + max(1, _BLOCK_NUMBERS // (width * max(width, pairs.n_features))))
        block = users[start:stop]
        width = int(counts[block[-1]])
        position = np.arange(width)
        there = position < counts[block][:, None]
        rows = np.where(there, pairs.offsets[block][:, None] + position, 0)
        x = (pairs.vectors[pairs.chosen[rows]] - pairs.vectors[pairs.rejected[rows]]).astype(np.float64)
        x[~there] = 0.0
        yield block, x, there * weights[rows]
        start = stop


@dataclass(frozen=True, eq=False)
class Laplace:
    r"""Gaussian approximations at the users' maxima.

    Attributes:
        mean: float64 (n_users, n_features), the maxima.
        covariance: float64 (n_users, n_features, n_features), the inverses of the Hessians there; (1, n_features,
            n_features), their sum; or (0, n_features, n_features), as was asked for.
        log_evidence: float64 (n_users,): Laplace's approximation of the log probability of a user's comparisons.
    """

    mean: F64
    covariance: F64
    log_evidence: F64


class _Step(Protocol):
    """One Newton step from logits and coefficients to new ones, and the squared norm of the coefficients."""

    size: int

    def __call__(self, f: F64, v: F64, /) -> tuple[F64, F64]: ...

    def norm(self, v: F64, /) -> F64: ...

    def start(self, logits: F64, /) -> tuple[F64, F64]:
        """Return where to start from the logits of earlier weights."""

    def whitened(self, v: F64, /) -> F64:
        """Return the whitened weights, (n_block, d), of the coefficients."""


def _climb(
    there: F64, offset: F64, step: _Step, start: tuple[F64, F64] | None, tolerance: float, max_steps: int
) -> tuple[F64, F64, F64]:
    """Maximise log sigmoid(offset + f) - |v|^2 / 2 over v by damped Newton; `step` gives a new (f, v)."""
    n = len(offset)
    f, v = start or (np.zeros_like(offset), np.zeros((n, step.size)))

    def value(f: F64, norm: F64) -> F64:
        return np.asarray((there * log_sigmoid(offset + f)).sum(axis=1) - 0.5 * norm)

    now = value(f, step.norm(v))
    for _ in range(max_steps):
        new_f, new_v = step(f, v)
        size = np.ones(n)
        for _ in range(_HALVINGS):
            try_f, try_v = f + size[:, None] * (new_f - f), v + size[:, None] * (new_v - v)
            there_now = value(try_f, step.norm(try_v))
            # near the maximum the gain is below the rounding of the sum, so a loss of that size is no reason to halve
            worse = there_now < now - 1e-12 * np.abs(now)
            if not worse.any():
                break
            size[worse] *= 0.5
        else:
            try_f, try_v, there_now = (
                np.where(worse[:, None], f, try_f),
                np.where(worse[:, None], v, try_v),
                np.where(worse, now, there_now),
            )
        gain = there_now - now
        f, v, now = try_f, try_v, there_now
        if np.all(gain <= tolerance * (1.0 + np.abs(now))):
            break
    return f, v, now


class _Dual:
    """A Newton step on the coefficients of the comparisons: v = x^T a, f = K a."""

    def __init__(self, x: F64, there: F64, offset: F64) -> None:
        self.there, self.offset = there, offset
        self.x, self.kernel = x, x @ x.transpose(0, 2, 1)
        self.size = x.shape[1]

    def __call__(self, f: F64, a: F64) -> tuple[F64, F64]:
        p = sigmoid(self.offset + f)
        weight = self.there * p * (1.0 - p)
        b = weight * f + self.there * (1.0 - p)
        # (I + W K) a = W f + (y - p), of the size of the comparisons; W may hold zeros, so it is not inverted
        # (Rasmussen and Williams 2006, section 3.4)
        system = np.eye(self.size) + weight[:, :, None] * self.kernel
        new = np.linalg.solve(system, b[:, :, None])
        return np.asarray((self.kernel @ new)[:, :, 0]), np.asarray(new[:, :, 0])

    def norm(self, a: F64) -> F64:
        return np.asarray((a * (self.kernel @ a[:, :, None])[:, :, 0]).sum(axis=1))

    def start(self, logits: F64) -> tuple[F64, F64]:
        a = self.there * (1.0 - sigmoid(logits))
        return np.asarray((self.kernel @ a[:, :, None])[:, :, 0]), a

    def whitened(self, a: F64) -> F64:
        return np.asarray((self.x.transpose(0, 2, 1) @ a[:, :, None])[:, :, 0])


class _Primal:
    """A Newton step on the weights."""

    def __init__(self, x: F64, there: F64, offset: F64) -> None:
        self.x, self.there, self.offset = x, there, offset
        self.size = x.shape[2]

    def __call__(self, f: F64, v: F64) -> tuple[F64, F64]:
        p = sigmoid(self.offset + f)
        weight = self.there * p * (1.0 - p)
        b = weight * f + self.there * (1.0 - p)
        transposed = self.x.transpose(0, 2, 1)
        system = np.eye(self.size) + transposed @ (weight[:, :, None] * self.x)
        new = np.linalg.solve(system, transposed @ b[:, :, None])
        return np.asarray((self.x @ new)[:, :, 0]), np.asarray(new[:, :, 0])

    def norm(self, v: F64) -> F64:
        return np.asarray((v * v).sum(axis=1))

    def start(self, logits: F64) -> tuple[F64, F64]:
        a = self.there * (1.0 - sigmoid(logits))
        v = np.asarray((self.x.transpose(0, 2, 1) @ a[:, :, None])[:, :, 0])
        return np.asarray((self.x @ v[:, :, None])[:, :, 0]), v

    def whitened(self, v: F64) -> F64:
        return v


class _Curvature:
    """The Hessians of a block of users at their maxima, factorised once, for whitened differences."""

    def __init__(self, x: F64, weight: F64) -> None:
        self.rooted: F64 = np.sqrt(weight)[:, :, None] * x
        n, d = x.shape[1:]
        transposed = self.rooted.transpose(0, 2, 1)
        self.dual = n < d  # Woodbury: the inverse of I + X^T W X from that of I + W^1/2 X X^T W^1/2, if that is smaller
        gram: F64 = np.asarray(self.rooted @ transposed if self.dual else transposed @ self.rooted)
        self.factor: F64 = np.asarray(np.linalg.cholesky(gram + np.eye(min(n, d))))

    def half_log_det(self) -> F64:
        """Return half the log determinant, (n_block,)."""
        return np.asarray(np.log(np.diagonal(self.factor, axis1=1, axis2=2)).sum(axis=1))

    def _half(self) -> F64:
        inverse = np.linalg.inv(self.factor)
        return np.asarray(inverse @ self.rooted) if self.dual else np.asarray(inverse)

    def each(self, root: F64) -> F64:
        """Return the inverses, (n_block, d, d), not whitened."""
        half: F64 = np.asarray(self._half() @ root.T)
        product: F64 = np.asarray(half.transpose(0, 2, 1) @ half)
        return np.asarray(root @ root.T - product if self.dual else product)

    def sum(self, root: F64) -> F64:
        """Return the sum of the inverses, (d, d), not whitened."""
        half: F64 = self._half().reshape(-1, self.rooted.shape[2]) @ root.T
        product: F64 = np.asarray(half.T @ half)
        return np.asarray(len(self.rooted) * root @ root.T - product if self.dual else product)


def newton_map(
    pairs: Pairs,
    prior_mean: npt.ArrayLike = 0.0,
    prior_precision: npt.ArrayLike = 1.0,
    *,
    covariance: Literal["none", "each", "sum"] = "none",
    start: F64 | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 100,
) -> Laplace:
    r"""Fit each user's weights: $\arg\max_w \sum_i \log\sigma(w \cdot d_i) - (w - m)^\top P (w - m) / 2$.

    Args:
        pairs: The comparisons, $d_i$ the features of the chosen minus those of the rejected response.
        prior_mean: m: a number, (d,), or (n_users, d).
        prior_precision: P: a number > 0, (d,), or (d, d) positive definite.
        covariance: Whether to return each user's covariance (n_users d^2 numbers), or their sum, or neither.
        start: Weights near the maxima, float64 (n_users, d), to save steps.
        tolerance: Stop when no user's objective grows by more than this share.
        max_steps: Most Newton steps.

    Returns:
        The maxima; the prior for a user without comparisons.
    """
    d = pairs.n_features
    root = prior_root(prior_precision, d)
    alike = np.ndim(prior_precision) == 0  # a matrix product with a multiple of the identity takes most of the time
    prior = root @ root.T
    mean = np.array(np.broadcast_to(np.asarray(prior_mean, dtype=np.float64), (pairs.n_users, d)))
    spread = np.empty((0, d, d))
    if covariance == "each":
        spread = np.array(np.broadcast_to(prior, (pairs.n_users, d, d)))
    elif covariance == "sum":
        spread = int((pairs.counts == 0).sum()) * prior[None]
    evidence = np.zeros(pairs.n_users)
    for users, raw, there in padded_blocks(pairs):
        offset = (raw @ mean[users][:, :, None])[:, :, 0]
        x = (
            raw * root[0, 0] if alike else raw @ root
        )  # whitened: the prior of v = root^-1 (w - m) is standard normal, so one step fits all precisions
        step: _Step = _Dual(x, there, offset) if x.shape[1] < d else _Primal(x, there, offset)
        begin = None if start is None else step.start((raw @ start[users][:, :, None])[:, :, 0])
        f, v, value = _climb(there, offset, step, begin, tolerance, max_steps)
        mean[users] += step.whitened(v) * root[0, 0] if alike else step.whitened(v) @ root.T
        p = sigmoid(offset + f)
        weight = there * p * (1.0 - p)
        curvature = _Curvature(x, weight)
        evidence[users] = value - curvature.half_log_det()
        if covariance == "each":
            spread[users] = curvature.each(root)
        elif covariance == "sum":
            spread[0] += curvature.sum(root)
    return Laplace(mean, spread, evidence)


def newton_pooled(
    pairs: Pairs,
    prior_precision: npt.ArrayLike = 1.0,
    *,
    prior_mean: npt.ArrayLike = 0.0,
    tolerance: float = 1e-9,
    max_steps: int = 100,
) -> F64:
    """Fit one weight vector to the comparisons of all users, as `newton_map` does for one user; float64 (d,)."""
    from scipy.sparse import csr_array

    d = pairs.n_features
    mean = np.broadcast_to(np.asarray(prior_mean, dtype=np.float64), d)
    given = np.asarray(prior_precision, dtype=np.float64)
    precision = given if given.ndim == 2 else np.diag(np.broadcast_to(given, d))

    w, weights, x = np.array(mean), pairs.weights, pairs.vectors.astype(np.float64)
    n, chosen, rejected = len(x), pairs.chosen, pairs.rejected

    def look(w: F64) -> tuple[float, F64, F64]:
        # through the distinct responses, of which a pool has far fewer than comparisons
        utilities = x @ w
        logits = utilities[chosen] - utilities[rejected]
        p = sigmoid(logits)
        pull = weights * (1.0 - p)
        gradient = -precision @ (w - mean)
        value = 0.5 * float((w - mean) @ gradient) + float((weights * log_sigmoid(logits)).sum())
        gradient += x.T @ (np.bincount(chosen, pull, n) - np.bincount(rejected, pull, n))
        curvature = pull * p
        degree = np.bincount(chosen, curvature, n) + np.bincount(rejected, curvature, n)
        across = csr_array((curvature, (chosen, rejected)), shape=(n, n))
        return value, gradient, precision + x.T @ (degree[:, None] * x - across @ x - across.T @ x)

    value, gradient, hessian = look(w)
    for _ in range(max_steps):
        step = np.linalg.solve(hessian, gradient)
        for _ in range(_HALVINGS):
            new = look(w + step)
            if new[0] >= value - 1e-12 * abs(value):
                break
            step = 0.5 * step
        else:
            break
        gain = new[0] - value
        w, (value, gradient, hessian) = w + step, new
        if gain <= tolerance * (1.0 + abs(value)):
            break
    return w


def best_ridge(pairs: Pairs, prior_mean: npt.ArrayLike = 0.0) -> float:
    """Return the power of 2 for a ridge under which the comparisons are most probable, by Laplace's method.

    The users' weights are independent and normal about the prior mean with variance 1 / ridge. At most 256 users with
    comparisons are looked at, evenly spread, and only what they said, not what it implies, since evidence is of
    independent comparisons; 1 if there are none. The search climbs from 1 and stays within 2^-10 and
    2^10.
    """
    pairs = pairs.given()
    users = np.flatnonzero(pairs.counts)
    if not len(users):
        return 1.0
    some = pairs.of_users(users[np.linspace(0, len(users) - 1, min(len(users), _RIDGE_USERS)).astype(np.int64)])
    evidences: dict[int, float] = {}

    def evidence(power: int) -> float:
        if power not in evidences:
            evidences[power] = float(newton_map(some, prior_mean, 2.0**power, tolerance=1e-6).log_evidence.sum())
        return evidences[power]

    power = 0
    for _ in range(_MOST_POWER):
        best = max((power, power - 1, power + 1), key=evidence)
        if best == power:
            break
        power = best
    return float(2.0**power)
