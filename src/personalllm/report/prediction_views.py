"""The predict track as the report shows it: which rows, in which order, under which names."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from personalllm.evaluation.prediction.metrics import HIGHER_IS_BETTER, Cell
from personalllm.evaluation.results import Estimate

if TYPE_CHECKING:
    from personalllm.evaluation.prediction.results import LearnerResult, PredictResults

__all__ = ["HEADINGS", "UNDEFINED", "Heading", "PredictionView"]

UNDEFINED = Estimate(math.nan, math.nan, math.nan)
"""Stands for a number that a learner does not have."""

LEVEL = 0.05
"""Family-wise level of what is called real."""

_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Heading:
    """A column of a table of metrics: its key, its heading, what stands below, and whether it is a share."""

    key: str
    text: str
    note: str = ""
    share: bool = False


HEADINGS = (
    Heading("accuracy", "Accuracy", "%", share=True),
    Heading("log_loss", "Log-loss", "0.693 = coin"),
    Heading("ece", "ECE", "lower is better"),
    Heading("brier", "Brier", "0.25 = coin"),
    Heading("regret", "Regret", "lower is better"),
    Heading("tau", "Kendall tau"),
    Heading("length_controlled", "Length-controlled", "accuracy, %", share=True),
    Heading("worst_decile", "Worst decile", "accuracy, %", share=True),
    Heading("minority", "Minority", "accuracy, %", share=True),
)
"""Metrics in the order of the columns."""


@dataclass(frozen=True, eq=False)
class PredictionView:
    """One run of the predict track, or one evaluation on people.

    Attributes:
        results: Where the numbers come from.
        key: Anchor in the page.
    """

    results: PredictResults
    key: str = "predict"

    @property
    def source(self) -> str:
        """Name of the benchmark, or of the people's preferences."""
        return self.results.benchmark_name

    @property
    def of_people(self) -> bool:
        """Whether the users are people."""
        return self.results.protocol.get("track") == "people"

    @property
    def unit(self) -> str:
        """What intervals resample: `users`, `people` or `prompts`."""
        said = str(self.results.manifest.get("resample", "users"))
        return "people" if self.of_people and said == "users" else said

    @cached_property
    def headline(self) -> Cell:
        """The cell that the tables and the text are about."""
        return self.results.headline

    @cached_property
    def learners(self) -> tuple[LearnerResult, ...]:
        """Learners, highest accuracy in the headline cell first."""
        return self._by_accuracy("learner")

    @cached_property
    def nulls(self) -> tuple[LearnerResult, ...]:
        """What needs no learning about a user."""
        return self._by_accuracy("null")

    @cached_property
    def oracles(self) -> tuple[LearnerResult, ...]:
        """What knows the utilities."""
        return self._by_accuracy("oracle")

    @property
    def rows(self) -> tuple[LearnerResult, ...]:
        """Learners, nulls, oracles."""
        return self.learners + self.nulls + self.oracles

    def shown(self, metric: str = "accuracy") -> tuple[LearnerResult, ...]:
        """Return the learners that have a look of their own in the curves: the best six that have the metric."""
        known = [one for one in self.learners if math.isfinite(self.at(one, metric).value)]
        sign = -1 if HIGHER_IS_BETTER[metric] else 1
        return tuple(sorted(known, key=lambda one: sign * self.at(one, metric).value)[:_SHOWN])

    def _by_accuracy(self, kind: str) -> tuple[LearnerResult, ...]:
        found = [one for one in self.results.learners if one.kind == kind]
        return tuple(sorted(found, key=lambda one: (-_number(self.at(one, "accuracy").value), one.id)))

    @cached_property
    def _titles(self) -> Counter[str]:
        return Counter(one.title or one.id for one in self.results.learners)

    def name(self, one: LearnerResult | str) -> str:
        """Return the title of a learner, its label added where another one has the same title."""
        row = self.results[one] if isinstance(one, str) else one
        title = row.title or row.id
        return title if self._titles[title] == 1 else f"{title} ({row.id})"

    def at(self, one: LearnerResult, metric: str, cell: Cell | None = None, stratum: str = "all") -> Estimate:
        """Return a number, `UNDEFINED` if the learner does not have it."""
        return one.estimates.get(cell or self.headline, {}).get((stratum, metric), UNDEFINED)

    @cached_property
    def panels(self) -> tuple[Cell, ...]:
        """One cell with true histories for each kind of users and prompts, at its largest number of shots."""
        best: dict[tuple[str, str], Cell] = {}
        for cell in self.results.cells:
            if cell.history == "true":
                place = (cell.users, cell.prompts)
                if place not in best or best[place].shots < cell.shots:
                    best[place] = cell
        return tuple(best.values())

    def shots(self, cell: Cell) -> tuple[int, ...]:
        """Return the numbers of shots that the curve through a cell has."""
        line = (cell.users, cell.prompts, cell.history)
        return tuple(sorted(c.shots for c in self.results.cells if (c.users, c.prompts, c.history) == line))

    @cached_property
    def counterfactuals(self) -> tuple[Cell, ...]:
        """The cells like the headline one whose histories are not the user's own."""
        head = self.headline
        alike = (head.users, head.prompts, head.shots)
        return tuple(c for c in self.results.cells if (c.users, c.prompts, c.shots) == alike and c.history != "true")

    @cached_property
    def contested(self) -> tuple[str, ...]:
        """The strata by how contested a pair is that the headline cell has."""
        return self._strata("contested-")

    @cached_property
    def reward_models(self) -> tuple[str, ...]:
        """The strata by strongest reward model that the headline cell has."""
        return self._strata("rm:")

    def _strata(self, prefix: str) -> tuple[str, ...]:
        found = {stratum for one in self.rows for stratum, _ in one.estimates.get(self.headline, {})}
        order = [f"rm:{name}" for name in self.results.reward_models]
        return tuple(
            sorted((s for s in found if s.startswith(prefix)), key=lambda s: (s in order and order.index(s), s))
        )

    @cached_property
    def headings(self) -> tuple[Heading, ...]:
        """The metrics that somebody has in the headline cell."""
        return tuple(h for h in HEADINGS if any(math.isfinite(self.at(one, h.key).value) for one in self.rows))

    def stratum_users(self, stratum: str) -> int:
        """Return how many users of the headline cell stand in a stratum `rm:NAME` or `contested-N`."""
        sums = next(one.sums[self.headline] for one in self.results.learners if self.headline in one.sums)
        if stratum.startswith("contested-"):
            return int((sums[f"contested{stratum[-1]}_n"] > 0).sum())
        place = self.results.reward_models.index(stratum.removeprefix("rm:"))
        return int(((sums["strongest"] == place) & (sums["n"] > 0)).sum())

    def n_users(self, cell: Cell) -> int:
        """Return how many users (or prompts) with test pairs a cell has."""
        sums = next((one.sums[cell] for one in self.results.learners if cell in one.sums), None)
        return int((sums["n"] > 0).sum()) if sums is not None else 0

    def n_pairs(self, cell: Cell) -> int:
        """Return how many test pairs a cell has."""
        sums = next((one.sums[cell] for one in self.results.learners if cell in one.sums), None)
        return int(sums["n"].sum()) if sums is not None else 0


def _number(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
