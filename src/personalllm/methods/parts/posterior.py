"""What a method offers to policies: the posterior of users' tastes, in which utility is linear."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.types import F32, F64, I32, I64, Histories, Queries
from personalllm.methods.asking.policy import Policy
from personalllm.methods.parts.beliefs import Belief
from personalllm.methods.parts.features import Pairs
from personalllm.methods.parts.held_out import user_slopes
from personalllm.methods.parts.linear_method import LinearMethod, moderated_scores, score_queries
from personalllm.methods.parts.low_rank import in_basis
from personalllm.methods.registry import get_method

__all__ = ["LinearPosterior", "Posterior"]


class Posterior(ABC):
    """A method with a posterior of each user's taste: policies that choose what to ask read it, and nothing else.

    A response is a vector (`tastes`), a user another (`belief`), a utility their product. A method of your own becomes
    one that can ask by these hooks; `fit` and `adapt` are as they were.

    Class attributes:
        moderated: Whether predictions are drawn in by the posterior's variance.
    """

    moderated: ClassVar[bool] = True

    def asking(self: Any, policy: Policy | str = "d-optimal") -> Policy:
        """Return a policy that asks for this fitted method."""
        made = get_method(policy) if isinstance(policy, str) else policy.clone()
        if not isinstance(made, Policy):
            raise UserError(f"{made.id!r} is no policy: it does not choose what to ask.", "Use one such as 'thompson'.")
        backends = {name: getattr(self, f"_{name}", None) for name in ("embedder", "signals")}
        return made.bind(**backends, seed=self.seed).learn_by(self)

    @abstractmethod
    def tastes(self, queries: Queries) -> tuple[F32, I64]:
        """Return the vectors of all responses of the prompts that are asked.

        Returns:
            float32 (n_distinct_prompts, n_responses, n_tastes), prompts ascending, zero beyond the responses of a
            prompt, and int64 (n_queries,): the place of each query's prompt among them.
        """

    @abstractmethod
    def known(self, histories: Histories) -> Pairs:
        """Return the comparisons of histories, their responses as vectors of `tastes`."""

    @abstractmethod
    def belief(self, pairs: Pairs, before: Belief | None = None) -> Belief:
        """Return the posterior after comparisons; the prior of a user without one.

        Args:
            pairs: In the space of `tastes`; their `weight` counts.
            before: The posterior after all but the last comparisons of each user, to save work.
        """

    @abstractmethod
    def without_prior(self) -> Self:
        """Return a fitted copy that takes nothing from the pool about which tastes are common."""

    def predict(self, belief: Belief, tastes: F32, index: I64, user: I32) -> F32:
        """Return utilities, float32 (n_queries, n_responses): those of `utilities` after `adapt` with as much known.

        Args:
            belief: Of the users.
            tastes: As from `tastes`.
            index: Likewise.
            user: int32 (n_queries,), rows of the belief.
        """
        if not self.moderated:
            return score_queries(belief.mean, tastes, index, user)
        scores = moderated_scores(belief.mean, belief.covariance.astype(np.float32), tastes, index, user)
        slopes = getattr(self, "slopes_", None)
        return scores if slopes is None else scores * user_slopes(slopes, belief.n)[user][:, None]


@dataclass
class LinearPosterior(Posterior, LinearMethod):
    """A linear method with a posterior of each user's weights on its features, or on a basis of them.

    Unless `moderated` is off, users' weights are the posterior means, and utilities are drawn in by its variance.
    """

    @property
    def basis(self) -> F64 | None:
        """What weights are on, float64 (n_features, n_tastes); None for the features themselves."""
        return None

    def tastes(self, queries: Queries) -> tuple[F32, I64]:
        """Return the features of all responses in the basis."""
        candidates, index = self.features_.candidates(self.embedder, queries)
        return candidates if self.basis is None else (candidates @ self.basis).astype(np.float32), index

    def known(self, histories: Histories) -> Pairs:
        """Return the comparisons in the basis."""
        pairs = self.comparisons(histories)
        return pairs if self.basis is None else in_basis(pairs, self.basis)

    def user_weights(self, pairs: Pairs) -> F32:
        """Return the posterior means, and keep the covariances."""
        belief = self.belief(pairs if self.basis is None else in_basis(pairs, self.basis))
        self.user_spread_ = belief.covariance.astype(np.float32)
        return belief.mean.astype(np.float32)

    def utilities(self, queries: Queries) -> F32:
        """Return utilities, float32 (n_queries, n_responses)."""
        if not self.moderated:
            return super().utilities(queries)
        mean = self.user_weights_.astype(np.float64)
        return moderated_scores(mean, self.user_spread_, *self.tastes(queries), queries.user)
