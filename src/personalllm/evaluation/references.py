"""Reference policies, computed from the scores that no method sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import DataError
from personalllm.core.types import F32, U8
from personalllm.evaluation.task import Task

__all__ = ["PREDICTORS", "REFERENCES", "Policy", "StoredPolicies"]

REFERENCES: dict[str, str] = {
    "oracle": "User's best stored response",
    "population-best": "Best response for the population (not personalised)",
    "best-single-rm": "Top response of the best single RM (not personalised)",
    "worst": "User's worst stored response",
}
"""Names of the reference policies and their titles; the reference response model joins them as `model:NAME`."""

PREDICTORS: dict[str, str] = {
    "random": "A coin",
    "longer": "Length alone: one coefficient, from the pool",
    "population": "What most users of the pool prefer",
    "best-linear": "Best linear function of the features, for each user",
    "true-weights": "The user's own utilities",
}
"""Nulls and oracles of the predict track and their titles: computed from scores that no learner sees."""


@dataclass(frozen=True, eq=False)
class Policy:
    """A choice among the stored responses.

    Attributes:
        id: Name.
        title: A few words for tables.
        choice: uint8 (n_users, n_queries_per_user), column of the benchmark.
        utility: float32, the same shape.
    """

    id: str
    title: str
    choice: U8
    utility: F32


@dataclass(frozen=True, eq=False)
class StoredPolicies:
    """The reference policies of a task.

    The policies that ignore who the user is are chosen for the whole population, so `limit` does not change them:

    - `population-best` gives prompt p the response with the highest mean utility over the population, which is the
      highest `mean weights . scores[p]`, because utility is linear in the weights;
    - `best-single-rm` gives every prompt the top response of one RM, the RM with which the population fares best on
      the split.
    """

    policies: tuple[Policy, ...]

    def __getitem__(self, name: str) -> Policy:
        return next(policy for policy in self.policies if policy.id == name)

    def __iter__(self) -> Iterator[Policy]:
        return iter(self.policies)

    @property
    def reference(self) -> Policy:
        """The reference response model's responses."""
        return self.policies[-1]

    @classmethod
    def of(cls, task: Task) -> StoredPolicies:
        """Compute the reference policies, users in blocks.

        Raises:
            DataError: If the reference response model did not answer one of the prompts.
        """
        fixed = {
            "population-best": _population_best(task),
            "best-single-rm": _best_single_rm(task),
            f"model:{task.protocol.reference_response_model}": _reference_model(task),
        }
        names = [*REFERENCES, f"model:{task.protocol.reference_response_model}"]
        shape = task.prompts.shape
        choices: dict[str, U8] = {name: np.empty(shape, np.uint8) for name in names}
        utility: dict[str, F32] = {name: np.empty(shape, np.float32) for name in names}
        step = max(1, task.protocol.users_per_shard)
        for start in range(0, shape[0], step):
            block = slice(start, min(shape[0], start + step))
            values = task.utilities(block.start, block.stop)
            choices["oracle"][block] = values.argmax(axis=2)
            choices["worst"][block] = values.argmin(axis=2)
            for name, by_prompt in fixed.items():
                choices[name][block] = by_prompt[task.prompts[block]]
            for name in names:
                picked = choices[name][block][..., None].astype(np.intp)
                utility[name][block] = np.take_along_axis(values, picked, axis=2)[..., 0]
        titles = REFERENCES | {names[-1]: f"Response model {task.protocol.reference_response_model}"}
        return cls(tuple(Policy(name, titles[name], choices[name], utility[name]) for name in names))


def _mean_utility(task: Task) -> npt.NDArray[np.float64]:
    """Return float64 (n_prompts, n_responses): the population's mean utility."""
    values: npt.NDArray[np.float64] = np.einsum(
        "prm,m->pr", task.table.values.astype(np.float64), task.everyone.weights.mean(axis=0)
    )
    return values


def _population_best(task: Task) -> U8:
    chosen: U8 = _mean_utility(task).argmax(axis=1).astype(np.uint8)
    return chosen


def _best_single_rm(task: Task) -> U8:
    rows = task.benchmark.rows(task.protocol.split)
    mean = _mean_utility(task)
    tops = task.table.values.argmax(axis=1)
    fares = [float(mean[rows, tops[rows, rm]].mean()) for rm in range(tops.shape[1])]
    chosen: U8 = tops[:, int(np.argmax(fares))].astype(np.uint8)
    return chosen


def _reference_model(task: Task) -> U8:
    benchmark, name = task.benchmark, task.protocol.reference_response_model
    wrote = benchmark.response_model_index == benchmark.response_models.index(name)
    asked = np.unique(task.prompts)
    missing = asked[~wrote[asked].any(axis=1)]
    if len(missing):
        raise DataError(
            f"The reference response model {name!r} wrote no response to {len(missing)} of the {len(asked)} prompts "
            f"(first: {benchmark.prompt_ids[int(missing[0])].as_py()!r}).",
            "Name a response model that answered every prompt with reference_response_model=...",
        )
    chosen: U8 = wrote.argmax(axis=1).astype(np.uint8)
    return chosen
