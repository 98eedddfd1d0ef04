"""Make the means of users, and metrics with what moves them by user and prompt, from sums.

A metric is a mean or a ratio of two; `core.crossed` has the variances that follow from its parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from personalllm.core.crossed import (
    MIN_PAIRED_USERS,
    MIN_PROMPTS,
    MIN_USERS,
    TAIL,
    Mean,
    Over,
    ratio_interval,
    weighted_mean,
)
from personalllm.core.errors import ParameterError
from personalllm.core.types import F64
from personalllm.evaluation.contract import Metric, Sums
from personalllm.evaluation.metrics import ratio

__all__ = [
    "ALL",
    "Parts",
    "column_mean",
    "combined",
    "is_defined",
    "shortage",
    "user_mean",
    "user_means",
    "user_weight",
]

ALL = "all"
"""The stratum of all users and pairs."""

_UNKNOWN = (math.nan, math.nan)


def is_defined(sums: Sums, metric: Metric) -> bool:
    """Return whether the sums have the columns that a metric needs; an unknown column is not 0."""
    return all(name in sums.columns for name in metric.columns) and not (metric.users_only and sums.axis != "users")


def user_means(sums: Sums, metric: Metric) -> F64:
    """Return float64 (n_users,): each user's own mean of a metric; NaN where it is undefined.

    Raises:
        ParameterError: If the metric is not a mean over users.
    """
    if not metric.is_mean:
        raise ParameterError("metric", "one that is a mean over users", metric.id)
    if not is_defined(sums, metric):
        return np.full(sums.n_clusters, np.nan)
    return combined(metric.top, lambda name: user_mean(sums, name))


def user_mean(sums: Sums, column: str) -> F64:
    """Return float64 (n_users,): each user's mean of a column; NaN for a user without answers."""
    total = sums.columns[column].astype(np.float64)
    return ratio(total, sums.columns["n"].astype(np.float64)) if "n" in sums.columns else total


def combined(terms: Mapping[str, float], column: Callable[[str], F64]) -> F64:
    """Return a linear combination of columns."""
    (first, *others) = [coefficient * column(name) for name, coefficient in terms.items()]
    return sum(others, first)


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """Numerator and denominator of a metric; None where it has none, or is neither a mean nor a ratio."""

    top: Mean | None
    bottom: Mean | None

    @classmethod
    def of(
        cls, sums: Sums, metric: Metric, stratum: str = ALL, mean: Callable[[str, str], Mean] | None = None
    ) -> Parts:
        """Return the parts of a metric in a stratum; `mean` may remember those of columns."""
        if not (metric.top and sums.prompts and is_defined(sums, metric)):
            return cls(None, None)
        mean = mean or (lambda of, column: column_mean(sums, of, column))
        sides = []
        for terms in (metric.top, metric.bottom):
            means = [_of_column(mean, stratum, name) * factor for name, factor in terms.items()]
            sides.append(sum(means[1:], means[0]) if means else None)
        return cls(*sides)

    def __sub__(self, other: Parts) -> Parts:
        """Return the parts of the difference of two methods, which have the same denominator."""
        if self.top is None or other.top is None:
            return Parts(None, None)
        return Parts(self.top - other.top, self.bottom)

    def too_few(self, over: Over, fewest: int) -> bool:
        """Return whether there are too few users or prompts for an interval."""
        return self.top is not None and (
            self.top.n_prompts < MIN_PROMPTS or (over != "prompts" and self.top.n_users < fewest)
        )

    def interval(self, over: Over, fewest: int = MIN_USERS, tail: float = TAIL) -> tuple[float, float]:
        """Return the ends of the interval; NaN if there is none."""
        if self.top is None or self.too_few(over, fewest):
            return _UNKNOWN
        if self.bottom is None:
            return self.top.interval(over, tail)
        return ratio_interval(self.top, self.bottom, over, tail)

    def p_value(self, over: Over) -> float:
        """Return the two-sided p-value of a numerator of 0."""
        return math.nan if self.top is None else self.top.p_value(over)

    def linear(self) -> Mean:
        """Return the metric as a mean, a ratio linearised at its value."""
        assert self.top is not None  # noqa: S101
        if self.bottom is None:
            return self.top
        value = self.top.value / self.bottom.value if self.bottom.value else math.nan
        moved = (self.top - self.bottom * value) * (1 / self.bottom.value if self.bottom.value else math.nan)
        return replace(moved, value=value)


def _of_column(mean: Callable[[str, str], Mean], stratum: str, name: str) -> Mean:
    own, colon, column = name.rpartition(":")
    return mean(own, column) if colon else mean(stratum, name)


def column_mean(sums: Sums, stratum: str, column: str) -> Mean:
    """Return the mean of a column in a stratum, with what moves it."""
    prompts = tuple(sums.prompts[f"{stratum}:{name}"].astype(np.float64) for name in (column, "n"))
    cells = None
    if f"{stratum}:{column}" in sums.cells:
        cells = tuple(sums.cells[f"{stratum}:{name}"].astype(np.float64) for name in (column, "n"))
    return weighted_mean(_user_side(sums, stratum, column), prompts, cells)  # type: ignore[arg-type]


def _user_side(sums: Sums, stratum: str, column: str) -> tuple[F64, F64]:
    """Return the weighted sum of a column (zeros without one) and the weight of each user in a stratum."""
    if stratum != ALL and stratum not in sums.groups:
        prefix = f"{stratum.replace('-', '')}_"
        return sums.columns[f"{prefix}{column}"].astype(np.float64), sums.columns[f"{prefix}n"].astype(np.float64)
    present = sums.columns["n"] > 0 if "n" in sums.columns else np.ones(sums.n_clusters, np.bool_)
    if stratum != ALL:
        present = present & (sums.columns["group"] == sums.groups.index(stratum))
    weight = np.where(present, user_weight(sums), 0.0)
    values = np.where(present, user_mean(sums, column), 0.0) if column else np.zeros(sums.n_clusters)
    return weight * values, weight


def user_weight(sums: Sums) -> F64:
    """Return how much each user counts in means over all, float64 (n_clusters,)."""
    weight = sums.columns.get("weight")
    return np.ones(sums.n_clusters) if weight is None else weight.astype(np.float64)


def shortage(sums: Sums, over: Over) -> str:
    """Return why there are no intervals and no verdicts, in a sentence; empty if there are."""
    if over == "users":
        return ""
    if not sums.prompts:
        return "No intervals and no verdicts: the track does not add up answers by prompt."
    n_users, n_prompts = (int(np.count_nonzero(side)) for side in (_user_side(sums, ALL, "")[1], sums.prompts["all:n"]))
    if n_prompts < MIN_PROMPTS:
        return f"No intervals and no verdicts: the number of prompts is {n_prompts:,}, below {MIN_PROMPTS}."
    if over == "prompts" or n_users >= MIN_USERS:
        return ""
    few = f"the number of users is {n_users:,}, below {MIN_USERS}"
    if n_users < MIN_PAIRED_USERS:
        return f"No intervals and no verdicts: {few} ({MIN_PAIRED_USERS} for differences)."
    return f"No intervals but those of differences: {few}."
