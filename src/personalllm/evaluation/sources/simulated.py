"""Simulate users of a benchmark: who they are, what they prefer, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from personalllm.core.errors import AxisMismatch, ParameterError, UnknownName, UserError
from personalllm.core.protocols import TextEmbedder
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, I32, JSON, Corpus, Histories, Queries
from personalllm.data import Benchmark, ScoreTable, Standardiser
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.sources.counterfactual import Counterfactual, partners, rewritten
from personalllm.feedback import CorpusView, FeedbackRule, FixedPairs, InteractionPool, interact, sample_prompts
from personalllm.methods.base import HistoryRule
from personalllm.methods.parts.retrieval import nearest
from personalllm.users import Population, utilities

__all__ = ["Simulated"]


@dataclass(frozen=True, eq=False)
class Simulated:
    """The simulated users of a benchmark; all draws follow from the protocol, none from the method.

    Attributes:
        protocol: The protocol.
        benchmark: The benchmark that it was made for.
    """

    protocol: Protocol
    benchmark: Benchmark

    def __post_init__(self) -> None:
        self.protocol.check(self.benchmark)

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return self.benchmark.name

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the benchmark."""
        return self.benchmark.fingerprint

    @property
    def corpus(self) -> Corpus:
        """The texts that methods may read."""
        return self.view.corpus

    def about(self) -> JSON:
        """Return name, fingerprint and sizes of the benchmark, as JSON for the manifest."""
        benchmark = self.benchmark
        return {
            "kind": "benchmark",
            "name": benchmark.name,
            "fingerprint": benchmark.fingerprint,
            "n_prompts": benchmark.n_prompts,
            "n_responses": benchmark.n_responses,
            "reward_models": list(benchmark.reward_models),
            "response_models": list(benchmark.response_models),
        }

    @cached_property
    def standardiser(self) -> Standardiser:
        """Mean and standard deviation of each RM."""
        if self.protocol.standardiser == "published":
            return Standardiser.published()
        if self.protocol.standardiser == "none":
            return Standardiser.none(self.benchmark.reward_models)
        return Standardiser.fit(self.benchmark, split=self.protocol.history_split)

    @cached_property
    def table(self) -> ScoreTable:
        """Standardised scores of all stored responses, by the RMs that users are made of."""
        return ScoreTable(self._of_users(self.benchmark.score_table(self.standardiser).values), self.reward_models)

    @cached_property
    def reward_models(self) -> tuple[str, ...]:
        """The RMs that users are made of, in the order of the benchmark.

        Raises:
            UnknownName: If the benchmark lacks one of them.
        """
        chosen = self.protocol.population.reward_models
        for name in chosen:
            if name not in self.benchmark.reward_models:
                raise UnknownName("reward model", name, self.benchmark.reward_models)
        return tuple(name for name in self.benchmark.reward_models if name in chosen or not chosen)

    def _of_users(self, scores: F32) -> F32:
        """Return scores, float32 (n_prompts, n_responses, n_reward_models), by the RMs that users are made of."""
        if self.reward_models == self.benchmark.reward_models:
            return scores
        columns = [self.benchmark.reward_models.index(name) for name in self.reward_models]
        return np.ascontiguousarray(scores[:, :, columns])

    @cached_property
    def full_population(self) -> Population:
        """The whole population of target users."""
        spec = self.protocol.population
        rms = self.reward_models
        if spec.kind == "published":
            if isinstance(spec.alpha, tuple):
                raise UserError("The published population has one alpha for all RMs.", "Give a single alpha.")
            published = Population.published(spec.alpha)
            if published.reward_models != rms:
                raise AxisMismatch(
                    f"The published population has weights for {', '.join(published.reward_models)}; the benchmark has "
                    f"{', '.join(rms)}.",
                    "Draw a population of the same kind: --set population.kind=dirichlet.",
                )
            return published.subset(np.arange(min(spec.n_users, 1000), dtype=np.int32))
        if spec.kind == "one-per-reward-model":
            return Population.one_per_reward_model(rms)
        if spec.kind == "uniform":
            return Population.uniform(rms)
        return Population.dirichlet(spec.n_users, spec.alpha, rms, derive_seed(spec.seed, "target users"))

    @cached_property
    def population(self) -> Population:
        """The users who are evaluated: the first `limit` of the full population."""
        return self.full_population.subset(np.arange(self.n_users, dtype=np.int32))

    @property
    def n_users(self) -> int:
        """Number of users who are evaluated."""
        limit = self.protocol.limit
        return self.full_population.n_users if limit is None else min(limit, self.full_population.n_users)

    @cached_property
    def prompts(self) -> I32:
        """int32 (n_users, n_queries_per_user): the row of each query's prompt."""
        rows = np.sort(self.benchmark.rows(self.protocol.split)).astype(np.int32)
        k = self.protocol.prompts_per_user
        if k is None:
            return np.broadcast_to(rows, (self.n_users, len(rows)))
        seed = derive_seed(self.protocol.seed, "query prompts")
        return sample_prompts(self.full_population.n_users, rows, k, seed)[: self.n_users]

    @cached_property
    def view(self) -> CorpusView:
        """The benchmark as methods may read it."""
        return CorpusView(self.benchmark, derive_seed(self.protocol.seed, "column order"))

    @cached_property
    def rule(self) -> FeedbackRule:
        """How preference pairs arise."""
        return FeedbackRule(**self.protocol.feedback.model_dump())

    @cached_property
    def fixed_pairs(self) -> FixedPairs | None:
        """The pairs of each prompt, where they are the same for every user."""
        if self.rule.pairs_per_prompt is None:
            return None
        return FixedPairs.draw(self.table, self.rule, derive_seed(self.protocol.seed, "fixed pairs"))

    def questions(self, rows: I32) -> I32:
        """Return what users may be asked about prompts, int32, ascending: the prompts, or their fixed pairs."""
        return rows if self.fixed_pairs is None else self.fixed_pairs.questions(rows)

    def ask(self, users: Population, questions: I32, rule: FeedbackRule, seed: int) -> InteractionPool:
        """Let users answer questions, int32 (n_users, k)."""
        if self.fixed_pairs is None:
            return interact(users, self.table, questions, rule, seed)
        prompts, *shown = self.fixed_pairs.of(questions)
        return interact(users, self.table, prompts, rule, seed, shown=(shown[0], shown[1]))

    def draw(self, name: str, n_users: int, questions: I32, k: int, seed: int) -> I32:
        """Draw k different questions for each user, int32 (n_users, k).

        Raises:
            ParameterError: If there are not as many; `name` is the setting that asks for them.
        """
        if k > len(questions):
            raise ParameterError(name, f"at most the pairs that there are to compare ({len(questions)})", k)
        return sample_prompts(n_users, questions, k, seed)

    @cached_property
    def history_rows(self) -> I32:
        """Rows of the history split, ascending; preferences are given on these."""
        return np.sort(self.benchmark.rows(self.protocol.history_split)).astype(np.int32)

    @cached_property
    def survey(self) -> I32:
        """The questions that all users are asked, from which histories are drawn; empty without a survey."""
        n, seed = getattr(self.protocol.options, "survey", 0), derive_seed(self.protocol.seed, "survey")
        questions = self.questions(self.history_rows)
        return np.sort(self.draw("prediction.survey", 1, questions, n, seed)[0]) if n else questions[:0]

    @cached_property
    def pool_questions(self) -> I32:
        """The questions that users of the pool are asked, ascending: none about a prompt of the survey."""
        if not len(self.survey):
            return self.questions(self.history_rows)
        surveyed = self.survey if self.fixed_pairs is None else self.fixed_pairs.of(self.survey)[0]
        return self.questions(np.setdiff1d(self.history_rows, surveyed))

    @cached_property
    def pool_population(self) -> Population:
        """The users of the pool: the same distribution with another seed, or the first of the population."""
        spec, alpha = self.protocol.pool, self.protocol.population.alpha
        if spec.users == "population":
            return self.full_population.subset(np.arange(spec.n_users, dtype=np.int32))
        return Population.dirichlet(spec.n_users, alpha, self.reward_models, derive_seed(spec.seed, "pool users"))

    @cached_property
    def pool(self) -> Histories:
        """The histories of other users."""
        spec = self.protocol.pool
        if spec.n_users == 0:
            return Histories.empty(self.view.corpus, 0)
        feedback_seed = derive_seed(spec.seed, "pool feedback")
        return self.ask(self.pool_population, self.pool_asked, self.rule, feedback_seed).histories(self.view)

    @cached_property
    def pool_asked(self) -> I32:
        """int32 (n_pool_users, pairs_per_user): the questions of each user of the pool."""
        spec, seed = self.protocol.pool, derive_seed(self.protocol.pool.seed, "pool prompts")
        return self.draw("pool.pairs_per_user", spec.n_users, self.pool_questions, spec.pairs_per_user, seed)

    def histories(
        self, rule: HistoryRule, embedder: TextEmbedder | None = None, kind: Counterfactual | None = None
    ) -> Histories:
        """Return the target users' histories, or the counterfactual ones that the protocol asks for.

        Args:
            rule: `random` train prompts, or the train prompts `nearest` to the query (nearest last), by the cosine of
                the prompts' embeddings.
            embedder: Needed by `nearest`.
            kind: Which counterfactual, `none` for the users' own histories; None: as the protocol has it.

        Raises:
            UserError: If `nearest` is asked for without an embedder or with several queries for each user.
        """
        self.check_history(rule, embedder)
        prompts = self._random() if rule == "random" or embedder is None else self._nearest(embedder)
        if prompts.shape[1] == 0:
            return Histories.empty(self.view.corpus, self.n_users)
        seed, kind = self.protocol.seed, kind or self.protocol.history.counterfactual
        respondents = self.full_population
        if kind == "other-user":
            respondents = respondents.subset(partners(respondents.n_users, derive_seed(seed, "partners")))
        feedback = self.ask(respondents, prompts, self.rule, derive_seed(seed, "target feedback", rule))
        feedback = rewritten(kind, feedback, derive_seed(seed, "counterfactual", rule))
        return feedback.histories(self.view).of_users(0, self.n_users)

    def _random(self) -> I32:
        """int32 (n_full_population, pairs): random questions about train prompts."""
        return self.history_of(self.full_population.n_users, self.protocol.history.pairs)

    def history_of(self, n_users: int, pairs: int, group: str = "") -> I32:
        """Draw the questions of users' histories, int32 (n_users, pairs), from the survey if there is one.

        Args:
            n_users: Number of users.
            pairs: Questions of each.
            group: Named by users who are not the population's.
        """
        if pairs == 0:
            return np.empty((n_users, 0), np.int32)
        questions = self.survey if len(self.survey) else self.questions(self.history_rows)
        seed = derive_seed(self.protocol.seed, "target history", *([group] if group else []))
        return self.draw("history.pairs", n_users, questions, pairs, seed)

    def check_history(self, rule: HistoryRule, embedder: TextEmbedder | None) -> None:
        """Raise unless histories of this kind can be drawn (see `histories`)."""
        self.check_queries(rule)
        if rule == "nearest" and embedder is None:
            raise UserError(
                'A method whose `history` is "nearest" needs an embedder to find the nearest prompts.',
                "Pass embedder=... to evaluate(), or use the command line, which does it for you.",
            )

    def check_queries(self, rule: HistoryRule) -> None:
        """Raise unless the users ask as many prompts as histories of this kind allow."""
        if rule == "nearest" and self.rule.pairs_per_prompt is not None:
            raise UserError(
                'A method whose `history` is "nearest" asks about prompts, but this protocol fixes the pairs of each.',
                "Leave the method out, or set feedback.pairs_per_prompt=null.",
            )
        if rule == "nearest" and self.protocol.prompts_per_user != 1:
            raise UserError(
                'A method whose `history` is "nearest" needs one query for each user, but this protocol asks '
                f"{'every prompt of the split' if self.protocol.prompts_per_user is None else 'several'}.",
                "Use the generate track, or prompts_per_user=1.",
            )

    def _nearest(self, embedder: TextEmbedder) -> I32:
        """int32 (n_full_population, nearest): the train prompts nearest to each user's query, nearest last."""
        seed = derive_seed(self.protocol.seed, "query prompts")
        rows = np.sort(self.benchmark.rows(self.protocol.split)).astype(np.int32)
        queries = sample_prompts(self.full_population.n_users, rows, 1, seed)[:, 0]
        distinct, position = np.unique(queries, return_inverse=True)
        texts = self.benchmark.prompt
        keys = embedder.embed([texts(int(row)) for row in self.history_rows])
        vectors = embedder.embed([texts(int(row)) for row in distinct])
        rows_of_nearest = nearest(vectors, keys, self.protocol.history.nearest)[:, ::-1]
        return self.history_rows[rows_of_nearest][position.ravel()]

    def queries(self, start: int, stop: int) -> Queries:
        """Return the queries of users `start` to `stop`, who are numbered from 0."""
        users, prompts = self.query_rows(start, stop)
        return Queries(self.view.corpus, stop - start, users - np.int32(start), prompts)

    def utilities(self, users: I32, prompts: I32) -> F32:
        """Return float32 (n, n_responses): each user's utilities of the stored responses to a prompt.

        Args:
            users: int32 (n,), rows of the population.
            prompts: int32 (n,), rows of the benchmark.
        """
        return utilities(self.population, self.table, users, prompts)

    def query_rows(self, start: int, stop: int) -> tuple[I32, I32]:
        """Return user and prompt of each query of users `start` to `stop`, int32 (n,) each, by user."""
        users = np.repeat(np.arange(start, stop, dtype=np.int32), self.prompts.shape[1])
        return users, np.ascontiguousarray(self.prompts[start:stop]).ravel()

    def live_utilities(self, raw: F32, users: I32) -> F32:
        """Return float32 (n,): utilities of new responses.

        Args:
            raw: float32 (n, n_reward_models) raw scores, in the order of the benchmark's RMs.
            users: int32 (n,), rows of the population.
        """
        scores = self._of_users(self.standardiser.apply(raw[:, None, :]))
        return utilities(self.population, scores, users, np.arange(len(users), dtype=np.int32))[:, 0]

    def describe(self) -> JSON:
        """Return what the protocol drew, as JSON for the manifest."""
        return {
            "population": self.full_population.spec(),
            "standardiser": self.standardiser.spec(),
            "feedback": self.rule.spec(),
            "n_users": self.n_users,
            "n_queries": int(self.prompts.size),
        }
