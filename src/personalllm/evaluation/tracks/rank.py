"""The rank track: choose the response that a user likes best among the stored ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, I32, JSON, U8, Histories
from personalllm.evaluation.baselines.anchors import ANCHORS, EndOfShare, KnownBasis, TextOnly, best_for_all
from personalllm.evaluation.baselines.people import CHOICES, PeopleChoice
from personalllm.evaluation.baselines.ranking import TITLES, Choices, StoredChoice
from personalllm.evaluation.calls import checked, fitted, own_copy, running, utilities_of
from personalllm.evaluation.contract import (
    Anchor,
    Backends,
    Baseline,
    Condition,
    Metric,
    NamedMethod,
    Outcome,
    Sums,
    Table,
    Track,
    Unit,
)
from personalllm.evaluation.measures import choice_columns, crossed, pairing_digest
from personalllm.evaluation.metrics import CHOICE_METRICS, PEOPLE_RANK_METRICS, RANK_METRICS
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.sources.options import PredictOptions
from personalllm.evaluation.sources.people import Fold
from personalllm.evaluation.sources.rated import Rated
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.evaluation.tracks.people import PeopleTrack
from personalllm.methods.base import Method

__all__ = ["ChoiceTrack", "PeopleRank", "RankTrack"]

_QUERIES = 8_192
_STANDARDS = ("best_utility", "population_best_utility", "reference_utility")


class ChoiceTrack(Track):
    """What the tracks share in which each query gets one response with a utility; rows are queries, by user.

    Samples have the columns `condition`, `user`, `prompt`, `utility` and those of `Choices.standards`, in the
    order of the queries.
    """

    metrics: ClassVar[tuple[Metric, ...]] = CHOICE_METRICS
    headline = "utility"
    names = TITLES
    large_pool = True
    source: Simulated
    protocol: Protocol

    def __init__(self, protocol: Protocol, source: Simulated, backends: Backends) -> None:
        super().__init__(protocol, source, backends)
        self.choices = Choices(source)

    @classmethod
    def accepts(cls, method: type[Method]) -> str:
        """Return why methods of a class cannot take part; empty if they can."""
        if "signals" in method.needs:
            return "it uses the scores of the reward models"
        return super().accepts(method)

    @classmethod
    def is_baseline(cls, name: str) -> bool:
        """Whether a name belongs to a baseline or an oracle."""
        return name in cls.names or name.startswith("model:")

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The only one: new users with so many random preferences, new prompts."""
        history = self.protocol.history
        kind = "true" if history.counterfactual == "none" else history.counterfactual
        return (Condition("unseen", "unseen", kind, history.pairs),)

    def check_history(self, method: NamedMethod) -> None:
        """Raise if the users have too many queries for the method's kind of history."""
        self.source.check_queries(method.method.history)

    def check(self, method: NamedMethod) -> None:
        """Raise if a backend is missing or the method's kind of history cannot be drawn."""
        super().check(method)
        self.source.check_history(method.method.history, self.backends.embedder)

    def baselines(self) -> tuple[Baseline, ...]:
        """Return baselines, then oracles."""
        return tuple(StoredChoice(name, self.choices, self.stored) for name in self.choices.names)

    def stored(self, name: str, unit: Unit) -> Outcome:
        """Return the samples of a baseline or an oracle."""
        raise NotImplementedError

    def cut(self, key: str, n_rows: int, size: int) -> tuple[Unit, ...]:
        """Cut rows, which are users or queries, into units of a size; they weigh what they have of queries."""
        seed = self.protocol.seed
        starts = range(0, n_rows, size)
        weight = self.source.prompts.size // n_rows
        ends = [min(n_rows, start + size) for start in starts]
        return tuple(
            Unit(key, index, start, stop, derive_seed(seed, "unit", key, start), weight * (stop - start))
            for index, (start, stop) in enumerate(zip(starts, ends, strict=True))
        )

    def fit(self, method: NamedMethod) -> tuple[Method, Histories]:
        """Return the fitted method and the histories of all target users."""
        seed = derive_seed(self.protocol.seed, "algorithm", method.key)
        trained = fitted(self.source.pool, self.backends, method, seed)
        return trained, self.source.histories(trained.history, self.backends.embedder)

    def columns(self, users: I32, prompts: I32, utility: F32, standards: dict[str, F32]) -> dict[str, Any]:
        """Return the columns that the samples of every such track have."""
        condition = np.zeros(len(users), np.int16)
        return {"condition": condition, "user": users, "prompt": prompts, "utility": utility, **standards}

    def sums(self, condition: Condition, samples: Table, *, log_odds: bool) -> Sums:
        """Return each user's means over their queries: every user weighs the same, whatever they are asked."""
        user, prompt = samples["user"].to_numpy(), samples["prompt"].to_numpy()
        standards = [samples[name].to_numpy() for name in _STANDARDS]
        named = dict(zip(("best", "population_best", "reference"), standards, strict=True))
        columns = choice_columns(samples["utility"].to_numpy(), **named)
        means = {
            name: column.reshape(self.source.n_users, -1).mean(axis=1).astype(np.float32)
            for name, column in columns.items()
        }
        pairing = pairing_digest(prompt, *(column.reshape(self.source.n_users, -1) for column in standards))
        prompts, cells = crossed(user, prompt, columns)
        return Sums(means, "users", pairing, prompts=prompts, cells=cells)

    def counts(self, samples: Table) -> dict[str, int]:
        """Return the number of queries."""
        return {"queries": samples.num_rows}

    def describe(self) -> JSON:
        """Return what was drawn."""
        return self.source.describe()


@dataclass(frozen=True, eq=False)
class _Fitted:
    label: str
    method: Method
    histories: Histories


class RankTrack(ChoiceTrack):
    """Choose among the stored responses; a unit is a shard of users. On people see `PeopleRank`.

    Samples have the column `response` too: the column of the benchmark that was chosen.
    """

    id = "rank"
    title = "Choose among stored responses"
    metrics: ClassVar[tuple[Metric, ...]] = RANK_METRICS
    names = TITLES | ANCHORS
    hook: ClassVar = "utilities"
    work_unit = "queries"
    people = True
    people_options = PredictOptions
    people_metrics = PEOPLE_RANK_METRICS

    @classmethod
    def of(cls, protocol: Protocol, source: Any, backends: Backends) -> Track:
        """Return the track for simulated users or for people."""
        return (PeopleRank if isinstance(source, Rated) else cls)(protocol, source, backends)

    def units(self, key: str) -> Sequence[Unit]:
        """Cut the users into shards."""
        return self.cut(key, self.source.n_users, self.protocol.users_per_shard)

    def prepare(self, method: NamedMethod) -> _Fitted:
        """Fit on the pool and draw the target users' histories."""
        return _Fitted(method.label, *self.fit(method))

    def work(self, prepared: _Fitted, unit: Unit) -> Outcome:
        """Let the method choose for a shard of users; ties go to the lowest column of the corpus."""
        source, label = self.source, prepared.label
        method = own_copy(source.pool, self.backends, prepared.method, label, unit.seed)
        queries = source.queries(unit.start, unit.stop)
        histories = prepared.histories.of_users(unit.start, unit.stop)
        with running(label, "adapt"):
            method.adapt(histories)
        with running(label, "utilities"):
            utilities = method.utilities(queries)
        preference = checked(label, utilities, (len(queries), queries.corpus.n_responses))
        column = preference.argmax(axis=1).astype(np.uint8)
        return self._samples(unit, source.view.to_responses(queries.prompt, column))

    def stored(self, name: str, unit: Unit) -> Outcome:
        """Return the samples of a baseline or an oracle."""
        return self._samples(unit, name)

    def anchors(self) -> tuple[Anchor, ...]:
        """Return the best choice on text and pool alone, and the best that the users' preferences leave to make."""
        return (
            EndOfShare("text-only", TextOnly(self.source, self.backends, best_for_all), self),
            EndOfShare("known-basis", KnownBasis(self.source), self),
        )

    def anchor_units(self, key: str) -> Sequence[Unit]:
        """Cut an end of the personalisation share into shards of users."""
        return self.units(key)

    def text_only(self, of: TextOnly, unit: Unit) -> Outcome:
        """Return the samples of the choice on text and pool alone; ties go to the lowest column of the benchmark."""
        _, prompts = self.source.query_rows(unit.start, unit.stop)
        return self._samples(unit, of.utilities(prompts).argmax(axis=1).astype(np.uint8))

    def known_basis(self, of: KnownBasis, unit: Unit) -> Outcome:
        """Return the samples of the choice of highest expected utility, which is that of the mean weights."""
        shots, users = self.protocol.history.pairs, slice(unit.start, unit.stop)
        mean = of.posterior(self._true_histories, (shots,), "unseen", users).mean[0]
        user, prompts = self.source.query_rows(unit.start, unit.stop)
        chosen = np.empty(len(prompts), np.uint8)
        for start in range(0, len(prompts), _QUERIES):
            rows = slice(start, start + _QUERIES)
            scores = self.source.table.values[prompts[rows]].astype(np.float64)
            chosen[rows] = np.einsum("qm,qrm->qr", mean[user[rows] - unit.start], scores).argmax(axis=1)
        return self._samples(unit, chosen)

    @cached_property
    def _true_histories(self) -> Histories:
        """The users' own histories, whatever the protocol hands to methods."""
        return self.source.histories("random", kind="none")

    def _samples(self, unit: Unit, chosen: U8 | str) -> Outcome:
        """Return the samples of a shard; the choice is given, or the name of who makes it."""
        import pyarrow as pa

        users, prompts = self.source.query_rows(unit.start, unit.stop)
        values = self.source.utilities(users, prompts)
        response = self.choices.choose(chosen, values, prompts) if isinstance(chosen, str) else chosen
        utility = values[np.arange(len(users)), response]
        columns = self.columns(users, prompts, utility, self.choices.standards(values, prompts))
        return Outcome(pa.table(columns | {"response": response}))


class PeopleRank(PeopleTrack, RankTrack):
    """Choose for a person among the responses to a prompt that they rated.

    Utilities are their ratings. The zero of the gain is the response that is most popular in the pool, its one the
    person's own best. Samples have the columns `condition`, `user`, `prompt`, `utility`, `best_utility`,
    `population_best_utility` and `response`, the column of the corpus that was chosen.
    """

    source: Rated  # type: ignore[assignment]
    metrics = PEOPLE_RANK_METRICS

    def baselines(self) -> tuple[Baseline, ...]:
        """Return baselines, then oracles."""
        return tuple(PeopleChoice(name, self.chosen) for name in CHOICES)

    def asked(self, fold: Fold) -> Mapping[str, tuple[I32, I32]]:
        """Return kind of prompts -> who chooses for which."""
        return self.source.choices(fold)

    def answered(self, index: int, label: str, method: Method, fold: Fold, asked: tuple[I32, I32]) -> Table:
        """Return the samples of the choices of highest utility; ties go to the lowest column."""
        return self._choices(index, fold, asked, utilities_of(label, method, self.source.queries_of(fold, *asked)))

    def chosen(self, name: str, unit: Unit) -> Outcome:
        """Return the samples of a baseline or an oracle."""
        import pyarrow as pa

        fold = self.source.folds[unit.start]
        asked, popular, tables = self.asked(fold), self.source.popularity(fold), []
        for index in unit.conditions:
            users, prompts = of_kind = asked[self.conditions[index].prompts]
            own = self.source.utilities(users, prompts)
            preference = popular[prompts] if name == "population-best" else own if name == "oracle" else -own
            tables.append(self._choices(index, fold, of_kind, preference))
        return Outcome(pa.concat_tables(tables))

    def _choices(
        self, index: int, fold: Fold, asked: tuple[I32, I32], preference: npt.NDArray[np.floating[Any]]
    ) -> Table:
        """Return the samples of choices by a preference, (n, n_responses), among what the person rated."""
        import pyarrow as pa

        users, prompts = asked
        own, popular = self.source.utilities(users, prompts), self.source.popularity(fold)[prompts]
        rated, row = ~np.isnan(own), np.arange(len(users))
        column, best = (np.where(rated, value, -np.inf).argmax(axis=1) for value in (preference, popular))
        columns = {
            "condition": np.full(len(users), index, np.int16),
            "user": users,
            "prompt": prompts,
            "utility": own[row, column],
            "best_utility": np.nanmax(own, axis=1, initial=-np.inf),
            "population_best_utility": own[row, best],
            "response": column.astype(np.uint8),
        }
        return pa.table(columns)

    def sums(self, condition: Condition, samples: Table, *, log_odds: bool) -> Sums:
        """Add up the choices for each person, or for each prompt where prompts alone are resampled."""
        column = {name: samples[name].to_numpy() for name in samples.column_names}
        user, prompt, axis = column["user"], column["prompt"], self.source.axis
        best, popular = column["best_utility"], column["population_best_utility"]
        columns = choice_columns(column["utility"], best=best, population_best=popular)
        people = self.source.people
        cluster, n = (user, people.n_users) if axis == "users" else (prompt, people.n_topics)
        totals = {
            name: np.bincount(cluster, values, n).astype(np.float32)
            for name, values in {"n": np.ones(len(user)), **columns}.items()
        }
        pairing = pairing_digest(user, prompt, best, data=people.fingerprint)
        prompts, cells = crossed(user, prompt, columns)
        return Sums(totals, axis, pairing, prompts=prompts, cells=cells)
