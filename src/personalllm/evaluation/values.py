"""Define the values that pass between tracks, the store, the metrics and the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from personalllm.core.crossed import Over
from personalllm.core.types import F32, F64, JSON

__all__ = [
    "Axis",
    "Condition",
    "Estimate",
    "Estimates",
    "Key",
    "Kind",
    "Metric",
    "Outcome",
    "Over",
    "Resamples",
    "Sums",
    "Table",
    "Unit",
]

Table: TypeAlias = Any
"""A `pyarrow.Table`; pyarrow is imported where it is used, not here."""

Kind: TypeAlias = Literal["method", "baseline", "oracle"]
Axis: TypeAlias = Literal["users", "prompts"]
Key: TypeAlias = tuple[str, str]
"""Stratum and metric: `("all", "accuracy")`."""


@dataclass(frozen=True, order=True, slots=True)
class Condition:
    """Under which circumstances something is measured.

    Attributes:
        users: `unseen` users are not in the pool, `seen` ones are; `both` together, where every sample counts alike.
        prompts: `unseen` prompts are in nobody's history, `seen` ones in those of others.
        history: `true`, or a counterfactual: `flipped`, `other-user`, `shuffled`.
        shots: Preferences of the user that the method has adapted to; in an online track, the rounds so far.
    """

    users: str = "unseen"
    prompts: str = "unseen"
    history: str = "true"
    shots: int = 0

    def __str__(self) -> str:
        """Return the condition in words.

        >>> str(Condition("unseen", "seen", "true", 4))
        'unseen users, seen prompts, 4 shots'
        """
        history = "" if self.history == "true" else f", {self.history} history"
        return f"{self.users} users, {self.prompts} prompts{history}, {self.shots} shots"

    def spec(self) -> JSON:
        """Return the condition as JSON."""
        return {name: getattr(self, name) for name in ("users", "prompts", "history", "shots")}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the condition that `spec()` described."""
        return cls(spec["users"], spec["prompts"], spec["history"], int(spec["shots"]))


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work of one method: one item of an executor, one file of the store.

    Attributes:
        key: Key of the method or baseline.
        index: Position among the units of the method.
        start: First row; rows are users, requests or fits, as the track has it.
        stop: Row after the last.
        seed: Derived from the protocol, the method and the rows, so that order and parallelism change nothing.
        weight: Size of the work, for progress: queries, requests, test pairs or fits.
        conditions: Positions in `Track.conditions` that the unit's samples belong to.
    """

    key: str
    index: int
    start: int
    stop: int
    seed: int
    weight: int
    conditions: tuple[int, ...] = (0,)

    def spec(self) -> JSON:
        """Return the unit as JSON; the weight, which no sample depends on, is left out."""
        values: JSON = {name: getattr(self, name) for name in ("key", "index", "start", "stop", "seed")}
        return values | {"conditions": list(self.conditions)}


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """The result of a unit.

    Attributes:
        samples: Columns `condition` (int16, position in `Track.conditions`), `user` (int32), `prompt` (int32), then the
            track's own. Sums over users, over prompts and over both can be made of it.
        seconds: Name -> wall-clock seconds (`adapt`, `answer`), added up over the units; a name that ends in `_users`
            counts the users that the seconds of that name were spent on, as in `adapt` / `adapt_users`.
    """

    samples: Table
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sums:
    """What the samples of a condition add up to, for each user (or each prompt), and by prompt and cell.

    Add up in float64 and cast last. A column that is not known is left out, never filled with 0.

    Attributes:
        columns: float32 (n_clusters,) each. Where clusters have several samples, `n` is their number. `weight` says how
            much a cluster counts in means over all; without it all count alike.
        axis: What the clusters are.
        pairing: Digest of what no method can change (users, prompts, what is to be predicted): two sums may be compared
            cluster by cluster if and only if their digests are equal.
        groups: Names of the strata of clusters, such as `rm:length`; the column `group` holds positions in it, -1 for
            a cluster that is in none.
        prompts: `STRATUM:COLUMN` -> float32 (n_prompts,): the same answers by prompt, from `measures.crossed`, for
            intervals over prompts; empty without.
        cells: The same by hashed cell, float32 (N_BUCKETS,), of the stratum `all`.
    """

    columns: Mapping[str, F32]
    axis: Axis = "users"
    pairing: str = ""
    groups: tuple[str, ...] = ()
    prompts: Mapping[str, F32] = field(default_factory=dict)
    cells: Mapping[str, F32] = field(default_factory=dict)

    @property
    def n_clusters(self) -> int:
        """Number of users (or prompts)."""
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; NaN where it is not defined.

    Attributes:
        value: Estimate over all clusters.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


Estimates: TypeAlias = Mapping[Key, Estimate]


@dataclass(frozen=True, eq=False, slots=True)
class Resamples:
    """What the value of a metric is computed from, for n resamples of the clusters at once.

    Attributes:
        totals: Name -> float64 (n,): weighted totals of the columns in `Metric.columns`.
        columns: Name -> float64 (n_clusters,): the columns themselves.
        weights: float64 (n, n_clusters): how often each cluster counts in each resample.
    """

    totals: Mapping[str, F64]
    columns: Mapping[str, F64]
    weights: F64


@dataclass(frozen=True, eq=False)
class Metric:
    """All that is known of a metric: how it is computed, and how it is shown.

    A metric is `top`, a linear combination of means over users of each user's own mean, or the ratio `top / bottom` of
    two of them. Intervals and tests follow from that. What is neither has a `value`.

    Attributes:
        id: Key in tables and options.
        heading: A few words for tables.
        unit: `sd` (standard deviations of the RMs), `share` (shown in percent), `nats`, or `ratio` (a plain number).
        higher_is_better: Whether more is better.
        top: Column of `Sums` -> coefficient; where a column is missing, the metric is NaN. `longer:correct` is the mean
            of `correct` over all pairs of the stratum `longer`.
        bottom: Likewise, the denominator, of columns that do not depend on the method; empty if it is no ratio.
        reads: Columns that `value` needs; the metric is NaN where one is missing.
        value: float64 (n,) from n resamples; with it, `top` serves intervals over users and prompts alone, and without
            `top` there are none.
        pooled: Column whose total over the total of `n` is the metric in a stratum of samples.
        log_odds: Whether it is undefined for methods whose differences of utilities are no log-odds.
        shifted: Whether resampling moves it (an absolute value, a selection of the worst): its resamples are shifted
            to have the estimate as their mean.
        users_only: Whether it makes no sense where clusters are prompts.
        note: A few words that stand under the heading.
    """

    id: str
    heading: str
    unit: Literal["sd", "share", "nats", "ratio"]
    higher_is_better: bool
    top: Mapping[str, float] = field(default_factory=dict)
    bottom: Mapping[str, float] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    value: Callable[[Resamples], F64] | None = None
    pooled: str = ""
    log_odds: bool = False
    shifted: bool = False
    users_only: bool = False
    note: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of `Sums` that it needs."""
        return self.reads or (*self.top, *self.bottom)

    @property
    def is_mean(self) -> bool:
        """Whether it is a mean over users of each user's own mean, which has a sign-flip test."""
        return self.value is None and not self.bottom
