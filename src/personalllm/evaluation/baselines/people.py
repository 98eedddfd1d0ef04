"""Compute the baselines for people, from what the other people did, and the oracles where utilities are known."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from personalllm.core.types import F32, F64, I64, JSON, Histories
from personalllm.evaluation.baselines.predicting import Coin, Longer, NamedBaseline, PopulationShare
from personalllm.evaluation.contract import Outcome, Unit
from personalllm.evaluation.sources.people import Fold, People

__all__ = ["CHOICES", "PEOPLE_BASELINES", "PeopleChoice"]

_SLOPE_STEPS = 50

CHOICES = {
    "population-best": "Most popular in the pool (not personalised)",
    "oracle": "The person's own best",
    "worst": "The person's own worst",
}
"""Whose choices stand beside those of methods where people rated -> title."""


@dataclass(frozen=True, eq=False)
class _PeopleBaseline(NamedBaseline):
    """A baseline for people; a unit is a fold."""

    people: People

    def work(self, unit: Unit) -> Outcome:
        """Return samples with the same columns as a method's."""
        import pyarrow as pa

        fold = self.people.folds[unit.start]
        tests = self.people.tests(fold)
        margins = {kind: self.margins(fold, rows) for kind, rows in tests.items()}
        conditions = [(index, self.people.conditions[index].prompts) for index in unit.conditions]
        tables = [self.people.samples(index, tests[prompts], margins[prompts]) for index, prompts in conditions]
        return Outcome(pa.concat_tables(tables))

    @abstractmethod
    def margins(self, fold: Fold, rows: I64) -> F32:
        """Return the log-odds, float32 (n,), that the chosen response of rows is preferred."""


class PeopleCoin(_PeopleBaseline):
    """A coin for every pair."""

    id = Coin.id
    title = Coin.title

    def margins(self, fold: Fold, rows: I64) -> F32:
        """Return zeros."""
        return np.zeros(len(rows), np.float32)


class PeopleLonger(_PeopleBaseline):
    """The longer response, with one coefficient for the ratio of the lengths."""

    id = Longer.id
    title = Longer.title

    def margins(self, fold: Fold, rows: I64) -> F32:
        """Return log-odds proportional to the log of the ratio of the lengths."""
        slope = _slope(self.people.length_ratios(self.people.pool(fold)))
        return np.asarray((slope * self.people.lengths[rows]).astype(np.float32))


class PeopleShare(_PeopleBaseline):
    """The share of the other people who prefer a response to the same other one."""

    id = PopulationShare.id
    title = PopulationShare.title

    def margins(self, fold: Fold, rows: I64) -> F32:
        """Return log-odds of the share, one vote added on each side; 0 for a pair that nobody else compared."""
        width = self.people.corpus.n_responses

        def pairs(histories: Histories, first: str, second: str) -> I64:
            """Return a number for each prompt and ordered pair of its responses."""
            prompt = histories.prompt.astype(np.int64)
            return np.asarray((prompt * width + getattr(histories, first)) * width + getattr(histories, second))

        wins = np.sort(pairs(self.people.pool(fold), "chosen", "rejected"))
        tests = self.people.people.histories.rows(rows)
        ways = (pairs(tests, "chosen", "rejected"), pairs(tests, "rejected", "chosen"))
        votes = [np.searchsorted(wins, way, "right") - np.searchsorted(wins, way, "left") for way in ways]
        margin = np.log(votes[0] + 1.0) - np.log(votes[1] + 1.0)
        return np.asarray(margin.astype(np.float32))


PEOPLE_BASELINES = (PeopleCoin, PeopleLonger, PeopleShare)
"""Baselines for people, whose utilities are unknown, so that there is no oracle."""


def _slope(lengths: F64) -> float:
    """Return the slope b for which sigmoid(b x) is likeliest, by Newton steps under a weak prior, N(0, 10)."""
    slope = 0.0
    for _ in range(_SLOPE_STEPS):
        wrong = 1.0 / (1.0 + np.exp(np.clip(slope * lengths, -500, 500)))
        gradient = float((wrong * lengths).sum()) - slope / 10
        curvature = float((wrong * (1 - wrong) * lengths**2).sum()) + 0.1
        step = gradient / curvature
        slope += step
        if abs(step) < 1e-9:
            break
    return slope


@dataclass(frozen=True, eq=False)
class PeopleChoice:
    """A baseline or an oracle that chooses among the responses that a person rated.

    Attributes:
        id: One of `CHOICES`.
        answer: From the name and a unit to the samples, as the track has them.
    """

    id: str
    answer: Callable[[str, Unit], Outcome]

    @property
    def title(self) -> str:
        """A few words for tables."""
        return CHOICES[self.id]

    @property
    def kind(self) -> Literal["baseline", "oracle"]:
        """Whether it ignores the user."""
        return "baseline" if self.id == "population-best" else "oracle"

    def spec(self) -> JSON:
        """Return what it is, as JSON."""
        return {"id": self.id, "params": {}}

    def work(self, unit: Unit) -> Outcome:
        """Return its samples."""
        return self.answer(self.id, unit)
