"""Infer a user's weights from comparisons when the scores and the population are known: a ceiling for methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from personalllm.core.errors import ParameterError
from personalllm.core.seeding import derive_seed, generator
from personalllm.core.types import F32, F64, I64
from personalllm.users.draws import check_alpha
from personalllm.users.tables import run_blocks

__all__ = ["Posterior", "enumerated_weights", "posterior_weights"]

_BLOCK = 8
_KEPT = 1024  # users of whom the posterior is kept, 30 KB each
_MIN_WEIGHT = 1e-300
_TOLERANCE = 1e-6  # as in the particle filter


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is known of some users' weights after each of several numbers of interactions.

    Attributes:
        mean: float64 (n_shown, n_users, n_reward_models), on the simplex.
        particles: float32 (n_shown, n_users, n_particles, n_reward_models).
        shares: float64 (n_shown, n_users, n_particles), of sum 1 for each user.
    """

    mean: F64
    particles: F32
    shares: F64


def posterior_weights(
    alpha: float | Sequence[float],
    rows: Sequence[F64],
    first: Sequence[I64],
    shown: Sequence[int],
    seeds: Sequence[int],
    *,
    temperature: float = 0.0,
    flip: float = 0.0,
    n_particles: int = 256,
    sweeps: int = 3,
) -> Posterior:
    r"""Return the posterior of users' weights under a Dirichlet prior, by a particle filter with exact moves.

    Particles that contradict an interaction are replaced by copies of others, which are then moved by Gibbs steps along
    pairs of weights (Gilks and Berzuini, JRSS B 63, 2001). Where too few agree, it is asked for by degrees (subset
    simulation: Au and Beck, 2001). With noise the comparison counts by its probability, and of what it implies all
    holds or all is reversed.

    Args:
        alpha: Concentration of the population, > 0; one for all reward models or one for each.
        rows: For each user, float64 (n_rows, n_reward_models): scores of the better minus those of the worse response;
            of an interaction the comparison that was made, then those it implies.
        first: For each user, int64 (n_interactions + 1,): where an interaction's rows begin.
        shown: Numbers of interactions, ascending; beyond what a user has all of theirs count.
        seeds: One for each user, so that a user's posterior does not depend on the other users of the call.
        temperature: Of the rule of the comparisons.
        flip: Likewise.
        n_particles: >= 2.
        sweeps: Moves for each weight, >= 1.

    >>> prefers_a = posterior_weights(0.5, [np.array([[1.0, -1.0]])], [np.array([0, 1])], [0, 1], [0])
    >>> bool(prefers_a.mean[1, 0, 0] > prefers_a.mean[0, 0, 0])
    True
    """
    for name, value, minimum in (("n_particles", n_particles, 2), ("sweeps", sweeps, 1)):
        if value < minimum:
            raise ParameterError(name, f">= {minimum}", value)
    n_users, n = len(rows), rows[0].shape[1] if len(rows) else 1
    concentration = check_alpha(alpha, n)
    mean = np.empty((len(shown), n_users, n))
    particles = np.empty((len(shown), n_users, n_particles, n), np.float32)
    shares = np.empty((len(shown), n_users, n_particles))

    def work(users: slice) -> None:
        for user in range(users.start, users.stop):
            mean[:, user], particles[:, user], shares[:, user] = _filtered(
                concentration.tobytes(),
                rows[user].astype(np.float64).tobytes(),
                first[user].astype(np.int64).tobytes(),
                tuple(shown),
                seeds[user],
                float(temperature),
                float(flip),
                n_particles,
                sweeps,
            )

    run_blocks(work, n_users, _BLOCK, None)
    return Posterior(mean, particles, shares)


@lru_cache(maxsize=_KEPT)
def _filtered(
    alpha: bytes, rows: bytes, first: bytes, shown: tuple[int, ...], seed: int, temperature: float, flip: float,
    n_particles: int, sweeps: int,
) -> tuple[F64, F32, F64]:  # fmt: skip
    """Return the mean, the particles and the shares of one user, see `Posterior`; arrays come as their bytes.

    Cached: runs that differ only in what methods see (such as the histories of others) need the same user again.
    """
    from personalllm.users._particles import filter_particles  # numba is slow to import

    concentration, starts = np.frombuffer(alpha).copy(), np.frombuffer(first, np.int64).copy()
    n = len(concentration)
    mean = np.zeros((len(shown), n))
    particles = np.empty((len(shown), n_particles, n), np.float32)
    shares = np.empty((len(shown), n_particles))
    filter_particles(
        np.array([derive_seed(seed, "moves")], np.uint64),
        _prior(concentration, n_particles, seed),
        concentration,
        np.ascontiguousarray(np.frombuffer(rows).reshape(-1, n).T),
        starts,
        (temperature, flip, sweeps),
        np.minimum(shown, len(starts) - 1).astype(np.int64),
        *(mean, particles, shares),
    )
    return mean, particles, shares


def _prior(alpha: F64, n: int, seed: int) -> F64:
    """Return draws from the population, float64 (n, n_reward_models), all above 0 however small alpha is."""
    rng = generator(seed, "particles")
    # log Gamma(a) = log Gamma(a + 1) + log(U) / a, which does not underflow
    logs = np.log(rng.gamma(alpha + 1.0, size=(n, len(alpha)))) + np.log1p(-rng.random((n, len(alpha)))) / alpha
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(np.maximum(weights / weights.sum(axis=1, keepdims=True), _MIN_WEIGHT))


def enumerated_weights(
    support: F64,
    rows: Sequence[F64],
    first: Sequence[I64],
    shown: Sequence[int],
    *,
    temperature: float = 0.0,
    flip: float = 0.0,
) -> Posterior:
    """Return the posterior of users' weights that are one of a few vectors, each as likely, by counting.

    Args:
        support: float64 (n_vectors, n_reward_models), the vectors.
        rows: As in `posterior_weights`.
        first: Likewise.
        shown: Likewise.
        temperature: Likewise.
        flip: Likewise.

    >>> of_two = enumerated_weights(np.eye(2), [np.array([[1.0, -1.0]])], [np.array([0, 1])], [0, 1])
    >>> of_two.mean[:, 0].tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    shares = np.empty((len(shown), len(rows), len(support)))
    for user, (of_user, starts) in enumerate(zip(rows, first, strict=True)):
        margins = support @ of_user.T
        share = [np.full(len(support), 1.0 / len(support))]
        for start, stop in pairwise(starts.tolist()):
            gap = margins[:, start]
            wins = 0.5 + 0.5 * (np.tanh(0.5 * gap / temperature) if temperature else np.sign(gap))
            above, below = (margins[:, start:stop] >= -_TOLERANCE), (margins[:, start:stop] <= _TOLERANCE)
            in_order = above.all(axis=1) | (below.all(axis=1) & (temperature > 0 or flip > 0)) | (stop - start == 1)
            product = share[-1] * in_order * ((1 - flip) * wins + flip * (1 - wins))
            # what no vector explains says nothing of which it is
            share.append(product / product.sum() if product.sum() > 0 else share[-1])
        shares[:, user] = [share[min(k, len(share) - 1)] for k in shown]
    particles = np.broadcast_to(support.astype(np.float32), (*shares.shape, support.shape[1]))
    return Posterior(shares @ support, particles, shares)
