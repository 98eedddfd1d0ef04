"""Compare simulated users with people: do the same methods stand in the same order?"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.storage import canonical_json
from personalllm.core.types import F64
from personalllm.evaluation.contract import Condition, Estimate, Table
from personalllm.evaluation.estimates import percentiles
from personalllm.evaluation.means import ALL
from personalllm.evaluation.results import Results
from personalllm.methods.base import Method
from personalllm.methods.registry import get_method, recorded_class

__all__ = ["MIN_METHODS", "Agreement", "Orders", "Standing", "Transfer", "methods_of"]

MIN_METHODS = 3
"""Below so many methods an order says nothing."""

_SLACK = 1e-12
_UNDEFINED = Estimate(math.nan, math.nan, math.nan)


def methods_of(results: Results) -> list[Method]:
    """Return the methods of a run that learn from people's preferences too, unfitted, made again from their specs.

    Raises:
        UserError: If one is neither built in nor an installed plugin: a run may come from anybody, so the classes that
            it names are not imported.
    """
    specs = [result.spec for result in results.methods if result.kind == "method"]
    for spec in specs:
        try:
            recorded_class(str(spec["id"]), str(spec.get("class", "")))
        except UserError as error:
            raise UserError(
                f"The run's method cannot be made again from its folder: {error.message}",
                "Evaluate your methods on the people's preferences yourself (personalllm evaluate, or pl.evaluate with "
                "the methods passed) and compare with that run.",
            ) from error
    methods = [get_method(str(spec["id"]), **spec["params"]) for spec in specs]
    return [method for method in methods if "signals" not in method.needs]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a method stands among simulated users and among people.

    Attributes:
        label: Unique within the comparison.
        title: A few words for tables.
        kind: `method`, or `baseline`; baselines have no rank.
        simulated: The metric over simulated users.
        people: The metric over people.
        rank_simulated: 1 is best; methods that are equal share the mean of their ranks; NaN for baselines.
        rank_people: Likewise.
    """

    label: str
    title: str
    kind: str
    simulated: Estimate
    people: Estimate
    rank_simulated: float
    rank_people: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two orders of the same methods agree.

    Attributes:
        shots: Comparisons that the methods adapted to.
        metric: What they are ordered by.
        n_methods: Methods that both sides have.
        spearman: Rank correlation of the two orders, 1 = the same, with the 95 % interval over resampled users (and
            people or prompts), both resampled independently; it does not cover other methods.
        kendall: Kendall's tau-b, likewise.
    """

    shots: int
    metric: str
    n_methods: int
    spearman: Estimate
    kendall: Estimate


@dataclass(frozen=True, slots=True)
class Orders:
    """Pairs of methods by what is known of their order; a pair is clear if it survives Holm's correction at 5 %.

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
    """The same methods on simulated users and on people, compared on unseen users and unseen prompts.

    Two methods are the same if their specs are: a label may hide parameters that were defaults at the time of the run.
    On the people's side they get the labels of the simulated run.

    Attributes:
        simulated: Of the predict track on a benchmark.
        people: Of the predict track on people's preferences.

    Raises:
        UserError: If the two have no method, or no number of shots, in common.
    """

    simulated: Results
    people: Results

    def __post_init__(self) -> None:
        object.__setattr__(self, "people", _relabelled(self.people, self.simulated))
        if not self.methods:
            labels = [", ".join(r.label for r in side.methods if r.kind == "method") for side in self._sides]
            raise UserError(
                f"The simulated run ({labels[0]}) and the people's ({labels[1]}) have no method in common.",
                "Evaluate the same methods on both.",
            )
        if not self.shots:
            raise UserError(
                "The two runs have no number of shots in common for unseen users and unseen prompts.",
                "Use the same shots in both.",
            )

    @property
    def _sides(self) -> tuple[Results, Results]:
        return self.simulated, self.people

    @cached_property
    def shots(self) -> tuple[int, ...]:
        """Numbers of shots that both sides have."""
        first, second = ({c.shots for c in side.conditions if c == Condition(shots=c.shots)} for side in self._sides)
        return tuple(sorted(first & second))

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Labels of the methods that both sides have, in the order of the simulated run."""
        return self._shared("method")

    @cached_property
    def dropped(self) -> tuple[str, ...]:
        """Why shots that were asked for are missing, a sentence for each reason."""
        drawn = [side.manifest.get("drawn") or {} for side in self._sides]
        reasons = [str(of_side["dropped"]) for of_side in drawn if "dropped" in of_side]
        pairs = zip(self._sides, self._sides[::-1], ("people", "simulated users"), strict=True)
        for side, other, whose in pairs:
            here, there = ({c.shots for c in run.conditions if c == Condition(shots=c.shots)} for run in (side, other))
            if only := sorted(here - there):
                listed = ", ".join(map(str, only))
                reasons.append(f"Shots {listed} of {side.data_name} were not measured on {whose} ({other.data_name}).")
        return tuple(reasons)

    def _shared(self, kind: str) -> tuple[str, ...]:
        of_people = {result.label for result in self.people.methods if result.kind == kind}
        of_simulated = (result.label for result in self.simulated.methods if result.kind == kind)
        return tuple(label for label in of_simulated if label in of_people)

    def _estimates(self, label: str, metric: str, at: Condition) -> list[Estimate]:
        """Return the metric over simulated users and over people."""
        return [side[label].estimates.get(at, {}).get((ALL, metric), _UNDEFINED) for side in self._sides]

    def _at(self, shots: int | None) -> Condition:
        return Condition(shots=self.shots[-1] if shots is None else shots)

    def _comparable(self, metric: str, at: Condition) -> tuple[list[str], F64]:
        """Return the methods for which both sides know the metric, and its values, float64 (2, n)."""
        values = {label: [e.value for e in self._estimates(label, metric, at)] for label in self.methods}
        defined = {label: pair for label, pair in values.items() if all(map(math.isfinite, pair))}
        return list(defined), np.array(list(defined.values())).reshape(-1, 2).T

    def standings(self, metric: str = "accuracy", shots: int | None = None) -> tuple[Standing, ...]:
        """Return the methods, best among people first, then the baselines that both sides have.

        Args:
            metric: What they are ordered by.
            shots: Comparisons adapted to; the largest number that both sides have if None.
        """
        at = self._at(shots)
        labels, values = self._comparable(metric, at)
        sign = -1 if self.simulated.metric(metric).higher_is_better else 1
        ranks = [_ranks(sign * side[None])[0].tolist() for side in values]
        standings = [
            self._standing(label, metric, at, *pair)
            for label, pair in zip(labels, zip(*ranks, strict=True), strict=True)
        ]
        standings.sort(key=lambda standing: (standing.rank_people, standing.rank_simulated, standing.label))
        baselines = [self._standing(label, metric, at, math.nan, math.nan) for label in self._shared("baseline")]
        return (*standings, *baselines)

    def _standing(self, label: str, metric: str, at: Condition, simulated: float, people: float) -> Standing:
        result, (first, second) = self.simulated[label], self._estimates(label, metric, at)
        return Standing(label, result.title, result.kind, first, second, simulated, people)

    def agreement(self, metric: str = "accuracy", shots: int | None = None) -> Agreement:
        """Return the rank correlations of the two orders; NaN for fewer than three methods or an order of equals."""
        at = self._at(shots)
        labels, values = self._comparable(metric, at)
        if len(labels) < MIN_METHODS:
            return Agreement(at.shots, metric, len(labels), _UNDEFINED, _UNDEFINED)
        drawn = [np.stack([side.draws(label, metric, at) for label in labels], axis=1) for side in self._sides]
        n = min(len(side) for side in drawn)
        estimates = []
        for correlation in (_spearman, _kendall):
            value = float(correlation(values[0][None], values[1][None])[0])
            ends = percentiles(correlation(drawn[0][:n], drawn[1][:n])) if math.isfinite(value) else ()
            estimates.append(Estimate(value, *ends) if ends else Estimate(value, math.nan, math.nan))
        return Agreement(at.shots, metric, len(labels), *estimates)

    def orders(self, metric: str = "accuracy", shots: int | None = None) -> Orders:
        """Return, over all pairs of methods, where their order is clear and whether it is the same."""
        at = self._at(shots)
        labels, _ = self._comparable(metric, at)
        verdicts = []
        for side in self._sides:
            compared = side.comparisons(metric, at, among=labels, every_pair=True)
            verdicts.append({frozenset((pair.a, pair.b)): pair.better for pair in compared})
        counts: Counter[str] = Counter()
        reversals = []
        for pair, simulated in verdicts[0].items():
            people = verdicts[1][pair]
            if simulated and people:
                counts["same" if simulated == people else "reversed"] += 1
                reversals += [] if simulated == people else [(simulated, people)]
            else:
                counts["simulated_only" if simulated else "people_only" if people else "neither"] += 1
        names = ("same", "reversed", "simulated_only", "people_only", "neither")
        return Orders(**{name: counts[name] for name in names}, reversals=tuple(reversals))

    def table(self) -> Table:
        """Return a tidy Arrow table: metric, shots, method, kind, side, rank, value, low, high."""
        import pyarrow as pa

        rows = []
        for metric in ("accuracy", "log_loss"):
            for shots in self.shots:
                for standing in self.standings(metric, shots):
                    about = {"metric": metric, "shots": shots, "method": standing.label, "kind": standing.kind}
                    for side, rank, estimate in (
                        ("simulated", standing.rank_simulated, standing.simulated),
                        ("people", standing.rank_people, standing.people),
                    ):
                        rows.append(about | {"side": side, "rank": rank} | dataclasses.asdict(estimate))
        return pa.Table.from_pylist(rows)

    def __str__(self) -> str:
        """Return the rank correlation at the largest number of shots, and a line for each method."""
        agreement = self.agreement()
        spearman = agreement.spearman
        first = (
            f"{self.simulated.data_name} and {self.people.data_name}, {agreement.n_methods} methods, "
            f"{agreement.shots} shots: rank correlation {spearman.value:.2f} [{spearman.low:.2f}, {spearman.high:.2f}]"
        )
        rows = (
            f"{row.label:24s} simulated {row.simulated.value:.3f}  people {row.people.value:.3f}"
            for row in self.standings()
        )
        return "\n".join([first, *rows])

    __repr__ = __str__


def _relabelled(people: Results, simulated: Results) -> Results:
    """Return the people's results with the simulated run's label for each method of the same spec."""
    labels = {canonical_json(r.spec): r.label for r in simulated.methods if r.kind == "method"}
    simulated_labels = set(labels.values())
    results = []
    for result in people.methods:
        label = labels.get(canonical_json(result.spec)) if result.kind == "method" else result.label
        if label is None:
            label = f"{result.label} (other parameters)" if result.label in simulated_labels else result.label
        results.append(dataclasses.replace(result, label=label))
    return dataclasses.replace(people, methods=tuple(results))


def _ranks(values: F64) -> F64:
    """Return the rank of each column within its row, 1 = lowest, equals sharing their mean; float64 (n, m)."""
    below = (values[:, :, None] > values[:, None, :] + _SLACK).sum(axis=2)
    equal = (np.abs(values[:, :, None] - values[:, None, :]) <= _SLACK).sum(axis=2)
    return np.asarray(below + (equal + 1) / 2)


def _spearman(a: F64, b: F64) -> F64:
    """Return the correlation of the ranks of each row, float64 (n,); NaN where one side is all equal."""
    first, second = (side - side.mean(axis=1, keepdims=True) for side in (_ranks(a), _ranks(b)))
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    correlation: F64 = np.divide((first * second).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)
    return correlation


def _kendall(a: F64, b: F64) -> F64:
    """Return tau-b of each row, float64 (n,); NaN where one side is all equal."""
    i, j = np.triu_indices(a.shape[1], 1)
    signs = []
    for side in (a, b):
        gap = side[:, i] - side[:, j]
        signs.append(np.where(np.abs(gap) <= _SLACK, 0.0, np.sign(gap)))
    scale = np.sqrt((signs[0] ** 2).sum(axis=1) * (signs[1] ** 2).sum(axis=1))
    tau: F64 = np.divide((signs[0] * signs[1]).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)
    return tau
