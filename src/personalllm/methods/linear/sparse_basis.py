"""`sparse-basis`: users mix few of the tastes that the pool shows; which ones, a posterior over particles says."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np

from personalllm.core.seeding import generator
from personalllm.core.types import F64
from personalllm.methods.parts.beliefs import Belief
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.held_out import HeldOut
from personalllm.methods.parts.linear_method import CalibratedMethod, moderated_margins
from personalllm.methods.parts.low_rank import fit_basis, in_basis, some_users, start_points, start_weights
from personalllm.methods.parts.particles import learned, log_likelihoods, posterior
from personalllm.methods.parts.posterior import LinearPosterior

__all__ = ["MixturePopulation", "SparseBasis", "SparsePrior"]

SparsePrior = Literal["sparse", "gaussian"]

_FEW_USERS = 300
_CONCENTRATIONS = (0.3, 1.0, 3.0, 10.0)
_FEW_PARTICLES = 400
_PSEUDO_USERS = 1.0


@dataclass(frozen=True, eq=False)
class MixturePopulation:
    """Tastes, and how users mix them.

    Attributes:
        basis: float64 (n_features, n_tastes).
        particles: float64 (n_particles, n_tastes), mixtures drawn from the prior.
        log_prior: float64 (n_particles,).
    """

    basis: F64
    particles: F64
    log_prior: F64

    def posterior(self, pairs: Pairs) -> tuple[F64, F64]:
        """Return each user's mean mixture, (n_users, n_tastes), and its covariance, (n_users, n_tastes, n_tastes)."""
        shares = posterior(self.log_prior, log_likelihoods(in_basis(pairs, self.basis), self.particles))
        n = self.particles.shape[1]
        mean = shares @ self.particles
        squares = (self.particles[:, :, None] * self.particles[:, None, :]).reshape(-1, n * n)
        return mean, (shares @ squares).reshape(-1, n, n) - mean[:, :, None] * mean[:, None, :]


@dataclass
class SparseBasis(CalibratedMethod, LinearPosterior):
    r"""Ranks by a sparse mixture of tastes learned from the pool: $u = z_u^\top B^\top x$, $z_u$ on the simplex.

    The population is a discrete distribution over mixtures: single tastes with their shares in the pool, and draws from
    Dirichlet distributions about these shares with small to large sums of parameters. Tastes, shares and the weights of
    the Dirichlet distributions are fitted in turn by expectation maximisation: the particles' posterior of each pool
    user, then the basis by truncated Newton steps at the posterior means, from extreme points of the users' own fits. A
    new user's posterior is the same sum over more particles. Predictions are drawn in by the posterior's variance and
    multiplied by a slope for each number of preferences, fitted on users and prompts held out.

    Where histories say that a user named the best and the worst of all responses, the comparisons that this implies
    (best against the others, the others against worst) count as well. They are not independent; the slopes undo the
    overconfidence.

    It suits users who mix few tastes. The text measures are subject to the same caution as those of
    `calibrated-bayes`: on benchmarks scored by `compact-v1` they are part of what users want.

    Args:
        n_features: Principal components of the embedding, >= 1; None for all.
        n_tastes: Tastes, >= 1; those that nobody needs vanish.
        concentration: Sum of the Dirichlet parameters, > 0; None to learn the weights of four sums and of single
            tastes.
        prior: `sparse` as described, or `gaussian`: particles from a normal distribution with the pool's moments.
        ridge: Penalty of the basis, > 0.
        rounds: EM steps, >= 1.
        n_particles: Mixtures that a new user may be, >= 1.
        text_measures: Whether to add the measures of the text and the cosine with the prompt.
        calibrated: Whether to multiply by the slopes.
    """

    id: ClassVar[str] = "sparse-basis"
    title: ClassVar[str] = "Sparse mixtures of learned tastes"
    paper: ClassVar[str] = ""
    objective: ClassVar[str] = (
        "The likelihood of the pool's comparisons under sparse mixtures of tastes, then that of users held out."
    )
    fitted_per_user: ClassVar[str] = "A posterior over particles, each a mixture of the tastes."
    cost: ClassVar[str] = "One product of the comparisons' differences in n_tastes dimensions with the particles."

    implied_count: ClassVar[float] = math.inf

    n_features: int | None = None
    n_tastes: int = 10
    concentration: float | None = None
    prior: SparsePrior = "sparse"
    ridge: float = 3.0
    rounds: int = 5
    n_particles: int = 2_000
    calibrated: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_tastes", "rounds", "n_particles")
        self.check_number("ridge")
        self.check_number("concentration", or_none=True)
        self.check_one_of("prior", get_args(SparsePrior))

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features, few tastes, few particles."""
        return {"n_features": 8, "n_tastes": 3, "rounds": 2, "n_particles": 100}

    def learn(self, pairs: Pairs) -> None:
        """Fit tastes and population, then the slopes on a second fit without some users and prompts."""
        super().learn(pairs)
        some = some_users(pairs)
        self.population_ = self._population(some, self.rounds)
        parts = HeldOut.of(some) if self.calibrated else None
        if parts is None:
            return
        rounds = max(1, self.rounds // 2)
        seen = self._population(some_users(parts.taught, _FEW_USERS), rounds, start=self.population_.basis)
        tests = in_basis(parts.tests, seen.basis)
        self.slopes_, _ = parts.slopes(lambda history: moderated_margins(*seen.posterior(history), tests))

    def _population(self, pairs: Pairs, rounds: int, start: F64 | None = None) -> MixturePopulation:
        """Fit tastes and how users mix them.

        Args:
            pairs: Comparisons of users who have some.
            rounds: EM steps.
            start: A basis to start from, float64 (n_features, n_tastes); None for extreme points of users' own fits.
        """
        n = self.n_tastes
        if not pairs.n_users:
            return MixturePopulation(np.zeros((pairs.n_features, n)), np.full((1, n), 1.0 / n), np.zeros(1))
        basis = start_points(start_weights(some_users(pairs, _FEW_USERS).given()), n) if start is None else start
        mixed = np.full((1, n), 1.0 / n)  # moments of the users' mixtures so far
        groups: F64 | None = None
        spread = np.eye(n) / n
        for step in range(rounds + 1):
            last = step == rounds
            particles, group = self._particles(mixed.mean(axis=0), spread, self.n_particles if last else _FEW_PARTICLES)
            n_groups = int(group.max()) + 1
            groups = np.full(n_groups, 1.0 / n_groups) if groups is None else groups
            shares = mixed.mean(axis=0)
            each = np.bincount(group, minlength=n_groups)[group]
            log_prior = np.log(groups[group]) - np.log(each)
            if self.prior == "sparse" and self.concentration is None:
                log_prior[:n] = np.log(groups[0] * shares)
            population = MixturePopulation(basis, particles, log_prior)
            if last:
                return population
            votes = posterior(log_prior, log_likelihoods(in_basis(pairs, basis), particles))
            mixed = np.concatenate([votes @ particles, np.full((1, n), _PSEUDO_USERS / n)])
            groups = np.array([votes[:, group == g].sum() for g in range(n_groups)]) + _PSEUDO_USERS
            groups /= groups.sum()
            centred = particles - shares
            spread = np.einsum("p,pi,pj->ij", votes.mean(axis=0), centred, centred) + 1e-6 * np.eye(n)
            basis = fit_basis(pairs, mixed[:-1], basis, self.ridge, steps=2)
        raise AssertionError("rounds >= 1")

    def _particles(self, shares: F64, spread: F64, n_particles: int) -> tuple[F64, Any]:
        """Return mixtures, float64 (n, n_tastes), and the part of the prior, int (n,), that each is drawn from."""
        rng = generator(self.seed, "sparse-basis", n_particles)
        n = len(shares)
        if self.prior == "gaussian":
            drawn = shares + rng.standard_normal((n_particles, n)) @ np.linalg.cholesky(spread).T
            return drawn, np.zeros(n_particles, dtype=np.int64)
        sums = _CONCENTRATIONS if self.concentration is None else (float(self.concentration),)
        each = -(-n_particles // len(sums))
        drawn = np.concatenate([_dirichlet(rng, total * shares, each) for total in sums])
        group = np.repeat(np.arange(len(sums)), each)
        if self.concentration is not None:
            return drawn, group
        return np.concatenate([np.eye(n), drawn]), np.concatenate([np.zeros(n, dtype=np.int64), 1 + group])

    @property
    def basis(self) -> F64:
        """The tastes."""
        return self.population_.basis

    def belief(self, pairs: Pairs, before: Belief | None = None) -> Belief:
        """Return the exact posterior over the particles."""
        return learned(self.population_.particles, self.population_.log_prior, pairs, before)

    def without_prior(self) -> Self:
        """Return a copy whose particles are uniform on the simplex."""
        flat, n = copy(self), self.population_.particles.shape
        particles = _dirichlet(generator(self.seed, "sparse-basis flat", n[0]), np.ones(n[1]), n[0])
        flat.population_ = replace(self.population_, particles=particles, log_prior=np.zeros(n[0]))
        return flat


def _dirichlet(rng: np.random.Generator, parameters: F64, n: int) -> F64:
    """Return n draws; in logs, because a gamma variable of a small parameter underflows to 0."""
    # G(a) = G(a + 1) U^(1 / a)
    logs = np.log(rng.standard_gamma(parameters + 1.0, (n, len(parameters))))
    logs += np.log1p(-rng.random(logs.shape)) / np.maximum(parameters, 1e-12)
    drawn = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(drawn / drawn.sum(axis=1, keepdims=True))
