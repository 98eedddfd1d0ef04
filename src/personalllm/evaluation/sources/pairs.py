"""Draw what simulated users compare and what is to be predicted: groups, nested histories, test pairs.

The prompts that a user compares and those that are predicted never meet. All draws follow from the protocol, none from
the method or from the number of shots.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, I32, I64, JSON, U8, Histories, Queries
from personalllm.data import ScoreTable
from personalllm.evaluation.contract import Condition, Table
from personalllm.evaluation.measures import best_of_n_regret, kendall_tau, margins
from personalllm.evaluation.sources.counterfactual import flipped, partners
from personalllm.evaluation.sources.options import Novelty, PredictOptions, Together
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.feedback import CorpusView, FeedbackRule, InteractionPool, sample_prompts
from personalllm.users import Population, utilities

__all__ = ["Group", "Pairs", "Signals", "TestPairs"]

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
    """Users who are measured together and what is drawn for them.

    Attributes:
        kind: `unseen`, `seen` or `both`.
        population: The users who are evaluated.
        compared: What they compared, in each kind of history: the `true` one, and the counterfactual ones.
        histories: The same as methods see it.
        tests: The pairs to predict, by kind of prompt.
        shots: Numbers of shots, ascending, none larger than what these users compared.
    """

    kind: Together
    population: Population
    compared: dict[str, InteractionPool]
    histories: dict[str, Histories]
    tests: dict[str, TestPairs]
    shots: tuple[int, ...]

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.population.n_users

    @property
    def conditions(self) -> dict[str, tuple[int, ...]]:
        """Kind of history -> shots that are evaluated: all of the true one, the largest of a counterfactual."""
        most = self.shots[-1:] if any(self.shots) else ()
        shots = {kind: self.shots if kind == "true" else most for kind in self.histories}
        return {kind: of_kind for kind, of_kind in shots.items() if of_kind}


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

    @classmethod
    def of(cls, source: Simulated) -> Self:
        """Return the scores of the RMs that users are made of."""
        origin = f"{source.benchmark.fingerprint}, standardiser {source.protocol.standardiser}"
        return cls(source.table, source.view, origin)

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
class Pairs:
    """What the predict track draws of simulated users.

    Attributes:
        source: The simulated users.
        options: What is predicted.
    """

    source: Simulated
    options: PredictOptions

    @cached_property
    def signals(self) -> Signals | None:
        """The scores of the RMs, if the protocol allows them as features."""
        return Signals.of(self.source) if self.options.signals else None

    @cached_property
    def groups(self) -> dict[str, Group]:
        """The users who are evaluated, by kind."""
        draw = {"unseen": self._unseen, "seen": self._seen}
        drawn: dict[str, Group] = {kind: draw[kind]() for kind in self.options.kinds}
        if "both" in self.options.users:
            drawn["both"] = self._joined(drawn["unseen"], drawn["seen"])
        return {kind: drawn[kind] for kind in self.options.users}

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """Everything that is evaluated, by users, history, shots and prompts."""
        return tuple(
            Condition(group.kind, prompts, history, k)
            for group in self.groups.values()
            for history, shots in group.conditions.items()
            for k in shots
            for prompts in self.options.prompts
        )

    @cached_property
    def electorate(self) -> Population:
        """Whose votes say how contested a pair is: the first 1,000 users of the pool; of the targets if it is empty."""
        voters = self.source.pool_population if self.source.protocol.pool.n_users else self.source.full_population
        return voters.subset(np.arange(min(_ELECTORATE, voters.n_users), dtype=np.int32))

    @cached_property
    def outcome(self) -> FeedbackRule:
        """The rule of the test pairs: without noise, unless the protocol draws their outcome too."""
        settings = self.source.protocol.feedback.model_dump()
        noiseless = {} if self.options.outcome == "drawn" else {"temperature": 0.0, "flip": 0.0}
        return FeedbackRule(**settings | noiseless)

    def _unseen(self) -> Group:
        """The protocol's population: histories of their own, which nobody was fitted on."""
        source, pool = self.source, self.source.protocol.pool
        in_pool = pool.n_users if pool.users == "population" else 0
        new = source.full_population.subset(np.arange(in_pool, source.full_population.n_users, dtype=np.int32))
        compared = source.history_of(source.n_users - in_pool, max(self.options.shots))
        feedback_seed = derive_seed(source.protocol.seed, "target feedback", "random")
        return self._group("unseen", new, compared, feedback_seed)

    def _seen(self) -> Group:
        """The first users of the pool, with the histories that they have there, or with their answers to the survey."""
        source, pool, n = self.source, self.source.protocol.pool, self.options.n_seen_users
        if len(source.survey):
            compared = source.history_of(n, max(self.options.shots), "seen")
            return self._group("seen", source.pool_population, compared, derive_seed(pool.seed, "survey feedback"))
        compared = source.pool_asked[:n]
        return self._group("seen", source.pool_population, compared, derive_seed(pool.seed, "pool feedback"))

    def _joined(self, a: Group, b: Group) -> Group:
        """Return two groups as one, the users of the second numbered after those of the first."""
        weights = np.concatenate([a.population.weights, b.population.weights])
        compared = {kind: _after(a.compared[kind], b.compared[kind]) for kind in a.compared.keys() & b.compared.keys()}
        tests = {}
        for prompts, first in a.tests.items():
            second = dataclasses.replace(b.tests[prompts], user=b.tests[prompts].user + np.int32(a.n_users))
            names = [field.name for field in dataclasses.fields(TestPairs)]
            tests[prompts] = TestPairs(*(np.concatenate([getattr(side, n) for side in (first, second)]) for n in names))
        return Group(
            kind="both",
            population=Population(weights, self.source.reward_models),
            compared={kind: compared[kind] for kind in a.compared if kind in compared},
            histories={kind: compared[kind].histories(self.source.view) for kind in a.compared if kind in compared},
            tests=tests,
            shots=tuple(k for k in a.shots if k in b.shots),
        )

    def _group(self, kind: Novelty, everyone: Population, compared: I32, seed: int) -> Group:
        """Draw for the first users of everyone, one for each row of `compared`; who follows them changes nothing.

        Args:
            kind: Of the group.
            everyone: The users, and more of their kind, whom partners are drawn from.
            compared: int32 (n_users, k), the questions that they answered.
            seed: Of their feedback.
        """
        population = everyone.subset(np.arange(len(compared), dtype=np.int32))
        shots = tuple(k for k in self.options.shots if k <= compared.shape[1])
        answers = {"true": self.source.ask(population, compared, self.source.rule, seed)}
        for other in self.options.counterfactuals if any(shots) else ():
            own = other == "flipped"
            answers[other] = flipped(answers["true"]) if own else self._by_partners(kind, everyone, compared, seed)
        histories = {history: pool.histories(self.source.view) for history, pool in answers.items()}
        tests: dict[str, TestPairs] = {
            prompts: self._tests(kind, prompts, population, compared) for prompts in self.options.prompts
        }
        return Group(kind, population, answers, histories, tests, shots)

    def _by_partners(self, kind: Novelty, everyone: Population, compared: I32, seed: int) -> InteractionPool:
        """Return what another user, drawn from everyone, prefers for each user's prompts."""
        partner = partners(everyone.n_users, derive_seed(self.source.protocol.seed, "partners", kind))
        partner_users = everyone.subset(partner[: len(compared)])
        return self.source.ask(partner_users, compared, self.source.rule, seed)

    def _tests(self, kind: Novelty, prompts: Novelty, population: Population, compared: I32) -> TestPairs:
        """Draw the pairs to predict: other prompts than the user compared, the pairs by the same rule."""
        seed = derive_seed(self.source.protocol.seed, "test pairs", kind, prompts)
        if prompts == "unseen":
            rows = np.sort(self.source.benchmark.rows(self.source.protocol.split)).astype(np.int32)
            questions, n_tests = self.source.questions(rows), self.options.tests_of(kind)
            drawn = self.source.draw("prediction.test_pairs", len(compared), questions, n_tests or len(questions), seed)
        else:
            drawn = self._not_compared(kind, compared, seed)
        answers = self.source.ask(population, drawn, self.outcome, seed)
        decided = ~answers.tie
        return TestPairs(
            answers.user[decided], answers.prompt[decided], answers.chosen[decided], answers.rejected[decided]
        )

    def _not_compared(self, kind: Novelty, compared: I32, seed: int) -> I32:
        """Draw prompts of the history split that are not among the user's own, int32 (n_users, n).

        What is drawn is the rank of a prompt among those that are left to a user. The rank becomes a row by adding the
        number of compared prompts before it, for all users in one sorted search: each user's ranks are moved to a
        range of their own.
        """
        (n_users, n_compared), history_rows = compared.shape, self.source.history_rows
        left = len(history_rows) - n_compared
        rank = sample_prompts(n_users, np.arange(left), self.options.tests_of(kind) or left, seed).astype(np.int64)
        skipped = np.sort(np.searchsorted(history_rows, compared), axis=1) - np.arange(n_compared)
        base = np.arange(n_users, dtype=np.int64)[:, None] * (len(history_rows) + 1)
        before = np.searchsorted((skipped + base).ravel(), (rank + base).ravel(), side="right").reshape(rank.shape)
        rows: I32 = history_rows[rank + before - np.arange(n_users)[:, None] * n_compared]
        return rows

    def queries(self, tests: TestPairs, start: int, stop: int) -> Queries:
        """Return the test pairs' prompts as queries of users `start` to `stop`, who are numbered from 0."""
        return Queries(self.source.corpus, stop - start, tests.user - np.int32(start), tests.prompt)

    def utilities(self, population: Population, tests: TestPairs) -> F32:
        """Return float32 (n, n_responses): the utilities of the responses of each test pair's prompt."""
        return utilities(population, self.source.table, tests.user, tests.prompt)

    def by_response(self, tests: TestPairs, preference: F32) -> F32:
        """Return preferences, (n, n_responses), with the corpus's columns put into the benchmark's order."""
        columns = self.source.view.to_columns(tests.prompt[:, None], np.arange(preference.shape[1])[None, :])
        return np.take_along_axis(preference, columns.astype(np.intp), axis=1)

    def samples(self, index: int, tests: TestPairs, preference: F32, margin: F32 | None = None) -> Table:
        """Return the samples of a condition: a row for each test pair.

        Columns: `condition`, `user` (row of the group), `prompt` (row of the benchmark), `chosen`, `rejected`
        (responses of the benchmark), `margin`, `regret`, `tau`; see `measures`.

        Args:
            index: Position of the condition.
            tests: The pairs.
            preference: float32 (n, n_responses), by response of the benchmark.
            margin: float32 (n,); None: the difference of the preferences of the two responses.
        """
        import pyarrow as pa

        if margin is None:
            margin = margins(preference, tests.chosen, tests.rejected)
        utility = self.utilities(self.groups[self.conditions[index].users].population, tests)
        columns: dict[str, Any] = {"condition": np.full(len(tests), index, np.int16)}
        columns |= {name: getattr(tests, name) for name in ("user", "prompt", "chosen", "rejected")}
        columns |= {"margin": margin, "regret": best_of_n_regret(preference, utility)}
        return pa.table(columns | {"tau": kendall_tau(preference, utility)})

    @cached_property
    def response_lengths(self) -> I64:
        """int64 (n_prompts, n_responses): characters of each response of the benchmark."""
        import pyarrow.compute as pc

        benchmark = self.source.benchmark
        lengths = pc.utf8_length(benchmark.responses).to_numpy().astype(np.int64)
        return np.asarray(lengths.reshape(benchmark.n_prompts, benchmark.n_responses))

    def describe(self) -> JSON:
        """Return what was drawn, as JSON for the manifest."""
        groups = self.groups.values()
        test_pairs: dict[str, Any] = {
            group.kind: {kind: len(pairs) for kind, pairs in group.tests.items()} for group in groups
        }
        return {
            "population": self.source.full_population.spec(),
            "standardiser": self.source.standardiser.spec(),
            "feedback": self.source.rule.spec(),
            "test_feedback": self.outcome.spec(),
            "n_users": {group.kind: group.n_users for group in groups},
            "shots": {group.kind: list(group.shots) for group in groups},
            "test_pairs": test_pairs,
            "n_queries": sum(len(pairs) for group in groups for pairs in group.tests.values()),
        }


def _after(a: InteractionPool, b: InteractionPool) -> InteractionPool:
    """Return the interactions of two sets of users, those of the second numbered after those of the first."""
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in ("prompt", "chosen", "rejected", "tie")
    }
    joined |= {"user": np.concatenate([a.user, b.user + np.int32(a.n_users)]), "n_users": a.n_users + b.n_users}
    return dataclasses.replace(a, **joined)
