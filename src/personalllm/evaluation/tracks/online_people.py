"""The online track on people's ratings: a person's own ratings answer the questions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import UserError
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, JSON, U8, Queries
from personalllm.evaluation.baselines.people import CHOICES, PeopleChoice
from personalllm.evaluation.calls import checked, own_copy, running
from personalllm.evaluation.contract import Baseline, Condition, NamedMethod, Outcome, Sums, Table, Unit
from personalllm.evaluation.dialogue import Dialogue
from personalllm.evaluation.sources.asking import RatedAsking
from personalllm.evaluation.sources.rated import Rated
from personalllm.evaluation.tracks.asking import BASELINES, KNOWN, AskingTrack, added

__all__ = ["PeopleOnline"]


class PeopleOnline(AskingTrack):
    """Ask people about groups of responses that they rated; rounds and checkpoints are the shots of the protocol.

    Utilities are ratings. The zero of the gain is the response that is most popular in the pool, its one the person's
    own best. A unit is a fold with people left out. No text of a question is kept.
    """

    source: Rated
    names = {name: CHOICES[name] for name in BASELINES}

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Rounds after which is measured."""
        return self.source.options.shots

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """After each of the checkpoints."""
        return tuple(Condition(shots=t) for t in self.checkpoints)

    @cached_property
    def asking(self) -> dict[int, RatedAsking]:
        """By index of the fold, those with people left out.

        Raises:
            UserError: If nobody rated whole groups.
        """
        rounds = max(1, *self.checkpoints)
        every = {f.index: RatedAsking(self.source, f, rounds) for f in self.source.folds if f.users is not None}
        some = {index: asking for index, asking in every.items() if len(asking.users)}
        if not some:
            raise UserError(
                f"In {self.source.name} nobody rated all of a group to be asked about and all of one to choose in.",
                "Make the groups smaller with --set folds.group=2, or use the predict track.",
            )
        return some

    def units(self, key: str) -> Sequence[Unit]:
        """Return a unit for each fold."""
        every = tuple(range(len(self.conditions)))
        return [
            Unit(key, place, index, index + 1, self._seed(key, index), len(asking.users) * asking.rounds, every)
            for place, (index, asking) in enumerate(self.asking.items())
        ]

    def baseline_units(self, key: str) -> Sequence[Unit]:
        """Return a unit for each fold."""
        return self.units(key)

    def _seed(self, key: str, index: int) -> int:
        return derive_seed(self.protocol.seed, "people fit", key, index)

    def work(self, prepared: NamedMethod, unit: Unit) -> Outcome:
        """Fit on a fold's pool, ask the people who were left out, and measure."""
        import pyarrow as pa

        asking, pool, label = self.asking[unit.start], self.source.pool(self.source.folds[unit.start]), prepared.label
        shared = self.fitted_policy(prepared, pool, "people fit", unit.start)
        policy: Any = own_copy(pool, self.backends, shared, label, unit.seed)
        user, prompt = asking.queries
        rows, at = np.unique(prompt, return_inverse=True)
        with running(label, "tastes"):
            offered, queries = (
                policy.posterior.tastes(Queries(self.source.corpus, 1, np.zeros(len(of), np.int32), of))[0]
                for of in (asking.prompts, rows)
            )
        dialogue = Dialogue(asking, policy, offered, slice(0, len(asking.users)), unit.seed, label)
        tables = []
        for known in dialogue.known(self.checkpoints):
            with running(label, "predict"):
                utilities = policy.posterior.predict(known.belief, queries, at.ravel(), user)
            preference = checked(label, utilities, (len(user), queries.shape[1]))
            of_queries = {name: values[user] for name, values in known.of_users.items()}
            tables.append(self._queried(self.checkpoints.index(known.t), asking, preference, preference, of_queries))
        return Outcome(pa.concat_tables(tables))

    def prepare(self, method: NamedMethod) -> NamedMethod:
        """Return the policy: its method is fitted in every unit."""
        return method

    def baselines(self) -> tuple[Baseline, ...]:
        """Return the most popular response, and the oracle."""
        return tuple(PeopleChoice(name, self.stored) for name in BASELINES)

    def stored(self, name: str, unit: Unit) -> Outcome:
        """Return the samples of a baseline or an oracle."""
        import pyarrow as pa

        asking = self.asking[unit.start]
        user, prompt = asking.queries
        own = asking.utilities(user, prompt, 0)
        preference = own if name == "oracle" else self.source.popularity(asking.fold)[prompt]
        return Outcome(pa.concat_tables([self._queried(index, asking, preference) for index in unit.conditions]))

    def _queried(
        self,
        index: int,
        asking: RatedAsking,
        preference: npt.NDArray[np.floating[Any]],
        predicted: F32 | None = None,
        known: dict[str, F32] | None = None,
    ) -> Table:
        """Return the samples of a fold's choices by a preference, (n_queries, n_responses); ties go to the lowest."""
        import pyarrow as pa

        user, prompt = asking.queries
        own, row, tests = asking.utilities(user, prompt, 0), np.arange(len(user)), asking.tests
        column: U8 = preference.argmax(axis=1).astype(np.uint8)
        nothing = np.full(len(user), np.nan, np.float32)
        gap = own[row, tests[:, 0]] - own[row, tests[:, 1]]
        margin = nothing if predicted is None else predicted[row, tests[:, 0]] - predicted[row, tests[:, 1]]
        return pa.table(
            {"condition": np.full(len(user), index, np.int16), "user": asking.users[user], "prompt": prompt}
            | {"utility": own[row, column], "best_utility": own.max(axis=1), "response": column}
            | {"population_best_utility": own[row, self.source.popularity(asking.fold)[prompt].argmax(axis=1)]}
            | {"first": tests[:, 0], "second": tests[:, 1], "answer": np.sign(gap).astype(np.int8)}
            | {"margin": margin.astype(np.float32)}
            | {name: (known or {}).get(name, nothing) for name in KNOWN}
        )

    def sums(self, condition: Condition, samples: Table, *, log_odds: bool) -> Sums:
        """Add up the choices of each person."""
        return added(samples, self.source.people.n_users, self.source.people.fingerprint, log_odds=log_odds)

    def describe(self) -> JSON:
        """Return what was drawn, as JSON for the manifest."""
        asked = {str(index): len(asking.users) for index, asking in self.asking.items()}
        return self.source.describe() | {"asked_by_fold": asked}
