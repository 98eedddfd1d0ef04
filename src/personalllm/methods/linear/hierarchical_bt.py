"""`hierarchical-bt`: a Gaussian prior of users' weights, learned from the pool, and an exact Laplace step per user."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from personalllm.core.types import F64
from personalllm.methods.parts.beliefs import Belief
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.logistic import MOST_RIDGE, Laplace, best_ridge, newton_map, newton_pooled
from personalllm.methods.parts.low_rank import some_users
from personalllm.methods.parts.posterior import LinearPosterior

__all__ = ["GaussianPrior", "HierarchicalBT", "fit_prior"]

_MOST_COMPARISONS = 200_000  # EM looks at each of them some fifty times


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """The distribution of users' weights.

    Attributes:
        mean: float64 (n_features,).
        spread: float64 (n_features, n_features), the covariance.
        evidence: Log probability of the comparisons before each step of the fit.
    """

    mean: F64
    spread: F64
    evidence: tuple[float, ...]

    def posterior(self, pairs: Pairs, start: F64 | None = None) -> Laplace:
        """Return what each user's comparisons make of it; `start` as in `newton_map`."""
        return newton_map(pairs, self.mean, np.linalg.inv(self.spread), covariance="each", start=start)


def fit_prior(pairs: Pairs, steps: int, pseudo_users: float, *, full: bool = True) -> GaussianPrior:
    """Fit the prior by expectation maximisation, from the pooled weights and the most probable isotropic variance.

    Args:
        pairs: Comparisons of users who have some.
        steps: EM steps.
        pseudo_users: For how many users the isotropic variance counts.
        full: Whether to fit the mean and the covariance; otherwise they stay at where they start.
    """
    mean = newton_pooled(pairs, 1.0)
    ridge = best_ridge(pairs, mean)
    pairs = some_users(pairs, max(1, _MOST_COMPARISONS * pairs.n_users // max(1, len(pairs))))
    prior = _climbed(pairs, mean, 1.0 / ridge, steps if full and pairs.n_users else 0, pseudo_users)
    if prior.evidence and ridge == MOST_RIDGE:
        # Users who differ in few directions look alike to a variance that is the same in all of them, and EM, whose
        # steps are in proportion to the variance, never leaves one of nearly 0: it would make all users the pooled one.
        wider = _climbed(pairs, mean, 1.0, steps, pseudo_users)
        prior = wider if wider.evidence[-1] > prior.evidence[-1] else prior
    return prior


def _climbed(pairs: Pairs, mean: F64, variance: float, steps: int, pseudo_users: float) -> GaussianPrior:
    """Return the prior after EM steps from a mean and an isotropic variance."""
    isotropic: F64 = variance * np.eye(pairs.n_features)
    spread, evidence, at = isotropic, [], None
    for _ in range(steps):
        laplace = newton_map(pairs, mean, np.linalg.inv(spread), covariance="sum", start=at, tolerance=1e-5)
        at = laplace.mean
        evidence.append(float(laplace.log_evidence.sum()))
        mean = at.mean(axis=0)
        centred = at - mean
        total = laplace.covariance[0] + centred.T @ centred + pseudo_users * isotropic
        spread = total / (pairs.n_users + pseudo_users)
    return GaussianPrior(mean, spread, tuple(evidence))


@dataclass
class HierarchicalBT(LinearPosterior):
    r"""Bradley-Terry with $w_u \sim N(\mu, \Sigma)$ with the prior that makes the pool's comparisons most probable.

    The prior is fitted by expectation maximisation, each user's posterior by Laplace's method (Newton to the maximum,
    then the exact Hessian there): $\mu \leftarrow \bar m$, $\Sigma \leftarrow (\sum_u V_u + (m_u - \mu)(m_u -
    \mu)^\top + \nu \sigma^2 I) / (U + \nu)$. A new user gets the same step under the fitted prior; predictions average
    over the posterior (MacKay's moderation), so they are cautious while little is known.

    Args:
        n_features: Principal components of the embedding, >= 1.
        pseudo_users: nu, > 0: for how many users the isotropic prior counts, whose variance is chosen by evidence.
        steps: EM steps, >= 1.
    """

    id: ClassVar[str] = "hierarchical-bt"
    title: ClassVar[str] = "Hierarchical Bayes Bradley-Terry"
    paper: ClassVar[str] = (
        "Lenk, DeSarbo, Green and Young, Hierarchical Bayes conjoint analysis, Marketing Science 15, 1996; "
        "MacKay, The evidence framework applied to classification networks, Neural Computation 4, 1992"
    )
    objective: ClassVar[str] = (
        "The marginal likelihood of the pool's comparisons under a Gaussian prior of the users' weights."
    )
    fitted_per_user: ClassVar[str] = "A Gaussian posterior of n_features weights: a maximum and a Hessian."
    cost: ClassVar[str] = "About six Newton steps for a user, each O(min(k, d)^3), and one d x d covariance."

    pseudo_users: float = 10.0
    steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("pseudo_users")
        self.check_positive("steps")

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Few features, few steps."""
        return {"n_features": 8, "steps": 4}

    def learn(self, pairs: Pairs) -> None:
        """Fit the prior by expectation maximisation."""
        self.prior_ = fit_prior(some_users(pairs), self.steps, self.pseudo_users)

    def belief(self, pairs: Pairs, before: Belief | None = None) -> Belief:
        """Return Laplace's approximation."""
        laplace = self.prior_.posterior(pairs, None if before is None else before.mean)
        return Belief(laplace.mean, laplace.covariance, pairs.n_preferences)

    def without_prior(self) -> Self:
        """Return a copy whose prior is about zero and alike in all directions, with the same mean variance."""
        width = len(self.prior_.mean)
        flat = copy(self)
        flat.prior_ = GaussianPrior(np.zeros(width), np.trace(self.prior_.spread) / width * np.eye(width), ())
        return flat
