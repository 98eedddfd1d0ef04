"""The task of the predict track: seen and unseen users, their nested histories, the pairs to predict."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import UserError
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, I32, U8, Histories, Queries
from personalllm.data import Benchmark, ScoreTable
from personalllm.evaluation.counterfactual import flipped, partners
from personalllm.evaluation.prediction.metrics import Cell
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.specs import PredictionSpec
from personalllm.evaluation.task import Task, take_users
from personalllm.feedback import CorpusView, FeedbackRule, InteractionPool, interact, sample_prompts
from personalllm.methods.parts.vectors import first_pairs
from personalllm.users import Population, utilities

__all__ = ["Group", "PredictionTask", "Signals", "TestPairs"]

Kind: TypeAlias = Literal["unseen", "seen"]
HistoryKind: TypeAlias = Literal["true", "flipped", "other-user"]

_ELECTORATE = 1000


@dataclass(frozen=True, eq=False, slots=True)
class TestPairs:
    """Comparisons to predict, grouped by user; the ties are left out.

    Attributes:
        user: int32 (n,), row of the group, ascending.
        prompt: int32 (n,), row of the benchmark.
        chosen: uint8 (n,), response of the benchmark.
        rejected: uint8 (n,), likewise.
    """

    __test__ = False

    user: I32
    prompt: I32
    chosen: U8
    rejected: U8

    def __len__(self) -> int:
        return len(self.user)

    def of_users(self, start: int, stop: int) -> TestPairs:
        """Return the pairs of users `start` to `stop`, who keep their numbers."""
        first, last = np.searchsorted(self.user, (start, stop))
        rows = slice(int(first), int(last))
        return TestPairs(self.user[rows], self.prompt[rows], self.chosen[rows], self.rejected[rows])


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """Seen or unseen users and what is drawn for them.

    Attributes:
        kind: `unseen` or `seen`.
        population: The users who are evaluated.
        histories: Their comparisons of each kind: `true`, and the counterfactual ones.
        tests: The pairs to predict, by kind of prompt.
        shots: Numbers of shots, ascending, none larger than what these users compared.
    """

    kind: Kind
    population: Population
    histories: dict[HistoryKind, Histories]
    tests: dict[Kind, TestPairs]
    shots: tuple[int, ...]

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.population.n_users

    def prefix(self, history: HistoryKind, shots: int, start: int, stop: int) -> Histories:
        """Return the first comparisons of users `start` to `stop`, who are numbered from 0."""
        return first_pairs(take_users(self.histories[history], start, stop), shots)

    @property
    def conditions(self) -> tuple[tuple[HistoryKind, int], ...]:
        """Histories and shots, the true ones first; a counterfactual has the most shots."""
        true: list[tuple[HistoryKind, int]] = [("true", shots) for shots in self.shots]
        others: list[tuple[HistoryKind, int]] = [
            (kind, self.shots[-1]) for kind in self.histories if kind != "true" and self.shots and self.shots[-1]
        ]
        return (*true, *others)


@dataclass(frozen=True, eq=False)
class Signals:
    """The RMs' standardised scores of the stored responses, by column of the corpus.

    Attributes:
        table: Standardised scores, by response of the benchmark.
        view: The corpus that the methods read.
        source: Fingerprint of the benchmark and name of the standardiser.
    """

    table: ScoreTable
    view: CorpusView
    source: str

    @property
    def reward_models(self) -> tuple[str, ...]:
        """Names in the order of the last axis of `vectors`."""
        return self.table.reward_models

    @property
    def identity(self) -> str:
        """All that decides the values."""
        return f"{self.source}, column order {self.view.seed}"

    def vectors(self, prompts: I32, columns: U8) -> F32:
        """Return standardised scores, float32 (n, n_reward_models)."""
        values: F32 = self.table.values[prompts, self.view.to_responses(prompts, columns)]
        return values


@dataclass(frozen=True, eq=False)
class PredictionTask:
    """What the predict track draws from a benchmark.

    The prompts that a user compares and those that are predicted never meet. All draws of users, prompts and pairs
    follow from the protocol, none from the learner or from the number of shots.

    Attributes:
        protocol: Of the predict track.
        benchmark: The benchmark that it was made for.
    """

    protocol: Protocol
    benchmark: Benchmark

    def __post_init__(self) -> None:
        if self.protocol.prediction is None:
            raise UserError(f"The protocol is of the {self.protocol.track} track.", "Make one with track='predict'.")
        self.task.protocol.check(self.benchmark)

    @cached_property
    def task(self) -> Task:
        """The task without predictions: users, pool, scores, corpus."""
        return Task(self.protocol, self.benchmark)

    @property
    def spec(self) -> PredictionSpec:
        """What is predicted."""
        if self.protocol.prediction is None:
            raise UserError("The protocol predicts nothing.", "Make one with track='predict'.")
        return self.protocol.prediction

    @cached_property
    def signals(self) -> Signals | None:
        """The scores of the RMs, if the protocol allows them as features."""
        if not self.spec.reward_signals:
            return None
        source = f"{self.benchmark.fingerprint}, standardiser {self.protocol.standardiser}"
        return Signals(self.task.table, self.task.view, source)

    @cached_property
    def known(self) -> I32:
        """Rows of the history split, ascending."""
        return np.sort(self.benchmark.rows(self.protocol.history_split)).astype(np.int32)

    @cached_property
    def groups(self) -> dict[Kind, Group]:
        """The users who are evaluated, by kind."""
        made = {"unseen": self._unseen, "seen": self._seen}
        return {kind: made[kind]() for kind in self.spec.users}

    @cached_property
    def electorate(self) -> Population:
        """Whose votes say how contested a pair is: the first 1,000 users of the pool; of the targets if it is empty."""
        if self.protocol.pool.n_users == 0:
            return self.task.everyone.subset(np.arange(min(_ELECTORATE, self.task.everyone.n_users), dtype=np.int32))
        others = self.task.others
        return others.subset(np.arange(min(_ELECTORATE, others.n_users), dtype=np.int32))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of the grid, by users, history, shots and prompts."""
        return tuple(
            Cell(group.kind, prompts, history, shots)
            for group in self.groups.values()
            for history, shots in group.conditions
            for prompts in self.spec.prompts
        )

    def _unseen(self) -> Group:
        """The protocol's population: histories of their own, which nobody was fitted on."""
        seed, n_shots, n_users = self.protocol.seed, max(self.spec.shots), self.task.n_users
        compared = np.empty((n_users, 0), np.int32)
        if n_shots:
            compared = sample_prompts(n_users, self.known, n_shots, derive_seed(seed, "target history"))
        return self._group("unseen", self.task.everyone, compared, derive_seed(seed, "target feedback", "random"))

    def _seen(self) -> Group:
        """The first users of the pool, with the histories that they have there."""
        spec = self.protocol.pool
        compared = sample_prompts(
            self.spec.n_seen_users, self.known, spec.pairs_per_user, derive_seed(spec.seed, "pool prompts")
        )
        return self._group("seen", self.task.others, compared, derive_seed(spec.seed, "pool feedback"))

    def _group(self, kind: Kind, everyone: Population, compared: I32, seed: int) -> Group:
        """Draw for the first users of everyone, one for each row of `compared`; who follows them changes nothing."""
        population = everyone.subset(np.arange(len(compared), dtype=np.int32))
        shots = tuple(k for k in self.spec.shots if k <= compared.shape[1])
        true = interact(population, self.task.table, compared, self.task.rule, seed)
        histories: dict[HistoryKind, Histories] = {"true": true.histories(self.task.view)}
        for other in self.spec.counterfactuals if max(shots, default=0) else ():
            said = flipped(true) if other == "flipped" else self._by_partners(kind, everyone, compared, seed)
            histories[other] = said.histories(self.task.view)
        tests = {prompts: self._tests(kind, prompts, population, compared) for prompts in self.spec.prompts}
        return Group(kind, population, histories, tests, shots)

    def _by_partners(self, kind: Kind, everyone: Population, compared: I32, seed: int) -> InteractionPool:
        """Return what another user, drawn from everyone, says of each user's prompts."""
        partner = partners(everyone.n_users, derive_seed(self.protocol.seed, "partners", kind))
        speakers = everyone.subset(partner[: len(compared)])
        return interact(speakers, self.task.table, compared, self.task.rule, seed)

    def _tests(self, kind: Kind, prompts: Kind, population: Population, compared: I32) -> TestPairs:
        """Draw the pairs to predict: other prompts than the user compared, the pairs by the same rule."""
        seed = derive_seed(self.protocol.seed, "test pairs", kind, prompts)
        if prompts == "unseen":
            rows = np.sort(self.benchmark.rows(self.protocol.split)).astype(np.int32)
            asked = sample_prompts(len(compared), rows, self.spec.test_pairs or len(rows), seed)
        else:
            asked = self._not_compared(compared, seed)
        said = interact(population, self.task.table, asked, self.outcome, seed)
        kept = ~said.tie
        return TestPairs(said.user[kept], said.prompt[kept], said.chosen[kept], said.rejected[kept])

    def _not_compared(self, compared: I32, seed: int) -> I32:
        """Draw prompts of the history split that are not among the user's own, int32 (n_users, n)."""
        (n_users, n_compared), n_known = compared.shape, len(self.known)
        left = n_known - n_compared
        rank = sample_prompts(n_users, np.arange(left), self.spec.test_pairs or left, seed).astype(np.int64)
        skipped = np.sort(np.searchsorted(self.known, compared), axis=1) - np.arange(n_compared)
        base = np.arange(n_users, dtype=np.int64)[:, None] * (n_known + 1)
        before = np.searchsorted((skipped + base).ravel(), (rank + base).ravel(), side="right").reshape(rank.shape)
        asked: I32 = self.known[rank + before - np.arange(n_users)[:, None] * n_compared]
        return asked

    @cached_property
    def outcome(self) -> FeedbackRule:
        """The rule of the test pairs: without noise, unless the protocol draws their outcome too."""
        knobs = self.protocol.feedback.model_dump()
        return FeedbackRule(**knobs if self.spec.outcome == "drawn" else {**knobs, "temperature": 0.0, "flip": 0.0})

    def queries(self, tests: TestPairs, start: int, stop: int) -> Queries:
        """Return the test pairs' prompts as queries of users `start` to `stop`, who are numbered from 0."""
        return Queries(self.task.view.corpus, stop - start, tests.user - np.int32(start), tests.prompt)

    def utilities(self, population: Population, tests: TestPairs) -> F32:
        """Return float32 (n, n_responses): the utilities of the responses of each test pair's prompt."""
        return utilities(population, self.task.table, tests.user, tests.prompt)

    def by_response(self, tests: TestPairs, preference: F32) -> F32:
        """Return preferences, (n, n_responses), with the corpus's columns put into the benchmark's order."""
        columns = self.task.view.to_columns(tests.prompt[:, None], np.arange(preference.shape[1])[None, :])
        return np.take_along_axis(preference, columns.astype(np.intp), axis=1)

    def lengths(self, tests: TestPairs) -> npt.NDArray[np.int64]:
        """Return int64 (n, n_responses): characters of the responses of each test pair's prompt."""
        return self.response_lengths[tests.prompt]

    @cached_property
    def response_lengths(self) -> npt.NDArray[np.int64]:
        """int64 (n_prompts, n_responses): characters of each response of the benchmark."""
        import pyarrow.compute as pc

        counted = pc.utf8_length(self.benchmark.responses).to_numpy().astype(np.int64)
        return np.asarray(counted.reshape(self.benchmark.n_prompts, self.benchmark.n_responses))

    def strongest(self, kind: Kind) -> I32:
        """Return int32 (n_users,): the RM on which each user's weight is largest."""
        strongest: I32 = self.groups[kind].population.weights.argmax(axis=1).astype(np.int32)
        return strongest

    def describe(self) -> dict[str, Any]:
        """Return what the protocol drew, as JSON for the manifest."""
        groups = self.groups.values()
        return {
            "population": self.task.everyone.spec(),
            "standardiser": self.task.standardiser.spec(),
            "feedback": self.task.rule.spec(),
            "test_feedback": self.outcome.spec(),
            "n_users": {group.kind: group.n_users for group in groups},
            "shots": {group.kind: list(group.shots) for group in groups},
            "test_pairs": {group.kind: {kind: len(pairs) for kind, pairs in group.tests.items()} for group in groups},
            "n_queries": sum(len(pairs) for group in groups for pairs in group.tests.values()),
        }
