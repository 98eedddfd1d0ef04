"""Define what a track, a source of users and a baseline are, beside the values that pass between them.

The runner, the store, the results, the sweep and the report know these types and no track by name. A track turns a
protocol and a source into conditions and units of work; a unit gives samples (rows of an Arrow table); the samples of a
condition add up to sums for each user; every metric, interval and test is made of these sums.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from personalllm.core.protocols import ChatModel, RewardEnsemble, RewardSignals, TextEmbedder
from personalllm.core.types import JSON, Corpus
from personalllm.evaluation.parts import Options
from personalllm.evaluation.values import (
    Axis,
    Condition,
    Estimate,
    Estimates,
    Key,
    Kind,
    Metric,
    Outcome,
    Over,
    Resamples,
    Sums,
    Table,
    Unit,
)
from personalllm.methods.base import Method

__all__ = [
    "Anchor",
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
    "Over",
    "Resamples",
    "Source",
    "Sums",
    "Table",
    "Track",
    "Unit",
]


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
    """What is evaluated beside the methods, computed from the scores."""

    @property
    def id(self) -> str:
        """Name, unique within the run."""

    @property
    def title(self) -> str:
        """A few words for tables."""

    @property
    def kind(self) -> Literal["baseline", "oracle"]:
        """A `baseline` ignores the user, an `oracle` does not."""

    def spec(self) -> JSON:
        """Return what it is, as JSON: `{"id": ..., "params": {...}}`."""

    def work(self, unit: Unit) -> Outcome:
        """Return samples with the same columns as a method's; `unit` is one of `Track.baseline_units`."""


@runtime_checkable
class Anchor(Baseline, Protocol):
    """An end of the personalisation share: a baseline whose work may be long and may depend on the history."""

    @property
    def log_odds(self) -> bool:
        """Whether its margins are log-odds."""

    def units(self, key: str) -> Sequence[Unit]:
        """Cut its work into units; a condition of a counterfactual history takes what the true one gives."""

    def prepare(self) -> None:
        """Do what all units need, once, in this process."""

    def found(self) -> JSON:
        """Return `spec` with what was found out on the way, as JSON for the manifest."""


@runtime_checkable
class Source(Protocol):
    """The users whose preferences are learned and predicted: simulated ones, or people.

    Tracks may need more than this: see `sources.simulated.Simulated` and `sources.people.People`.
    """

    @property
    def name(self) -> str:
        """Name of the data."""

    @property
    def fingerprint(self) -> str:
        """Digest of the data."""

    @property
    def corpus(self) -> Corpus:
        """The texts that methods may read."""

    def about(self) -> JSON:
        """Return name, fingerprint and sizes of the data, as JSON for the manifest."""


class Track(ABC):
    """What is asked of methods, and what is measured.

    Class attributes:
        id: Name in the registry `parts.TRACKS`.
        title: A few words.
        hook: Which method of `Method` is called.
        options: Fields of the protocol that only this track has; None if there are none.
        people_options: The same where the users are people; None: `options`.
        people_metrics: The metrics where the users are people; None: `metrics`.
        needs: Backends that the track itself needs, of `llm` and `rewards`.
        metrics: In the order of the tables.
        headline: Id of the main metric of a run.
        names: Baselines and oracles -> title; methods cannot have these names.
        elsewhere: Whether an executor may do the units; if not, all are done in this process.
        work_unit: What the weights of units count, in the plural.
        large_pool: Whether slow methods (those with an extra) are left out of `all` because of the pool's size.
        people: Whether it takes people as well as simulated users.

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
    people_options: ClassVar[type[Options] | None] = None
    people_metrics: ClassVar[tuple[Metric, ...] | None] = None
    needs: ClassVar[frozenset[str]] = frozenset()
    metrics: ClassVar[tuple[Metric, ...]]
    headline: ClassVar[str]
    names: ClassVar[Mapping[str, str]] = {}
    elsewhere: ClassVar[bool] = True
    work_unit: ClassVar[str] = "units of work"
    large_pool: ClassVar[bool] = False
    people: ClassVar[bool] = False

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
    def sums(self, condition: Condition, samples: Table, *, log_odds: bool) -> Sums:
        """Add up the samples of a condition for each user, and by prompt and cell (`measures.crossed`).

        Args:
            condition: Of `conditions`.
            samples: Those of the condition, in the order of the units.
            log_odds: Whether differences of the method's utilities are log-odds.
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

    def anchors(self) -> Sequence[Anchor]:
        """Return between what the personalisation share is measured: its zero, then its ceiling; nothing without one.

        Metrics may read what their samples add up to: column `utility` of `text-only` is `text_only_utility`.
        """
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

    def shortfall(self) -> str:
        """Return what the protocol asks for and the data cannot give, and why; empty if there is nothing."""
        return ""
