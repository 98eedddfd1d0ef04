"""Simulated users beside people: do the same learners stand in the same order?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.storage import canonical_json
from personalllm.core.types import F64
from personalllm.evaluation.prediction.estimates import draw_cell
from personalllm.evaluation.prediction.metrics import HIGHER_IS_BETTER, Cell
from personalllm.evaluation.prediction.results import PredictResults
from personalllm.evaluation.results import Estimate

__all__ = ["Agreement", "Orders", "Standing", "Transfer"]


FEWEST_LEARNERS = 3
"""Below so many learners an order says nothing."""

_SLACK = 1e-12


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a learner stands among simulated users and among people.

    Attributes:
        id: Label.
        title: A few words for tables.
        kind: `learner`, or `null`; nulls have no rank.
        simulated: The metric over simulated users.
        people: The metric over people.
        rank_simulated: 1 is best; learners that are equal share the mean of their ranks.
        rank_people: Likewise.
    """

    id: str
    title: str
    kind: str
    simulated: Estimate
    people: Estimate
    rank_simulated: float
    rank_people: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two orders of the same learners agree.

    Attributes:
        shots: Comparisons that the learners adapted to.
        metric: What they are ordered by.
        n_learners: Learners that both sides have.
        spearman: Rank correlation of the two orders, 1 = the same, with the 95 % interval over resampled users (and
            people or prompts), both resampled independently; it does not speak of other learners.
        kendall: Kendall's tau-b, likewise.
    """

    shots: int
    metric: str
    n_learners: int
    spearman: Estimate
    kendall: Estimate


@dataclass(frozen=True, slots=True)
class Orders:
    """Pairs of learners by what is known of their order; a pair is clear if it survives Holm's correction at 5 %.

    Attributes:
        same: Clear on both sides, in the same order.
        reversed: Clear on both sides, in opposite orders.
        simulated_only: Clear among simulated users alone.
        people_only: Clear among people alone.
        neither: Clear on neither side.
        reversals: The reversed pairs as (better among simulated users, better among people).
    """

    same: int
    reversed: int
    simulated_only: int
    people_only: int
    neither: int
    reversals: tuple[tuple[str, str], ...]

    @property
    def total(self) -> int:
        """All pairs."""
        return self.same + self.reversed + self.simulated_only + self.people_only + self.neither


@dataclass(frozen=True, eq=False)
class Transfer:
    """The same learners on simulated users and on people, compared on unseen users and unseen prompts.

    Two learners are the same if their specs are: a label may hide parameters that were defaults at the time of the run.
    On the people's side they get the labels of the simulated run.

    Attributes:
        simulated: From `predict` or `load_prediction`.
        people: From `predict_people` or `load_people`.

    Raises:
        UserError: If the two have no learner, or no number of shots, in common.
    """

    simulated: PredictResults
    people: PredictResults

    def __post_init__(self) -> None:
        object.__setattr__(self, "people", _relabelled(self.people, self.simulated))
        if not self.learners:
            told = [", ".join(one.id for one in side.learners if one.kind == "learner") for side in self._sides]
            raise UserError(
                f"The simulated run ({told[0]}) and the people's ({told[1]}) have no learner in common.",
                "Evaluate the same methods on both.",
            )
        if not self.shots:
            raise UserError(
                "The two runs have no number of shots in common for unseen users and unseen prompts.",
                "Use the same shots in both.",
            )

    @property
    def _sides(self) -> tuple[PredictResults, PredictResults]:
        return self.simulated, self.people

    @cached_property
    def shots(self) -> tuple[int, ...]:
        """Numbers of shots that both sides have."""
        found = [
            {c.shots for c in side.cells if (c.users, c.prompts, c.history) == ("unseen", "unseen", "true")}
            for side in self._sides
        ]
        return tuple(sorted(found[0] & found[1]))

    @cached_property
    def learners(self) -> tuple[str, ...]:
        """Labels of the learners that both sides have, in the order of the simulated run."""
        return tuple(self._shared("learner"))

    def _shared(self, kind: str) -> Iterator[str]:
        there = {one.id for one in self.people.learners if one.kind == kind}
        return (one.id for one in self.simulated.learners if one.kind == kind and one.id in there)

    def _labels(self, metric: str, shots: int) -> list[str]:
        """Return the learners for which both sides know the metric."""
        cell, key = _cell(shots), ("all", metric)
        known = []
        for label in self.learners:
            found = [side[label].estimates.get(cell, {}).get(key) for side in self._sides]
            if all(one is not None and math.isfinite(one.value) for one in found):
                known.append(label)
        return known

    def standings(self, metric: str = "accuracy", shots: int | None = None) -> tuple[Standing, ...]:
        """Return the learners, best among people first, then the nulls that both sides have.

        Args:
            metric: What they are ordered by.
            shots: Comparisons adapted to; the most that both sides have if None.
        """
        cell = _cell(self.shots[-1] if shots is None else shots)
        labels = self._labels(metric, cell.shots)
        values = np.array([self._values(label, metric, cell) for label in labels]).reshape(-1, 2).T
        ranks = np.array([_ranks(_signed(metric) * side[None])[0] for side in values]).reshape(2, -1)
        n = len(labels)
        found = [
            self._standing(label, metric, cell, n + 1 - float(a), n + 1 - float(b))
            for label, a, b in zip(labels, *ranks, strict=True)
        ]
        found.sort(key=lambda one: (one.rank_people, one.rank_simulated, one.id))
        nulls = [self._standing(label, metric, cell, math.nan, math.nan) for label in self._shared("null")]
        return (*found, *nulls)

    def _values(self, label: str, metric: str, cell: Cell) -> tuple[float, float]:
        simulated, people = (side[label].estimates[cell]["all", metric].value for side in self._sides)
        return simulated, people

    def _standing(self, label: str, metric: str, cell: Cell, simulated: float, people: float) -> Standing:
        one = self.simulated[label]
        both = [side[label].estimates[cell]["all", metric] for side in self._sides]
        return Standing(label, one.title, one.kind, both[0], both[1], simulated, people)

    def agreement(self, metric: str = "accuracy", shots: int | None = None) -> Agreement:
        """Return the rank correlations of the two orders; NaN for fewer than three learners or an order of equals."""
        most = self.shots[-1] if shots is None else shots
        labels = self._labels(metric, most)
        nothing = Estimate(math.nan, math.nan, math.nan)
        if len(labels) < FEWEST_LEARNERS:
            return Agreement(most, metric, len(labels), nothing, nothing)
        cell = _cell(most)
        point = np.array([self._values(label, metric, cell) for label in labels]).T[:, None]
        drawn = [np.stack([self._draws(side, label, metric, cell) for label in labels], 1) for side in self._sides]
        draws = min(len(side) for side in drawn)
        first, second = (side[:draws] for side in drawn)
        found = []
        for correlation in (_spearman, _kendall):
            value = float(correlation(point[0], point[1])[0])
            resampled = correlation(first, second)
            found.append(_estimate(value, resampled[np.isfinite(resampled)]))
        return Agreement(most, metric, len(labels), found[0], found[1])

    def _draws(self, side: PredictResults, label: str, metric: str, cell: Cell) -> F64:
        draws, seed = side.protocol["bootstrap_draws"], side.protocol["seed"]
        key = ("all", metric)
        return draw_cell(side[label].sums[cell], side.reward_models, draws=draws, seed=seed, only=key)[key]

    def orders(self, metric: str = "accuracy", shots: int | None = None) -> Orders:
        """Return, over all pairs of learners, where their order is clear and whether it is the same."""
        most = self.shots[-1] if shots is None else shots
        labels = self._labels(metric, most)
        verdicts = []
        for side in self._sides:
            compared = side.comparisons(metric, _cell(most), among=labels, every_pair=True)
            verdicts.append({frozenset((one.a, one.b)): one.better for one in compared})
        counts = dict.fromkeys(("same", "reversed", "simulated_only", "people_only", "neither"), 0)
        reversals = []
        for pair, simulated in verdicts[0].items():
            people = verdicts[1][pair]
            if simulated and people:
                counts["same" if simulated == people else "reversed"] += 1
                reversals += [] if simulated == people else [(simulated, people)]
            else:
                counts["simulated_only" if simulated else "people_only" if people else "neither"] += 1
        return Orders(**counts, reversals=tuple(reversals))

    def table(self) -> Any:
        """Return a tidy Arrow table: metric, shots, learner, kind, side, rank, value, low, high."""
        import pyarrow as pa

        rows = []
        for metric in ("accuracy", "log_loss"):
            for shots in self.shots:
                for one in self.standings(metric, shots):
                    for side, rank in (("simulated", one.rank_simulated), ("people", one.rank_people)):
                        estimate: Estimate = getattr(one, side)
                        row: dict[str, Any] = {
                            "metric": metric,
                            "shots": shots,
                            "learner": one.id,
                            "kind": one.kind,
                            "side": side,
                        }
                        row |= {"rank": rank, "value": estimate.value, "low": estimate.low, "high": estimate.high}
                        rows.append(row)
        return pa.Table.from_pylist(rows)

    def __str__(self) -> str:
        """Return the rank correlation at the most shots, and a line for each learner."""
        found = self.agreement()
        one = found.spearman
        lines = [
            (
                f"{self.simulated.benchmark_name} and {self.people.benchmark_name}, {found.n_learners} learners, "
                f"{found.shots} shots: rank correlation {one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
            )
        ]
        lines += [
            f"{row.id:24s} simulated {row.simulated.value:.3f}  people {row.people.value:.3f}"
            for row in self.standings()
        ]
        return "\n".join(lines)

    __repr__ = __str__


def _relabelled(people: PredictResults, simulated: PredictResults) -> PredictResults:
    """Return the people's results with the simulated run's label for each learner of the same spec."""
    labels = {canonical_json(one.spec): one.id for one in simulated.learners if one.kind == "learner"}
    taken = set(labels.values())
    learners = []
    for one in people.learners:
        label = labels.get(canonical_json(one.spec)) if one.kind == "learner" else one.id
        if label is None:
            label = f"{one.id} (other parameters)" if one.id in taken else one.id
        learners.append(dataclasses.replace(one, id=label))
    return dataclasses.replace(people, learners=tuple(learners))


def _cell(shots: int) -> Cell:
    return Cell("unseen", "unseen", "true", shots)


def _signed(metric: str) -> int:
    return 1 if HIGHER_IS_BETTER[metric] else -1


def _estimate(value: float, draws: F64) -> Estimate:
    if not math.isfinite(value) or not len(draws):
        return Estimate(value, math.nan, math.nan)
    low, high = (float(end) for end in np.quantile(draws, (0.025, 0.975)))
    return Estimate(value, low, high)


def _ranks(values: F64) -> F64:
    """Return the rank of each column within its row, 1 = lowest, equals sharing their mean; float64 (n, m)."""
    below = (values[:, :, None] > values[:, None, :] + _SLACK).sum(axis=2)
    equal = (np.abs(values[:, :, None] - values[:, None, :]) <= _SLACK).sum(axis=2)
    return np.asarray(below + (equal + 1) / 2)


def _spearman(a: F64, b: F64) -> F64:
    """Return the correlation of the ranks of each row, float64 (n,); NaN where one side is all equal."""
    first, second = (side - side.mean(axis=1, keepdims=True) for side in (_ranks(a), _ranks(b)))
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    found: F64 = np.divide((first * second).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)
    return found


def _kendall(a: F64, b: F64) -> F64:
    """Return tau-b of each row, float64 (n,); NaN where one side is all equal."""
    i, j = np.triu_indices(a.shape[1], 1)
    signs = []
    for side in (a, b):
        gap = side[:, i] - side[:, j]
        signs.append(np.where(np.abs(gap) <= _SLACK, 0.0, np.sign(gap)))
    scale = np.sqrt((signs[0] ** 2).sum(axis=1) * (signs[1] ** 2).sum(axis=1))
    found: F64 = np.divide((signs[0] * signs[1]).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)
    return found
