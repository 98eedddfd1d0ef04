"""Choose among the stored responses with the scores that no method sees: baselines and oracles of rank and generate.

The baselines that ignore who the user is are chosen for the whole population, so `limit` does not change them:

- `population-best` gives prompt p the response with the highest mean utility over the population, which is the highest
  `mean weights . scores[p]`, because utility is linear in the weights;
- `best-single-rm` gives every prompt the top response of one RM, the RM with which the population fares best on the
  split;
- `model:NAME` gives every prompt the response of the reference response model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from personalllm.core.errors import DataError
from personalllm.core.types import F32, F64, I32, JSON, U8
from personalllm.evaluation.contract import Outcome, Unit
from personalllm.evaluation.sources.simulated import Simulated

__all__ = ["TITLES", "Choices", "StoredChoice"]

TITLES: dict[str, str] = {
    "population-best": "Best response for the population (not personalised)",
    "best-single-rm": "Top response of the best single RM (not personalised)",
    "oracle": "User's best stored response",
    "worst": "User's worst stored response",
}
"""Baselines and oracles -> title; the reference response model joins them as `model:NAME`."""

_ORACLES = ("oracle", "worst")


@dataclass(frozen=True, eq=False)
class Choices:
    """The choices of baselines and oracles.

    Attributes:
        source: The users and their utilities.
    """

    source: Simulated

    @property
    def reference(self) -> str:
        """Name of the baseline that gives the reference response model's responses."""
        return f"model:{self.source.protocol.reference_response_model}"

    @property
    def names(self) -> tuple[str, ...]:
        """Baselines, then oracles."""
        return *(name for name in TITLES if name not in _ORACLES), self.reference, *_ORACLES

    def choose(self, name: str, utilities: F32, prompts: I32) -> U8:
        """Return uint8 (n,): the column of the benchmark that is chosen for each query.

        Args:
            name: One of `names`.
            utilities: float32 (n, n_responses), the user's own.
            prompts: int32 (n,), rows of the benchmark.
        """
        if name in _ORACLES:
            column = utilities.argmax(axis=1) if name == "oracle" else utilities.argmin(axis=1)
            return np.asarray(column, np.uint8)
        fixed: U8 = self.fixed[name][prompts]
        return fixed

    def standards(self, utilities: F32, prompts: I32) -> dict[str, F32]:
        """Return what every method is compared with, float32 (n,) each.

        `best_utility`: the user's best stored response; `population_best_utility`: the best response for the
        population; `reference_utility`: the reference response model's.

        Args:
            utilities: float32 (n, n_responses), the user's own.
            prompts: int32 (n,), rows of the benchmark.
        """
        rows = np.arange(len(prompts))
        names = {"best": "oracle", "population_best": "population-best", "reference": self.reference}
        return {
            f"{column}_utility": utilities[rows, self.choose(name, utilities, prompts)]
            for column, name in names.items()
        }

    @cached_property
    def fixed(self) -> dict[str, U8]:
        """The choices that ignore the user, uint8 (n_prompts,) each.

        Raises:
            DataError: If the reference response model did not answer one of the prompts.
        """
        source = self.source
        mean: F64 = np.einsum(
            "prm,m->pr", source.table.values.astype(np.float64), source.full_population.weights.mean(axis=0)
        )
        rows = source.benchmark.rows(source.protocol.split)
        tops = source.table.values.argmax(axis=1)
        of_rms = [float(mean[rows, tops[rows, rm]].mean()) for rm in range(tops.shape[1])]
        return {
            "population-best": mean.argmax(axis=1).astype(np.uint8),
            "best-single-rm": tops[:, int(np.argmax(of_rms))].astype(np.uint8),
            self.reference: self._reference_choice(),
        }

    def _reference_choice(self) -> U8:
        benchmark, name = self.source.benchmark, str(self.source.protocol.reference_response_model)
        is_its = benchmark.response_model_index == benchmark.response_models.index(name)
        prompts = np.unique(self.source.prompts)
        missing = prompts[~is_its[prompts].any(axis=1)]
        if len(missing):
            raise DataError(
                f"The reference response model {name!r} wrote no response to {len(missing)} of the {len(prompts)} "
                f"prompts (first: {benchmark.prompt_ids[int(missing[0])].as_py()!r}).",
                "Name a response model that answered every prompt with reference_response_model=...",
            )
        chosen: U8 = is_its.argmax(axis=1).astype(np.uint8)
        return chosen


@dataclass(frozen=True, eq=False)
class StoredChoice:
    """A baseline or an oracle that gives a stored response to each query.

    Attributes:
        id: Name.
        choices: Of all of them.
        answer: From the name and a unit to the samples, as the track has them.
    """

    id: str
    choices: Choices
    answer: Callable[[str, Unit], Outcome]

    @property
    def title(self) -> str:
        """A few words for tables."""
        return TITLES.get(self.id) or f"Response model {self.choices.source.protocol.reference_response_model}"

    @property
    def kind(self) -> Literal["baseline", "oracle"]:
        """Whether it ignores the user."""
        return "oracle" if self.id in _ORACLES else "baseline"

    def spec(self) -> JSON:
        """Return what it is, as JSON."""
        return {"id": self.id, "params": {}}

    def work(self, unit: Unit) -> Outcome:
        """Return its samples."""
        return self.answer(self.id, unit)
