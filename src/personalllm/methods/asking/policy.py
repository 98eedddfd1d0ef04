"""The contract of a policy: from what a method believes of users to the comparison that each is asked for."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.seeding import generator
from personalllm.core.types import F32, F64, I32, I64, JSON, U8, Histories, Queries
from personalllm.methods.base import Method, Need, fitting
from personalllm.methods.parts.beliefs import Belief
from personalllm.methods.parts.features import Pairs
from personalllm.methods.registry import get_method

__all__ = ["Offer", "Policy", "has_posterior"]

Open = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Offer:
    """What users may be asked, and what is believed of them; all that a policy sees.

    A question is a pair of responses to one of the prompts that are offered to a user. Utilities are in log-odds: the
    difference of two is that of the user's preference.

    Attributes:
        belief: Of the users.
        prior: Of a user who has answered nothing, (1, n_tastes).
        tastes: float32 (n_prompts, n_responses, n_tastes), the responses as `Posterior.tastes` has them.
        index: int64 (n_users, n_offered), rows of `tastes`: the prompts that each user may be asked about.
        open: bool (n_users, n_offered, n_pairs): whether a pair may be asked, pairs in the order of `pairs`.
        rng: For draws.
    """

    belief: Belief
    prior: Belief
    tastes: F32
    index: I64
    open: Open
    rng: np.random.Generator

    @cached_property
    def pairs(self) -> tuple[I64, I64]:
        """The two responses of each pair, int64 (n_pairs,) each, the lower column first."""
        return np.triu_indices(self.tastes.shape[1], k=1)

    @cached_property
    def vectors(self) -> F64:
        """float64 (n_users, n_offered, n_responses, n_tastes)."""
        return self.tastes[self.index].astype(np.float64)

    def utilities(self, taste: F64) -> F64:
        """Return float64 (n_users, n_offered, n_responses) for a taste of each user, or of one who stands for all."""
        shape = self.index.shape[0], -1, self.vectors.shape[3]
        flat = self.vectors.reshape(shape) @ np.broadcast_to(taste, (shape[0], shape[2]))[:, :, None]
        return np.asarray(flat.reshape(self.vectors.shape[:3]))

    @cached_property
    def mean(self) -> F64:
        """Expected utilities, float64 (n_users, n_offered, n_responses)."""
        return self.utilities(self.belief.mean)

    @cached_property
    def common(self) -> F64:
        """The same of a user who has answered nothing."""
        return self.utilities(self.prior.mean)

    @cached_property
    def gap(self) -> F64:
        """Expected utility of each pair's first response above that of the second, (n_users, n_offered, n_pairs)."""
        return self.apart(self.mean)

    @cached_property
    def deviation(self) -> F64:
        """Standard deviation of that difference, (n_users, n_offered, n_pairs)."""
        x, (first, second) = self.vectors, self.pairs
        n, k, width, d = x.shape
        rotated = (x.reshape(n, k * width, d) @ self.belief.covariance).reshape(x.shape)
        inner = rotated @ x.swapaxes(2, 3)
        square = np.diagonal(inner, axis1=2, axis2=3)
        variance = square[..., first] + square[..., second] - 2.0 * inner[..., first, second]
        # by rounding it falls below zero where two responses are nearly equal
        return np.sqrt(np.maximum(0.0, variance))

    def draw(self) -> F64:
        """Return utilities under a taste drawn from each user's posterior, (n_users, n_offered, n_responses)."""
        return self.utilities(self.belief.draw(self.rng))

    def apart(self, utilities: F64) -> F64:
        """Return the difference of the two responses of each pair, (n_users, n_offered, n_pairs)."""
        first, second = self.pairs
        return np.asarray(utilities[..., first] - utilities[..., second])

    def both(self, values: F64) -> F64:
        """Return the sum over the two responses of each pair, (n_users, n_offered, n_pairs)."""
        first, second = self.pairs
        return np.asarray(values[..., first] + values[..., second])

    def is_pair(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Open:
        """Return which pair each (a, b) is, columns (n_users, n_offered); bool (n_users, n_offered, n_pairs)."""
        (first, second), low, high = self.pairs, np.minimum(a, b)[..., None], np.maximum(a, b)[..., None]
        return np.asarray((first == low) & (second == high))


def has_posterior(method: Method | type[Method]) -> bool:
    """Tell whether policies can ask for a method: it has a posterior of users' tastes (see `parts.posterior`)."""
    return callable(getattr(method, "belief", None))


@dataclass
class Policy(Method):
    """Base class: chooses what to ask users, whose answers a method learns from.

    A policy of your own implements `value`. It sees the posterior alone, never an answer to come.

    >>> @dataclass
    ... class Closest(Policy):
    ...     id = "closest"
    ...
    ...     def value(self, offer):
    ...         return -abs(offer.gap)

    Args:
        method: Registered name of a method with a posterior, or `module:Class`.
        parameters: Of the method.
        prior: Whether the method uses what the pool says about which tastes are common.
        window: How many of a user's last answers count, >= 1; None for all.
        discount: In (0, 1]: by how much an answer counts less with each one that follows.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"embedder"})
    log_odds: ClassVar[bool] = True

    method: str = field(default="sparse-basis", kw_only=True)
    parameters: JSON = field(default_factory=dict, kw_only=True)
    prior: bool = field(default=True, kw_only=True)
    window: int | None = field(default=None, kw_only=True)
    discount: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.window is not None:
            self.check_positive("window")
        self.check_number("discount")
        if self.discount > 1:
            raise ParameterError("discount", "in (0, 1]", self.discount)
        if not isinstance(self.prior, bool):
            raise ParameterError("prior", "true or false", self.prior)

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """A method with few features."""
        return {"method": "hierarchical-bt", "parameters": {"n_features": 8, "steps": 4}}

    def value(self, offer: Offer) -> F64:
        """Return how much each question is worth asking, (n_users, n_offered, n_pairs); -inf for not at all.

        The best that is open is asked, of equals the first; if none is worth it, nothing.
        """
        raise NotImplementedError(f"{self.id!r} does not say what a question is worth.")

    def unfitted(self) -> Method:
        """Return the method that learns from the answers, unfitted.

        Raises:
            UserError: If it is unknown or has no posterior.
        """
        made = get_method(self.method, **self.parameters)
        if not has_posterior(made):
            raise UserError(
                f"The policy {self.id!r} cannot ask for {self.method!r}, which has no posterior of a user's taste.",
                "Use one that has: sparse-basis, hierarchical-bt, calibrated-bayes, pref, lore, rm-mixture.",
            )
        return made

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Fit the method on the pool."""
        return self.learn_by(self._bound_method().fit(pool))

    def learn_by(self, fitted: Method) -> Self:
        """Ask for a method that is fitted already; one with these parameters."""
        self.learned_ = fitted.fitted_state()
        self.restore({"learned_": self.learned_})
        self._posterior: Any = fitted if self.prior else fitted.without_prior()  # type: ignore[attr-defined]
        return self

    @property
    def posterior(self) -> Any:
        """The fitted method, a `Posterior`."""
        if "_posterior" not in vars(self):
            restored: Any = self._bound_method().restore(self.learned_)
            self._posterior = restored if self.prior else restored.without_prior()
        return self._posterior

    def _bound_method(self) -> Method:
        backends = {name: getattr(self, f"_{name}", None) for name in ("embedder", "llm", "signals")}
        return self.unfitted().bind(**backends, seed=self.seed)

    def restore(self, learned: Any) -> Self:
        """Set what an equal policy learned in `fit`."""
        vars(self).pop("_posterior", None)
        return super().restore(learned)

    def adapt(self, histories: Histories) -> Self:
        """Learn from the target users' answers so far."""
        self.belief_ = self.posterior.belief(self.remembered(self.posterior.known(histories)))
        self.answers_ = np.diff(histories.offsets)
        return self

    def remembered(self, pairs: Pairs) -> Pairs:
        """Return what counts of the comparisons, the newest of a user last: all, or a window, or with weights."""
        if self.window is None and self.discount == 1:
            return pairs
        place = pairs.places
        age = pairs.n_preferences[pairs.user] - 1 - place
        if self.discount < 1:
            pairs = replace(pairs, weight=pairs.weights * self.discount ** age.astype(np.float64))
        return pairs if self.window is None else pairs.where(age < self.window)

    def choose(self, offer: Offer) -> tuple[I64, U8, U8]:
        """Return the question for each user: the place among those offered, -1 for none, and two columns, (n_users,).

        Raises:
            UserError: If `value` returns another shape or NaN.
        """
        value = np.asarray(self.value(offer), np.float64)
        if value.shape != offer.open.shape or np.isnan(value[offer.open]).any():
            wrong = "NaN" if value.shape == offer.open.shape else f"values of shape {value.shape}"
            raise UserError(
                f"The policy {self.id!r} returned {wrong} for questions of shape {offer.open.shape}.",
                "Return a number, or -inf, for each (user, prompt offered, pair of responses).",
            )
        flat = np.where(offer.open, value, -np.inf).reshape(len(value), -1)
        best = flat.argmax(axis=1)
        nothing = flat[np.arange(len(flat)), best] == -np.inf
        place, pair = np.divmod(best, value.shape[2])
        first, second = offer.pairs
        return np.where(nothing, -1, place), first[pair].astype(np.uint8), second[pair].astype(np.uint8)

    def asking(self, policy: Policy | str = "") -> Policy:
        """Return a copy of the policy itself, which asks for its method."""
        return copy(self)

    def next_query(self, queries: Queries) -> tuple[I32, U8, U8]:
        """Choose for each user the comparison to ask for, among the responses of the prompts."""
        tastes, at = self.posterior.tastes(queries)
        counts = np.bincount(queries.user, minlength=queries.n_users)
        order = np.argsort(queries.user, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        place = np.arange(int(counts.max(initial=0)))
        there = place < counts[:, None]
        if not there.any():
            nothing = np.zeros(queries.n_users, np.uint8)
            return np.full(queries.n_users, -1, np.int32), nothing, nothing
        rows = order[np.where(there, starts[:, None] + place, 0)]
        _, second = np.triu_indices(tastes.shape[1], k=1)
        possible = there[:, :, None] & (second < queries.corpus.counts[queries.prompt[rows]][:, :, None])
        prior = self.posterior.belief(self.posterior.known(Histories.empty(queries.corpus, 1)))
        rng = generator(self.seed, "ask", self.id, int(self.answers_.sum()))
        chosen, a, b = self.choose(Offer(self.belief_, prior, tastes, at[rows], possible, rng))
        row = rows[np.arange(queries.n_users), np.maximum(chosen, 0)]
        return np.where(chosen < 0, -1, row).astype(np.int32), a, b
