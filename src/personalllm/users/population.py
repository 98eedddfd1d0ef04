"""Represent users as weight vectors over reward models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, ParameterError, UserError
from personalllm.core.types import F64, JSON
from personalllm.data.standardise import PUBLISHED
from personalllm.users.draws import check_alpha, check_count, dirichlet_rows, drop_near_duplicates, mixture_rows

__all__ = ["PUBLISHED_ALPHAS", "PUBLISHED_REWARD_MODELS", "PUBLISHED_USERS", "Population"]

PUBLISHED_REWARD_MODELS: tuple[str, ...] = tuple(PUBLISHED)
"""The ten reward models of the paper, in the order of the published weights (sorted aliases)."""

PUBLISHED_USERS = 1_000
"""Users of each published population."""

PUBLISHED_ALPHAS = (0.01, 0.05, 0.1)
"""The concentrations that the paper analyses."""

_SUM_TOLERANCE = 1e-6
_REMEDY_NAMES = "Name the reward models in the order of the columns of the weights, each once."


@dataclass(frozen=True, eq=False)
class Population:
    r"""Simulated users: user i values a response by the mean of the reward models under its weights.

    The utility of a response is $u_i(x, y) = \sum_b w_{ib}\, s_b(x, y)$ with standardised scores s (paper,
    section 2).

    Attributes:
        weights: float64 (n_users, n_reward_models), finite, >= 0, each row sums to 1 (within 1e-6); read-only.
        reward_models: Names of the columns, in order.

    Raises:
        ParameterError: If the weights are not rows of the simplex; names the first user at fault.
        AxisMismatch: If the number of names is not the number of columns.

    >>> Population(weights=[[0.25, 0.75]], reward_models=("a", "b")).n_users
    1
    """

    weights: F64
    reward_models: tuple[str, ...]
    _origin: JSON | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        weights = np.array(self.weights, dtype=np.float64)
        names = tuple(str(name) for name in self.reward_models)
        if weights.ndim != 2 or not weights.shape[1]:
            raise AxisMismatch(
                f"The weights have shape {weights.shape}.", "Give an array (n_users, n_reward_models), 1 RM or more."
            )
        if len(names) != weights.shape[1]:
            raise AxisMismatch(f"{weights.shape[1]} columns of weights but {len(names)} reward models.", _REMEDY_NAMES)
        if len(set(names)) != len(names):
            raise ParameterError("reward_models", "distinct names", names)
        _check_simplex(weights)
        weights.setflags(write=False)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "reward_models", names)

    def __repr__(self) -> str:
        kind = (self._origin or {}).get("kind", "weights")
        return f"Population({kind}: {self.n_users} users, {len(self.reward_models)} reward models)"

    def __len__(self) -> int:
        return self.n_users

    @property
    def n_users(self) -> int:
        """Number of users."""
        return int(self.weights.shape[0])

    @property
    def n_reward_models(self) -> int:
        """Number of reward models."""
        return int(self.weights.shape[1])

    @classmethod
    def dirichlet(
        cls, n_users: int, alpha: float | Sequence[float], reward_models: Sequence[str], seed: int
    ) -> Population:
        """Draw users from a Dirichlet distribution (paper, section 2).

        The smaller alpha, the more a user follows a single reward model; for a large alpha all users agree. The draw
        is made in log space, so every row is valid however small alpha is, and the first n users do not depend on
        how many are drawn.

        Args:
            n_users: Number of users, >= 1.
            alpha: Concentration, > 0; one for all, or one for each reward model.
            reward_models: Names of the columns.
            seed: Seed of the draw.

        Raises:
            ParameterError: If `n_users` or `alpha` is out of range.
            AxisMismatch: If there is not one alpha for each reward model.

        >>> users = Population.dirichlet(3, 0.05, ("a", "b"), seed=0)
        >>> users.weights.shape
        (3, 2)
        """
        names = tuple(reward_models)
        concentration = check_alpha(alpha, len(names))
        weights = dirichlet_rows(check_count("n_users", n_users), concentration, seed)
        given = np.asarray(alpha, np.float64).tolist()
        return cls(
            weights=weights,
            reward_models=names,
            _origin=_drawn("dirichlet", n_users, names, seed, alpha=given),
        )

    @classmethod
    def mixed(
        cls,
        n_users: int,
        alphas: Sequence[float],
        reward_models: Sequence[str],
        seed: int,
        *,
        shares: Sequence[float] | None = None,
    ) -> Population:
        """Draw users of several kinds: each user draws its alpha first, then its weights.

        Args:
            n_users: Number of users, >= 1.
            alphas: Concentrations, > 0, one for each kind of user.
            reward_models: Names of the columns.
            seed: Seed of the draw.
            shares: Probability of each kind, >= 0, in sum 1; equal if None.

        Raises:
            ParameterError: If a value is out of its range.
            AxisMismatch: If there is not one share for each alpha.

        >>> Population.mixed(4, [0.01, 10.0], ("a", "b"), seed=0, shares=[0.5, 0.5]).n_users
        4
        """
        names, kinds = tuple(reward_models), [float(alpha) for alpha in alphas]
        if not kinds:
            raise ParameterError("alphas", "one value or more", alphas)
        for alpha in kinds:
            check_alpha(alpha, len(names))
        given = [1 / len(kinds)] * len(kinds) if shares is None else [float(share) for share in shares]
        if len(given) != len(kinds):
            raise AxisMismatch(f"{len(kinds)} alphas but {len(given)} shares.", "Give one share for each alpha.")
        if not all(share >= 0 for share in given) or abs(sum(given) - 1) > _SUM_TOLERANCE:
            raise ParameterError("shares", ">= 0 and in sum 1", shares)
        weights = mixture_rows(check_count("n_users", n_users), kinds, given, len(names), seed)
        return cls(
            weights=weights,
            reward_models=names,
            _origin=_drawn("mixed", n_users, names, seed, alphas=kinds, shares=given),
        )

    @classmethod
    def one_per_reward_model(cls, reward_models: Sequence[str]) -> Population:
        """Return one user for each reward model, who follows that one alone.

        >>> Population.one_per_reward_model(("a", "b")).weights.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        names = tuple(reward_models)
        return cls(
            weights=np.eye(len(names)),
            reward_models=names,
            _origin={"kind": "one-per-reward-model", "reward_models": list(names)},
        )

    @classmethod
    def uniform(cls, reward_models: Sequence[str]) -> Population:
        """Return the one user who weighs all reward models alike.

        >>> Population.uniform(("a", "b")).weights.tolist()
        [[0.5, 0.5]]
        """
        names = tuple(reward_models)
        return cls(
            weights=np.full((1, len(names)), 1 / max(len(names), 1)),
            reward_models=names,
            _origin={"kind": "uniform", "reward_models": list(names)},
        )

    @classmethod
    def published(cls, alpha: float = 0.05) -> Population:
        """Return the 1,000 users of the paper, equal to the last bit (paper, section 2).

        The paper analyses alpha in {0.01, 0.05, 0.1} and experiments with 0.05; the weights belong to the reward
        models in sorted order of their aliases. This is the only place that uses NumPy's legacy generator.

        Args:
            alpha: Concentration, > 0.

        Raises:
            ParameterError: If alpha is not positive, or so small that the legacy generator fails.

        >>> Population.published(0.05).weights[1, 0].round(9)
        np.float64(0.732365793)
        """
        check_alpha(alpha, len(PUBLISHED_REWARD_MODELS))
        legacy = np.random.RandomState(0)
        with np.errstate(all="ignore"):
            weights = legacy.dirichlet([alpha] * len(PUBLISHED_REWARD_MODELS), size=PUBLISHED_USERS)
        if not np.isfinite(weights).all():
            raise ParameterError("alpha", "large enough for the legacy generator; use dirichlet() instead", alpha)
        return cls(
            weights=weights,
            reward_models=PUBLISHED_REWARD_MODELS,
            _origin={"kind": "published", "alpha": float(alpha)},
        )

    @classmethod
    def from_spec(cls, spec: JSON) -> Population:
        """Return the population that `spec()` described.

        Raises:
            UserError: If the spec is not one of a population.

        >>> users = Population.published(0.1).subset([3, 1])
        >>> again = Population.from_spec(users.spec())
        >>> bool((again.weights == users.weights).all())
        True
        """
        arguments = {name: value for name, value in spec.items() if name != "kind"}
        build = _KINDS.get(str(spec.get("kind")))
        if build is None:
            raise UserError(
                f"There is no population of the kind {spec.get('kind')!r}.", f"Known: {', '.join(sorted(_KINDS))}."
            )
        try:
            return build(**arguments)
        except TypeError as error:
            raise UserError(f"The spec of a population does not fit: {error}.", "Use what spec() returned.") from error

    def spec(self) -> JSON:
        """Return JSON from which `from_spec` makes the same population; weights given by hand are written out."""
        if self._origin is not None:
            return dict(self._origin)
        return {"kind": "weights", "weights": self.weights.tolist(), "reward_models": list(self.reward_models)}

    def subset(self, rows: npt.ArrayLike) -> Population:
        """Return some of the users, in the order of `rows`.

        Args:
            rows: Distinct or repeated rows, integers (n,), each in [0, n_users).

        Raises:
            ParameterError: If a row is out of range.
        """
        index = np.asarray(rows)
        if index.ndim != 1 or not (np.issubdtype(index.dtype, np.integer) or not index.size):
            raise ParameterError("rows", "a list of integers", f"{index.dtype} of shape {index.shape}")
        if index.size and not (index.min() >= 0 and index.max() < self.n_users):
            raise ParameterError("rows", f"in [0, {self.n_users})", (int(index.min()), int(index.max())))
        index = index.astype(np.int64)
        return Population(
            weights=self.weights[index],
            reward_models=self.reward_models,
            _origin={"kind": "subset", "of": self.spec(), "rows": index.tolist()},
        )

    def without_near_duplicates(self, tolerance: float) -> Population:
        r"""Drop every user who is near an earlier user that is kept.

        Two users are near if the total variation distance of their weights, $\frac12 \sum_b |w_b - v_b|$ in [0, 1],
        is at most `tolerance`.

        Args:
            tolerance: Distance, in [0, 1].

        Raises:
            ParameterError: If the tolerance is not in [0, 1].

        >>> users = Population(weights=[[1, 0], [0.99, 0.01], [0, 1]], reward_models=("a", "b"))
        >>> users.without_near_duplicates(0.05).weights.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        if not 0 <= tolerance <= 1:
            raise ParameterError("tolerance", "in [0, 1]", tolerance)
        distinct = drop_near_duplicates(self.weights, tolerance)
        return Population(
            weights=self.weights[distinct],
            reward_models=self.reward_models,
            _origin={"kind": "without-near-duplicates", "of": self.spec(), "tolerance": float(tolerance)},
        )

    def check_reward_models(self, reward_models: Sequence[str]) -> None:
        """Check that a table has the reward models of this population, in the same order.

        Raises:
            AxisMismatch: If the names or their order differ; says where.
        """
        names = tuple(reward_models)
        if names == self.reward_models:
            return
        same = sorted(names) == sorted(self.reward_models)
        raise AxisMismatch(
            f"The population has the reward models {', '.join(self.reward_models)}; the scores have "
            f"{', '.join(names)}" + (" (the same names in another order)." if same else "."),
            "Build the population with reward_models=benchmark.reward_models.",
        )


def _check_simplex(weights: F64) -> None:
    """Raise `ParameterError` for the first row that is not on the simplex."""
    finite = np.isfinite(weights).all(axis=1)
    negative = (weights < 0).any(axis=1)
    off = np.abs(weights.sum(axis=1) - 1) > _SUM_TOLERANCE
    for bad, allowed in ((~finite, "finite"), (negative, ">= 0"), (finite & off, "rows that sum to 1 (within 1e-6)")):
        if bad.any():
            user = int(np.flatnonzero(bad)[0])
            raise ParameterError(f"weights of user {user}", allowed, weights[user].tolist())


def _drawn(kind: str, n_users: int, reward_models: Sequence[str], seed: int, **more: Any) -> JSON:
    """Return the origin of drawn users, as JSON."""
    return {"kind": kind, "n_users": int(n_users), "reward_models": list(reward_models), "seed": int(seed), **more}


def _subset(of: JSON, rows: Sequence[int]) -> Population:
    return Population.from_spec(of).subset(np.asarray(rows, np.int64))


def _distinct(of: JSON, tolerance: float) -> Population:
    return Population.from_spec(of).without_near_duplicates(tolerance)


_KINDS: dict[str, Callable[..., Population]] = {
    "dirichlet": Population.dirichlet,
    "mixed": Population.mixed,
    "one-per-reward-model": Population.one_per_reward_model,
    "published": Population.published,
    "subset": _subset,
    "uniform": Population.uniform,
    "weights": Population,
    "without-near-duplicates": _distinct,
}
