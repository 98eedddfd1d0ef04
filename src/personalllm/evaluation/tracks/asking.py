"""What the tracks share in which users are asked round by round, simulated users and people."""

from __future__ import annotations

from copy import copy
from typing import Any, ClassVar

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F64, Histories
from personalllm.evaluation.calls import fitted
from personalllm.evaluation.contract import Metric, NamedMethod, Sums, Table, Track
from personalllm.evaluation.measures import choice_columns, crossed, pairing_digest
from personalllm.evaluation.metrics import ONLINE_METRICS
from personalllm.evaluation.resolve import named
from personalllm.evaluation.sources.asking import OnlineOptions
from personalllm.evaluation.sources.options import PredictOptions
from personalllm.methods.asking.policy import Policy
from personalllm.methods.base import Method

__all__ = ["ASKED", "BASELINES", "KNOWN", "AskingTrack", "added"]

ASKED = -1
"""`condition` of the samples that say what was asked."""

BASELINES = ("population-best", "oracle")
KNOWN = ("asked", "average_regret", "weak_regret", "changed")
"""Columns of what is known of a user by then."""

_STANDARDS = ("best_utility", "population_best_utility", "reference_utility")
_MAX_MARGIN = 60.0


class AskingTrack(Track):
    """A track in which policies ask users, and the methods that they ask for are measured."""

    id = "online"
    title = "Ask, answer, adapt"
    options = OnlineOptions
    metrics: ClassVar[tuple[Metric, ...]] = ONLINE_METRICS
    headline = "regret"
    hook: ClassVar = "next_query"
    work_unit = "questions"
    large_pool = False
    people = True
    people_options = PredictOptions

    def __getstate__(self) -> dict[str, Any]:
        """Leave the fitted methods behind: units of work get theirs with the policy."""
        return {name: value for name, value in vars(self).items() if name != "_learners"}

    @classmethod
    def accepts(cls, method: type[Method]) -> str:
        """Return why methods of a class cannot take part; empty if they can."""
        return "" if method.implements(cls.hook) else "it is no policy, which chooses what to ask"

    def check(self, method: NamedMethod) -> None:
        """Raise if a backend is missing or the method of the policy has no posterior."""
        if not isinstance(method.method, Policy):
            raise UserError(
                f"{method.label!r} chooses what to ask, but not by what a method believes.",
                "Make it a subclass of personalllm.methods.Policy.",
            )
        self.backends.bind(method.method.clone())
        self.backends.bind(method.method.unfitted())

    def fitted_policy(self, method: NamedMethod, pool: Histories, *purpose: str | int) -> Policy:
        """Return a policy with its method fitted on a pool, once for all policies that ask for it in this process.

        Args:
            method: The policy.
            pool: What to fit on.
            purpose: What seeds derive from beside keys; tells pools apart.
        """
        policy = method.method.clone()
        assert isinstance(policy, Policy)  # noqa: S101
        learner = named(policy.unfitted())
        learners: dict[Any, Method] = self.__dict__.setdefault("_learners", {})
        key = (learner.key, *purpose)
        if key not in learners:
            seed = derive_seed(self.protocol.seed, purpose[0], learner.key, *purpose[1:])
            learners[key] = fitted(pool, self.backends, learner, seed)
        seed = derive_seed(self.protocol.seed, purpose[0], method.key, *purpose[1:])
        return self.backends.bind(policy, seed).learn_by(copy(learners[key]))  # type: ignore[attr-defined, no-any-return]

    def counts(self, samples: Table) -> dict[str, int]:
        """Return the number of queries and of questions."""
        asked = int((samples["condition"].to_numpy() == ASKED).sum())
        return {"queries": samples.num_rows - asked, "questions": asked}


def added(samples: Table, n_users: int, data: str, *, log_odds: bool) -> Sums:
    """Add up the queries of each user.

    Args:
        samples: Of a condition.
        n_users: Number of users.
        data: What the users and prompts are positions in.
        log_odds: Whether margins are log-odds.
    """
    column = {name: samples[name].to_numpy() for name in samples.column_names if name != "texts"}
    user, prompt = column["user"], column["prompt"]
    standards = {name.removesuffix("_utility"): column[name] for name in _STANDARDS if name in column}
    values: dict[str, F64] = choice_columns(column["utility"], **standards)
    values |= {name: column[name].astype(np.float64) for name in KNOWN if not np.isnan(column[name]).any()}
    if not np.isnan(column["margin"]).any():
        margin = column["margin"].astype(np.float64) * np.where(column["answer"] == 0, 1, column["answer"])
        values["correct"] = (margin > 0) + 0.5 * (margin == 0)
        if log_odds:
            values["log_loss"] = np.logaddexp(0.0, -np.clip(margin, -_MAX_MARGIN, _MAX_MARGIN))
    sums = {name: np.bincount(user, of, minlength=n_users).astype(np.float32) for name, of in values.items()}
    sums["n"] = np.bincount(user, minlength=n_users).astype(np.float32)
    # nothing that drifts: the rounds of a run are compared too
    asked = (column[name] for name in ("user", "prompt", "first", "second"))
    prompts, cells = crossed(user, prompt, values)
    return Sums(sums, "users", pairing_digest(*asked, data=data), prompts=prompts, cells=cells)
