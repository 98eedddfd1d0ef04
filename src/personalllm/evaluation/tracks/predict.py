"""The predict track: how well is a user's next preference predicted after k of them?"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, I8, I64, JSON
from personalllm.evaluation.baselines.anchors import ANCHORS, EndOfShare, KnownBasis, TextOnly, right_for_all
from personalllm.evaluation.baselines.people import PEOPLE_BASELINES
from personalllm.evaluation.baselines.predicting import TITLES, pair_baselines, rejected_share
from personalllm.evaluation.calls import adapt, fitted, own_copy, utilities_of
from personalllm.evaluation.contract import (
    Anchor,
    Backends,
    Baseline,
    Condition,
    NamedMethod,
    Outcome,
    Sums,
    Table,
    Track,
    Unit,
)
from personalllm.evaluation.measures import (
    PairAnswers,
    crossed,
    margins,
    pair_columns,
    pair_strata,
    pair_sums,
    pairing_digest,
)
from personalllm.evaluation.metrics import PAIR_METRICS
from personalllm.evaluation.sources.options import PredictOptions
from personalllm.evaluation.sources.pairs import Pairs, TestPairs
from personalllm.evaluation.sources.people import Fold, People
from personalllm.evaluation.tracks.people import PeopleTrack
from personalllm.methods.base import Method

__all__ = ["PeoplePredict", "PredictTrack"]


@dataclass(frozen=True, eq=False)
class _Fitted:
    label: str
    method: Method


class PredictTrack(Track):
    """Predict which of two responses a user prefers.

    A method is fitted once on the pool. For each number of shots a copy of it adapts to the first comparisons of the
    target users and answers the prompts of their test pairs. A unit is a shard of users under one kind of history, with
    all numbers of shots and both kinds of prompts, since one copy answers both.
    """

    id = "predict"
    title = "Predict preferences"
    work_unit = "predictions"
    options = PredictOptions
    metrics = PAIR_METRICS
    headline = "accuracy"
    names = TITLES | ANCHORS
    people = True

    def __init__(self, protocol: Any, source: Any, backends: Backends) -> None:
        self.pairs = Pairs(source, protocol.options)
        super().__init__(protocol, source, dataclasses.replace(backends, signals=self.pairs.signals))

    @classmethod
    def of(cls, protocol: Any, source: Any, backends: Backends) -> Track:
        """Return the track for simulated users or for people."""
        return (PeoplePredict if isinstance(source, People) else cls)(protocol, source, backends)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Users, prompts, history and shots."""
        return self.pairs.conditions

    def check_history(self, method: NamedMethod) -> None:
        """Raise if a method needs a history of another kind."""
        if method.method.history != "random":
            raise UserError(
                f"{method.label!r} gets the prompts nearest to each query; the predict track has nested histories.",
                "Leave it out.",
            )

    def baselines(self) -> Sequence[Baseline]:
        """Return baselines, then oracles."""
        return pair_baselines(self.pairs, self.backends.embedder)

    def units(self, key: str) -> Sequence[Unit]:
        """Cut a method's work into shards of users of a group under one kind of history."""
        size = self.protocol.users_per_shard
        units: list[Unit] = []
        for group in self.pairs.groups.values():
            for history, shots in group.conditions.items():
                indices = self._indices(group.kind, history)
                for start in range(0, group.n_users, size):
                    stop = min(group.n_users, start + size)
                    n_pairs = sum(len(tests.of_users(start, stop)) for tests in group.tests.values())
                    # the seed does not depend on the shots: what is random in a method is the same along its curve
                    seed = derive_seed(self.protocol.seed, "unit", key, group.kind, history, start)
                    units.append(Unit(key, len(units), start, stop, seed, n_pairs * len(shots), indices))
        return units

    def baseline_units(self, key: str) -> Sequence[Unit]:
        """Cut a baseline's work into the groups of users, under the fewest shots."""
        units: list[Unit] = []
        for group in self.pairs.groups.values():
            if group.shots:
                indices = self._indices(group.kind, "true", group.shots[0])
                n_pairs = sum(len(tests) for tests in group.tests.values())
                units.append(Unit(key, len(units), 0, group.n_users, 0, n_pairs, indices))
        return units

    def anchors(self) -> Sequence[Anchor]:
        """Return the best prediction on text and pool alone, and the best that the users' preferences leave to make."""
        text_only = TextOnly(self.source, self.backends, right_for_all)
        return (EndOfShare("text-only", text_only, self), EndOfShare("known-basis", KnownBasis(self.source), self))

    def anchor_units(self, key: str) -> Sequence[Unit]:
        """Cut an end of the personalisation share into shards of users with their own histories."""
        return [unit for unit in self.units(key) if self.conditions[unit.conditions[0]].history == "true"]

    def text_only(self, of: TextOnly, unit: Unit) -> Outcome:
        """Return the samples of the prediction on text and pool alone, the same for every number of shots."""
        import pyarrow as pa

        tables = []
        for index in unit.conditions:
            condition = self.conditions[index]
            tests = self.pairs.groups[condition.users].tests[condition.prompts].of_users(unit.start, unit.stop)
            tables.append(self.pairs.samples(index, tests, of.utilities(tests.prompt)))
        return Outcome(pa.concat_tables(tables))

    def known_basis(self, of: KnownBasis, unit: Unit) -> Outcome:
        """Return the samples of the posterior's vote, after each number of shots."""
        import pyarrow as pa

        tables = []
        kind, shots = (
            self.conditions[unit.conditions[0]].users,
            sorted({self.conditions[i].shots for i in unit.conditions}),
        )
        group = self.pairs.groups[kind]
        posterior = of.posterior(group.histories["true"], shots, kind, slice(unit.start, unit.stop))
        for index in unit.conditions:
            condition = self.conditions[index]
            tests = group.tests[condition.prompts].of_users(unit.start, unit.stop)
            margin, preference = of.vote(posterior, shots.index(condition.shots), tests, unit.start, self.pairs.outcome)
            tables.append(self.pairs.samples(index, tests, preference, margin))
        return Outcome(pa.concat_tables(tables))

    def _indices(self, users: str, history: str, shots: int | None = None) -> tuple[int, ...]:
        """Return the positions of the conditions of users and a kind of history."""
        return tuple(
            index
            for index, condition in enumerate(self.conditions)
            if (condition.users, condition.history) == (users, history) and shots in (None, condition.shots)
        )

    def prepare(self, method: NamedMethod) -> _Fitted:
        """Fit a method on the pool."""
        # "algorithm" is a seed label: another word would change what is random in every method
        seed = derive_seed(self.protocol.seed, "algorithm", method.key)
        return _Fitted(method.label, fitted(self.source.pool, self.backends, method, seed))

    def work(self, prepared: _Fitted, unit: Unit) -> Outcome:
        """Let copies of a fitted method adapt to a shard of users, for each number of shots, and predict."""
        import pyarrow as pa

        tables: list[Table] = []
        seconds = {"adapt": 0.0, "adapt_users": 0.0}
        most = max(condition.shots for condition in self.conditions)
        for shots, of_shots in groupby(unit.conditions, key=lambda index: self.conditions[index].shots):
            indices = list(of_shots)
            condition = self.conditions[indices[0]]
            method = own_copy(self.source.pool, self.backends, prepared.method, prepared.label, unit.seed)
            history = self.pairs.groups[condition.users].histories[condition.history]
            first = history.of_users(unit.start, unit.stop).first(shots)
            began = time.perf_counter()
            adapt(prepared.label, method, first)
            if shots == most:
                seconds["adapt"] += time.perf_counter() - began
                seconds["adapt_users"] += unit.stop - unit.start
            tables += self._answered(prepared.label, method, unit, indices)
        return Outcome(pa.concat_tables(tables), seconds)

    def _answered(self, label: str, method: Method, unit: Unit, indices: Sequence[int]) -> Iterator[Table]:
        """Yield the samples of conditions that differ in the kind of prompts alone, answered in one call."""
        conditions = [self.conditions[index] for index in indices]
        group = self.pairs.groups[conditions[0].users]
        tests = [group.tests[condition.prompts].of_users(unit.start, unit.stop) for condition in conditions]
        joined = TestPairs(
            *(
                np.concatenate([getattr(pairs, field.name) for pairs in tests])
                for field in dataclasses.fields(TestPairs)
            )
        )
        preference = utilities_of(label, method, self.pairs.queries(joined, unit.start, unit.stop))
        ends = np.cumsum([len(pairs) for pairs in tests])[:-1]
        for index, pairs, rows in zip(indices, tests, np.split(preference, ends), strict=True):
            yield self.pairs.samples(index, pairs, self.pairs.by_response(pairs, rows))

    def sums(self, condition: Condition, samples: Table, *, log_odds: bool) -> Sums:
        """Add up the test pairs of each user."""
        group = self.pairs.groups[condition.users]
        share, longer = self._facts[condition.users, condition.prompts]
        column = {name: samples[name].to_numpy() for name in samples.column_names}
        answers = PairAnswers(
            n_clusters=group.n_users,
            cluster=column["user"],
            margin=column["margin"],
            regret=column["regret"],
            tau=column["tau"],
            share=share,
            longer=longer,
            log_odds=log_odds,
        )
        strongest = group.population.weights.argmax(axis=1)
        groups = tuple(f"rm:{name}" for name in self.source.reward_models)
        members = {name: strongest[column["user"]] == index for index, name in enumerate(groups)}
        pooled, sums = condition.users == "both", pair_sums(answers)
        return Sums(
            sums | {"group": strongest.astype(np.float32)} | ({"weight": sums["n"]} if pooled else {}),
            "users",
            pairing_digest(
                *(column[name] for name in ("user", "prompt", "chosen", "rejected")), data=self.source.fingerprint
            ),
            groups,
            *crossed(
                *(column["user"], column["prompt"], pair_columns(answers), members, pair_strata(answers)), pooled=pooled
            ),
        )

    @cached_property
    def _facts(self) -> dict[tuple[str, str], tuple[F32, I8]]:
        """Of each kind of users and prompts: how contested the test pairs are, and on which side the longer one is."""
        facts: dict[tuple[str, str], tuple[F32, I8]] = {}
        for group in self.pairs.groups.values():
            for prompts, tests in group.tests.items():
                row, lengths = np.arange(len(tests)), self.pairs.response_lengths[tests.prompt]
                longer = np.sign(lengths[row, tests.chosen] - lengths[row, tests.rejected]).astype(np.int8)
                facts[group.kind, prompts] = (rejected_share(self.pairs, tests), longer)
        return facts

    def describe(self) -> JSON:
        """Return what was drawn, as JSON for the manifest."""
        return self.pairs.describe()


class PeoplePredict(PeopleTrack, PredictTrack):
    """Predict which of two responses a person prefers."""

    def baselines(self) -> Sequence[Baseline]:
        """Return baselines; people's utilities are unknown, so there is no oracle."""
        return [kind(self.source) for kind in PEOPLE_BASELINES]

    def asked(self, fold: Fold) -> dict[str, I64]:
        """Return kind of prompts -> rows of the preferences to predict."""
        return self.source.tests(fold)

    def answered(self, index: int, label: str, method: Method, fold: Fold, asked: I64) -> Table:
        """Return the samples of the preferences to predict."""
        preference = utilities_of(label, method, self.source.queries(fold, asked))
        tests = self.source.people.histories
        return self.source.samples(index, asked, margins(preference, tests.chosen[asked], tests.rejected[asked]))

    def sums(self, condition: Condition, samples: Table, *, log_odds: bool) -> Sums:
        """Add up the comparisons of each person, or of each prompt where prompts alone are resampled."""
        people, axis = self.source.people, self.source.axis
        column = {name: samples[name].to_numpy() for name in samples.column_names}
        answers = PairAnswers(
            n_clusters=people.n_users if axis == "users" else people.n_topics,
            cluster=column["user" if axis == "users" else "prompt"],
            margin=column["margin"],
            longer=column["longer"],
            log_odds=log_odds,
        )
        pairing = pairing_digest(column["user"], column["row"], data=people.fingerprint)
        both = crossed(column["user"], column["prompt"], pair_columns(answers), strata=pair_strata(answers))
        return Sums(pair_sums(answers), axis, pairing, (), *both)
