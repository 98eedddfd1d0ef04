"""Define what a track, a source of users and a baseline are, and the values that pass between them and the runner.

The runner, the store, the results, the sweep and the report know these types and no track by name. A track turns a
protocol and a source into conditions and units of work; a unit gives samples (rows of an Arrow table); the samples of a
condition add up to sums for each user; every metric, interval and test is made of these sums.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self, TypeAlias, runtime_checkable

from personalllm.core.protocols import ChatModel, RewardEnsemble, RewardSignals, TextEmbedder
from personalllm.core.types import F32, F64, JSON, Corpus
from personalllm.evaluation.parts import Options
from personalllm.methods.base import Method

__all__ = [
    "Axis",
    "Backends",
    "Baseline",
    "Condition",
    "Estimate",
    "Estimates",
    "Key",
    "Kind",
    "Metric",
    "NamedMethod",
    "Outcome",
    "Resamples",
    "Source",
    "Sums",
    "Table",
    "Track",
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
        users: `unseen` users are not in the pool, `seen` ones are.
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
    """What the samples of a condition add up to, for each user (or each prompt).

    Add up in float64 and cast last. A column that is not known is left out, never filled with 0.

    Attributes:
        columns: float32 (n_clusters,) each. Where clusters have several samples, `n` is their number.
        axis: What the clusters are.
        pairing: Digest of what no method can change (users, prompts, what is to be predicted): two sums may be compared
            cluster by cluster if and only if their digests are equal.
        groups: Names of the strata of clusters, such as `rm:length`; the column `group` holds positions in it, -1 for
            a cluster that is in none.
    """

    columns: Mapping[str, F32]
    axis: Axis = "users"
    pairing: str = ""
    groups: tuple[str, ...] = ()

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
        totals: Name -> float64 (n,): weighted totals of the columns in `Metric.reads`.
        columns: Name -> float64 (n_clusters,): the columns themselves.
        weights: float64 (n, n_clusters): how often each cluster counts in each resample.
    """

    totals: Mapping[str, F64]
    columns: Mapping[str, F64]
    weights: F64


@dataclass(frozen=True, eq=False)
class Metric:
    """All that is known of a metric: how it is computed, and how it is shown.

    Either `per_user` is given (the metric is the mean over clusters of the cluster's own mean, and has a sign-flip
    test), or `value` is.

    Attributes:
        id: Key in tables and options.
        heading: A few words for tables.
        unit: `sd` (standard deviations of the RMs), `share` (shown in percent), `nats`, or `ratio` (a plain number).
        higher_is_better: Whether more is better.
        reads: Columns of `Sums` that it needs; where one is missing, the metric is NaN.
        per_user: float64 (n_clusters,) from the columns: each cluster's own mean, NaN where it is not defined.
        value: float64 (n,) from n resamples.
        pooled: Column whose total over the total of `n` is the metric in a stratum of samples.
        log_odds: Whether it is undefined for methods whose differences of utilities are no log-odds.
        grain: Columns are rounded to 1 / grain before they are added up, which makes every sum exact.
        shifted: Whether resampling moves it (an absolute value, a selection of the worst): its resamples are shifted
            to have the estimate as their mean.
        users_only: Whether it makes no sense where clusters are prompts.
        note: A few words that stand under the heading.
    """

    id: str
    heading: str
    unit: Literal["sd", "share", "nats", "ratio"]
    higher_is_better: bool
    reads: tuple[str, ...]
    per_user: Callable[[Mapping[str, F64]], F64] | None = None
    value: Callable[[Resamples], F64] | None = None
    pooled: str = ""
    log_odds: bool = False
    grain: float = 2.0**24
    shifted: bool = False
    users_only: bool = False
    note: str = ""


@dataclass(frozen=True, eq=False)
class NamedMethod:
    """A method that takes part in a run; made by `resolve.named`.

    Attributes:
        method: Unfitted.
        label: Unique within the run: the id with the parameters that differ from the defaults.
        key: Folder name, of which seeds are derived: it must not change. The id and a digest of the spec; for a method
            from outside this package the digest covers its source files too.
        spec: What is needed to make the method again; of one from outside this package, its class too.
    """

    method: Method
    label: str
    key: str
    spec: JSON = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Backends:
    """The models that the edge handed over, and the scores of the RMs where the protocol allows them."""

    embedder: TextEmbedder | None = None
    llm: ChatModel | None = None
    rewards: RewardEnsemble | None = None
    signals: RewardSignals | None = None

    def bind(self, method: Method, seed: int = 0) -> Method:
        """Hand them over to a method.

        Raises:
            UserError: If one that it needs is missing.
        """
        allowed: dict[str, Any] = {} if self.signals is None else {"signals": self.signals}
        return method.bind(embedder=self.embedder, llm=self.llm, seed=seed, **allowed)


@runtime_checkable
class Baseline(Protocol):
    """What is evaluated beside the methods, computed from the scores.

    A `baseline` ignores the user, an `oracle` does not.
    """

    @property
    def id(self) -> str:
        """Name, unique within the run."""

    @property
    def title(self) -> str:
        """A few words for tables."""

    @property
    def kind(self) -> Literal["baseline", "oracle"]:
        """Whether it ignores the user."""

    def spec(self) -> JSON:
        """Return what it is, as JSON: `{"id": ..., "params": {...}}`."""

    def work(self, unit: Unit) -> Outcome:
        """Return samples with the same columns as a method's; `unit` is one of `Track.baseline_units`."""


@runtime_checkable
class Source(Protocol):
    """The users whose preferences are learned and predicted: simulated ones, or people.

    Tracks may need more than this of a source: `sources.simulated.Simulated` and `sources.people.People` say what they
    have.
    """

    @property
    def fingerprint(self) -> str:
        """Digest of the data."""

    @property
    def name(self) -> str:
        """Name of the data."""

    @property
    def corpus(self) -> Corpus:
        """The texts that methods may read."""

    def about(self) -> JSON:
        """Return name, fingerprint and sizes of the data, as JSON for the manifest."""


class Track(ABC):
    """What is asked of methods, and what is measured.

    Class attributes:
        id: Name in the registry `parts.tracks`.
        title: A few words.
        hook: Which method of `Method` is called.
        options: Fields of the protocol that only this track has; None if there are none.
        needs: Backends that the track itself needs, of `llm` and `rewards`.
        metrics: In the order of the tables.
        headline: Id of the metric that stands for a run.
        names: Baselines and oracles -> title; methods cannot have these names.
        elsewhere: Whether an executor may do the units; if not, all are done in this process.
        large_pool: Whether slow methods (those with an extra) are left out of `all` because of the pool's size.

    Attributes:
        protocol: Bound to its backends.
        source: The users.
        backends: As given to `evaluate`, with the scores of the RMs if the protocol allows them.
        conditions: Everything that is measured; `condition` of the samples points here.
    """

    id: ClassVar[str]
    title: ClassVar[str] = ""
    hook: ClassVar[Literal["utilities", "messages", "next_query"]] = "utilities"
    options: ClassVar[type[Options] | None] = None
    needs: ClassVar[frozenset[str]] = frozenset()
    metrics: ClassVar[tuple[Metric, ...]]
    headline: ClassVar[str]
    names: ClassVar[Mapping[str, str]] = {}
    elsewhere: ClassVar[bool] = True
    large_pool: ClassVar[bool] = False

    def __init__(self, protocol: Any, source: Any, backends: Backends) -> None:
        self.protocol = protocol
        self.source = source
        self.backends = backends

    @classmethod
    def of(cls, protocol: Any, source: Any, backends: Backends) -> Track:
        """Return the track for a protocol and a source; subclasses may choose by the kind of source."""
        return cls(protocol, source, backends)

    @classmethod
    def accepts(cls, method: type[Method]) -> str:
        """Return why methods of a class cannot take part; empty if they can."""
        return "" if method.implements(cls.hook) else f"it does not implement `{cls.hook}`"

    @classmethod
    def is_baseline(cls, name: str) -> bool:
        """Whether a name belongs to a baseline or an oracle of this track."""
        return name in cls.names

    @property
    @abstractmethod
    def conditions(self) -> tuple[Condition, ...]:
        """Everything that is measured."""

    @abstractmethod
    def units(self, key: str) -> Sequence[Unit]:
        """Cut a method's work into units.

        Args:
            key: Key of the method, which the seeds are derived from.
        """

    @abstractmethod
    def prepare(self, method: NamedMethod) -> Any:
        """Do what all units of a method need, such as `fit`; picklable. Not called if no unit is missing."""

    @abstractmethod
    def work(self, prepared: Any, unit: Unit) -> Outcome:
        """Do a unit's work, here or in another process."""

    @abstractmethod
    def sums(self, condition: Condition, samples: Table, *, log_odds: bool) -> Sequence[Sums]:
        """Add up the samples of a condition for each user.

        Args:
            condition: Of `conditions`.
            samples: Those of the condition, in the order of the units.
            log_odds: Whether differences of the method's utilities are log-odds.

        Returns:
            The sums that intervals resample; after them, if intervals need both, those over the other axis.
        """

    def check_history(self, method: NamedMethod) -> None:  # noqa: B027
        """Raise `UserError` if the protocol cannot give a method its kind of history; needs no backend."""

    def check(self, method: NamedMethod) -> None:
        """Raise `UserError` before the work begins if a method lacks a backend or cannot get its kind of history."""
        self.check_history(method)
        self.backends.bind(method.method.clone())

    def baselines(self) -> Sequence[Baseline]:
        """Return baselines, then oracles."""
        return ()

    def baseline_units(self, key: str) -> Sequence[Unit]:
        """Cut a baseline's work into units.

        A baseline does not depend on the history: a condition that no unit covers has the sums of the one with the same
        users and prompts that is covered.
        """
        return self.units(key)

    def counts(self, samples: Table) -> dict[str, int]:
        """Return what is counted over all samples of a method."""
        return {}

    def describe(self) -> JSON:
        """Return what was drawn, as JSON for the manifest."""
        return {}
