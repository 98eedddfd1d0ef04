"""The online track: ask, answer, adapt. How fast is a user's taste learned if a policy may choose what to ask?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from personalllm.core.seeding import derive_seed
from personalllm.core.storage import digest
from personalllm.core.types import F32, I32, U8, Queries
from personalllm.evaluation.baselines.anchors import ANCHORS, EndOfShare, KnownBasis, TextOnly, best_for_all
from personalllm.evaluation.baselines.ranking import TITLES, StoredChoice
from personalllm.evaluation.calls import checked, own_copy, running
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
from personalllm.evaluation.dialogue import Dialogue, Known
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.sources.asking import Asking
from personalllm.evaluation.sources.pairs import Signals
from personalllm.evaluation.sources.rated import Rated
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.evaluation.tracks.asking import ASKED, BASELINES, KNOWN, AskingTrack, added
from personalllm.evaluation.tracks.online_people import PeopleOnline
from personalllm.evaluation.tracks.rank import ChoiceTrack
from personalllm.methods.asking.policy import Policy

__all__ = ["OnlineTrack"]

_STANDARDS = ("best_utility", "population_best_utility", "reference_utility")
_SHOWN = 2


@dataclass(frozen=True, eq=False)
class _Ready:
    """A policy with its fitted method, and all responses as vectors of that method's tastes.

    Attributes:
        label: Of the policy.
        policy: Fitted.
        offered: float32 (n_prompts, n_responses, n_tastes), of the prompts that may be asked about.
        queries: The same of the prompts on which is measured.
        rows: int32 (n_distinct,), ascending: those prompts.
    """

    label: str
    policy: Policy
    offered: F32
    queries: F32
    rows: I32


class OnlineTrack(AskingTrack, ChoiceTrack):
    """Ask users round by round, learn from their answers, and measure on prompts held out; a unit is a shard of users.

    Samples have a row for each query after each of the checkpoints, and one for each round, with `ASKED` as its
    condition: the columns `round`, `first` and `second` (columns of the corpus: the pair that was shown, or, of a
    query, the pair that is predicted), `answer` (1 for the first, -1 for the second, 0 for none), `margin` (log-odds of
    the first; of a question also `after` its answer), `texts` (prompt and responses of what the first two users were
    asked), and `KNOWN`: of a query what is known of its user by then, of a question its own regret.
    """

    names = {name: TITLES[name] for name in BASELINES} | ANCHORS
    protocol: Protocol

    def __init__(self, protocol: Protocol, source: Simulated, backends: Backends) -> None:
        signals = Signals.of(source) if protocol.signals else None
        super().__init__(protocol, source, replace(backends, signals=signals))
        self.asking = Asking(source)

    @classmethod
    def of(cls, protocol: Protocol, source: Any, backends: Backends) -> Track:
        """Return the track for simulated users or for people."""
        if not isinstance(source, Rated):
            return cls(protocol, source, backends)
        return PeopleOnline(protocol, source, backends)

    @property
    def rounds(self) -> int:
        """Rounds of each user."""
        return self.asking.options.rounds

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """After each of the checkpoints."""
        return tuple(Condition(shots=t) for t in self.asking.options.checkpoints)

    def units(self, key: str) -> Sequence[Unit]:
        """Cut the users into shards."""
        size, seed = self.protocol.users_per_shard, self.protocol.seed
        every = tuple(range(len(self.conditions)))
        units: list[Unit] = []
        for start in range(0, self.source.n_users, size):
            stop = min(start + size, self.source.n_users)
            weight = (stop - start) * self.rounds
            units.append(Unit(key, len(units), start, stop, derive_seed(seed, "unit", key, start), weight, every))
        return units

    def prepare(self, method: NamedMethod) -> _Ready:
        """Fit the method of the policy on the pool, once for all policies that ask for it."""
        policy = self.fitted_policy(method, self.source.pool, "algorithm")
        rows = np.unique(self.source.prompts)
        with running(method.label, "tastes"):
            offered, queries = (
                policy.posterior.tastes(Queries(self.source.corpus, 1, np.zeros(len(of), np.int32), of))[0]
                for of in (self.asking.prompts, rows)
            )
        return _Ready(method.label, policy, offered, queries, rows)

    def work(self, prepared: _Ready, unit: Unit) -> Outcome:
        """Ask a shard of users."""
        import pyarrow as pa

        policy: Any = own_copy(self.source.pool, self.backends, prepared.policy, prepared.label, unit.seed)
        users = slice(unit.start, unit.stop)
        dialogue = Dialogue(self.asking, policy, prepared.offered, users, unit.seed, prepared.label)
        checkpoints = self.asking.options.checkpoints
        tables = [self._measured(prepared, policy, unit, known) for known in dialogue.known(checkpoints)]
        return Outcome(pa.concat_tables([*tables, self._asked(dialogue)]))

    def _measured(self, prepared: _Ready, policy: Policy, unit: Unit, known: Known) -> Table:
        """Return the samples of the queries after some rounds; equal utilities go to the lowest column."""
        users, prompts = self.source.query_rows(unit.start, unit.stop)
        at = np.searchsorted(prepared.rows, prompts)
        with running(prepared.label, "predict"):
            utilities = policy.posterior.predict(known.belief, prepared.queries, at, users - np.int32(unit.start))
        preference = checked(prepared.label, utilities, (len(users), prepared.queries.shape[1]))
        column, margin = preference.argmax(axis=1).astype(np.uint8), self.margins(unit, preference)
        index = self.asking.options.checkpoints.index(known.t)
        return self.samples(index, unit, column, margin, known.of_users)

    def _asked(self, dialogue: Dialogue) -> Table:
        """Return a row for each question, with the texts of those that the first users of all were asked."""
        import pyarrow as pa

        user, t = np.nonzero(dialogue.place >= 0)
        nothing = np.full(len(user), np.nan, np.float32)
        users = (user + dialogue.users.start).astype(np.int32)
        prompts = self.asking.prompts[dialogue.place[user, t]]
        lost = {"average_regret": dialogue.regret[user, t, 0], "weak_regret": dialogue.regret[user, t, 1]}
        corpus = self.source.corpus
        asked = zip(users.tolist(), prompts.tolist(), dialogue.shown[user, t].tolist(), strict=True)
        texts = [
            (corpus.prompts[prompt], *(corpus.responses[prompt][column] for column in shown)) if who < _SHOWN else ()
            for who, prompt, shown in asked
        ]
        return pa.table(
            self.columns(users, prompts, nothing, dict.fromkeys(_STANDARDS, nothing))
            | {"condition": np.full(len(user), ASKED, np.int16), "response": np.zeros(len(user), np.uint8)}
            | {"round": t.astype(np.int16), "first": dialogue.shown[user, t, 0], "second": dialogue.shown[user, t, 1]}
            | {"answer": dialogue.answer[user, t], "margin": dialogue.margin[user, t, 0]}
            | {"after": dialogue.margin[user, t, 1], "texts": _texts(texts)}
            | {name: lost.get(name, nothing).astype(np.float32) for name in KNOWN}
        )

    def baselines(self) -> tuple[Baseline, ...]:
        """Return the best choice that ignores the user, and the oracle."""
        return tuple(StoredChoice(name, self.choices, self.stored) for name in BASELINES)

    def stored(self, name: str, unit: Unit) -> Outcome:
        """Return the samples of a baseline or an oracle."""
        import pyarrow as pa

        tables = []
        for index in unit.conditions:
            _, prompts, values = self.queries_of(unit, self.conditions[index].shots)
            response = self.choices.choose(name, values, prompts)
            column = self.source.view.to_columns(prompts, response)
            tables.append(self.samples(index, unit, column))
        return Outcome(pa.concat_tables(tables))

    def anchors(self) -> Sequence[Anchor]:
        """Return the best choice on text and pool alone, and what the answers to random questions leave to infer.

        Nothing where tastes drift, or ties say nothing: the posterior knows neither.
        """
        if self.asking.options.drift != "none" or self.source.rule.tie_margin:
            return ()
        return (
            EndOfShare("text-only", TextOnly(self.source, self.backends, best_for_all), self),
            EndOfShare("known-basis", KnownBasis(self.source), self),
        )

    def anchor_units(self, key: str) -> Sequence[Unit]:
        """Cut an end of the personalisation share into shards of users."""
        return self.units(key)

    def text_only(self, of: TextOnly, unit: Unit) -> Outcome:
        """Return the samples of the choice on text and pool alone, the same after every round."""
        import pyarrow as pa

        _, prompts, _ = self.queries_of(unit, 0)
        preference = self._by_column(of.utilities(prompts), prompts)
        column = preference.argmax(axis=1).astype(np.uint8)
        margin = self.margins(unit, preference)
        return Outcome(pa.concat_tables([self.samples(index, unit, column, margin) for index in unit.conditions]))

    def known_basis(self, of: KnownBasis, unit: Unit) -> Outcome:
        """Return the samples of the choice of highest expected utility."""
        import pyarrow as pa

        shots = [self.conditions[index].shots for index in unit.conditions]
        mean = of.posterior(self.asking.random_history, shots, "online", slice(unit.start, unit.stop)).mean
        users, prompts, _ = self.queries_of(unit, 0)
        tables = []
        for place, index in enumerate(unit.conditions):
            scores = self.source.table.values[prompts].astype(np.float64)
            utility = np.einsum("qm,qrm->qr", mean[place][users - unit.start], scores).astype(np.float32)
            column = self._by_column(utility, prompts).argmax(axis=1).astype(np.uint8)
            tables.append(self.samples(index, unit, column))
        return Outcome(pa.concat_tables(tables))

    def queries_of(self, unit: Unit, t: int) -> tuple[I32, I32, F32]:
        """Return user, prompt and utilities of each query after t rounds, utilities by response of the benchmark."""
        users, prompts = self.source.query_rows(unit.start, unit.stop)
        by_column = self.asking.utilities(users, prompts, t)
        columns = self.source.view.to_columns(prompts[:, None], np.arange(by_column.shape[1])[None, :])
        return users, prompts, np.take_along_axis(by_column, columns.astype(np.intp), axis=1)

    def _by_column(self, values: F32, prompts: I32) -> F32:
        return np.take_along_axis(values, self.source.view.order[prompts].astype(np.intp), axis=1)

    def margins(self, unit: Unit, preference: F32) -> F32:
        """Return the difference in utility of the pairs that are predicted, float32 (n_queries,)."""
        row, tests = np.arange(len(preference)), self.asking.tests[unit.start : unit.stop].reshape(-1, 2)
        return preference[row, tests[:, 0]] - preference[row, tests[:, 1]]

    def samples(
        self, index: int, unit: Unit, column: U8, margin: F32 | None = None, known: dict[str, F32] | None = None
    ) -> Table:
        """Return the samples of the queries of a unit under a condition.

        Args:
            index: Of the condition.
            unit: Whose users.
            column: uint8 (n_queries,): column of the corpus that is recommended.
            margin: From `margins`; None if nothing is predicted.
            known: Name -> float32 (n_users,): what is known of the users.
        """
        import pyarrow as pa

        t = self.conditions[index].shots
        users, prompts, values = self.queries_of(unit, t)
        row, response = np.arange(len(users)), self.source.view.to_responses(prompts, column)
        tests = self.asking.tests[unit.start : unit.stop].reshape(-1, 2)
        sides = [values[row, self.source.view.to_responses(prompts, tests[:, side])] for side in (0, 1)]
        nothing = np.full(len(row), np.nan, np.float32)
        of_users = {
            name: np.repeat(values, len(row) // (unit.stop - unit.start)) for name, values in (known or {}).items()
        }
        return pa.table(
            self.columns(users, prompts, values[row, response], self.choices.standards(values, prompts))
            | {"condition": np.full(len(row), index, np.int16), "response": response}
            | {"round": np.full(len(row), t, np.int16), "first": tests[:, 0], "second": tests[:, 1]}
            | {"answer": np.sign(sides[0] - sides[1]).astype(np.int8)}
            | {"margin": nothing if margin is None else margin, "after": nothing, "texts": _texts([()] * len(row))}
            | {name: of_users.get(name, nothing) for name in KNOWN}
        )

    def sums(self, condition: Condition, samples: Table, *, log_odds: bool) -> Sums:
        """Add up the queries of each user; what is known of a user counts with each of them."""
        data = digest({"data": self.source.fingerprint, "users": self.source.describe()["population"]})
        return added(samples, self.source.n_users, data, log_odds=log_odds)


def _texts(rows: Sequence[tuple[str, ...]]) -> Any:
    """Return texts as a column: a list in each row."""
    import pyarrow as pa

    return pa.array(rows, pa.list_(pa.string()))
