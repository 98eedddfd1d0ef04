"""Compute the baselines and oracles of the predict track.

A baseline ignores whose preference is predicted, an oracle knows scores that no method sees.

- `random`: a coin for every pair.
- `longer`: P(a) = sigmoid(b x), x the difference in length of a and b, b fitted on the pool's comparisons.
- `population`: P(a) = the share of the pool's users who prefer a, (votes + 1/2) / (voters + 1): the best answer that
  ignores the user, made from scores that no method sees. Seen users vote too; noise in the outcome is allowed for.
- `best-linear`: for each user the linear function of the whole embedding and the text measures that comes nearest to
  the utilities of all responses of the history split (at most 2,048 prompts), by ridge regression within prompts, with
  one slope for all users: what a method linear in these features would reach with all the feedback there is.
- `true-weights`: the user's own utilities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.protocols import TextEmbedder
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, F64, I32, JSON, Histories, Queries
from personalllm.evaluation.contract import Outcome, Unit
from personalllm.evaluation.sources.pairs import Group, Pairs, TestPairs
from personalllm.feedback import FeedbackRule, sample_prompts
from personalllm.methods.parts.features import FeatureMap
from personalllm.methods.parts.linear_method import score_queries
from personalllm.methods.parts.surface import TextFeatureMap

__all__ = [
    "TITLES",
    "Coin",
    "Longer",
    "NamedBaseline",
    "PopulationShare",
    "choice_probability",
    "pair_baselines",
    "rejected_share",
]

Answer: TypeAlias = tuple[F32, F32]
"""Margins, float32 (n,), log-odds that the chosen response is preferred; preference, float32 (n, n_responses)."""

_PROMPT_BLOCK = 64
_MAX_LOG_ODDS = 20.0
_LINEAR_PROMPTS = 2048
_PENALTIES = tuple(float(f"1e{power}") for power in range(-3, 4))
_NEWTON_STEPS = 30
_MIN_TEMPERATURE = 1e-20


class NamedBaseline(ABC):
    """Id, title and kind of a baseline or an oracle."""

    id: ClassVar[str]
    title: ClassVar[str]
    kind: ClassVar[Literal["baseline", "oracle"]] = "baseline"

    def spec(self) -> JSON:
        """Return what it is, as JSON."""
        return {"id": self.id, "params": {}}


@dataclass(frozen=True, eq=False)
class _PairBaseline(NamedBaseline):
    """A baseline or an oracle for simulated users; a unit is a whole group of users."""

    pairs: Pairs

    def work(self, unit: Unit) -> Outcome:
        """Return samples with the same columns as a method's."""
        import pyarrow as pa

        tables = []
        for index in unit.conditions:
            condition = self.pairs.conditions[index]
            group = self.pairs.groups[condition.users]
            tests = group.tests[condition.prompts]
            margin, preference = self.answer(group, tests)
            tables.append(self.pairs.samples(index, tests, preference, margin))
        return Outcome(pa.concat_tables(tables))

    @abstractmethod
    def answer(self, group: Group, tests: TestPairs) -> Answer:
        """Return margins and preferences, by response of the benchmark."""


class Coin(_PairBaseline):
    """A coin for every pair."""

    id = "random"
    title = "A coin"

    def answer(self, group: Group, tests: TestPairs) -> Answer:
        """Return zeros."""
        n_responses = self.pairs.source.benchmark.n_responses
        return np.zeros(len(tests), np.float32), np.zeros((len(tests), n_responses), np.float32)


class Longer(_PairBaseline):
    """The longer response, with one coefficient."""

    id = "longer"
    title = "Length alone: one coefficient, from the pool"

    def answer(self, group: Group, tests: TestPairs) -> Answer:
        """Return log-odds proportional to the difference in characters."""
        return _of_values(tests, self._per_character * self.pairs.response_lengths[tests.prompt])

    @cached_property
    def _per_character(self) -> float:
        """Log-odds for each additional character."""
        pool, view, lengths = self.pairs.source.pool, self.pairs.source.view, self.pairs.response_lengths
        chosen, rejected = (
            lengths[pool.prompt, view.to_responses(pool.prompt, side)] for side in (pool.chosen, pool.rejected)
        )
        return _one_coefficient((chosen - rejected).astype(np.float64))


class PopulationShare(_PairBaseline):
    """The share of the pool's users who prefer a response."""

    id = "population"
    title = "What most users of the pool prefer"

    def answer(self, group: Group, tests: TestPairs) -> Answer:
        """Return log-odds of the share; half a vote on each side keeps them finite where all agree."""
        prompts, row = np.unique(tests.prompt, return_inverse=True)
        shares, voters = _shares(self.pairs, prompts, self.pairs.outcome), self.pairs.electorate.n_users
        votes = voters * shares[row, tests.chosen, tests.rejected].astype(np.float64)
        margin = np.log(votes + 0.5) - np.log(voters - votes + 0.5)
        return margin.astype(np.float32), shares.mean(axis=2)[row].astype(np.float32)


class TrueWeights(_PairBaseline):
    """The user's own utilities."""

    id = "true-weights"
    title = "The user's own utilities"
    kind = "oracle"

    def answer(self, group: Group, tests: TestPairs) -> Answer:
        """Return the log-odds with which the rule of the test pairs chooses; at most 20, where it has no noise."""
        values = self.pairs.utilities(group.population, tests)
        row = np.arange(len(tests))
        gap = values[row, tests.chosen].astype(np.float64) - values[row, tests.rejected]
        share = choice_probability(gap, self.pairs.outcome)
        with np.errstate(divide="ignore"):
            margin = np.clip(np.log(share) - np.log1p(-share), -_MAX_LOG_ODDS, _MAX_LOG_ODDS)
        return margin.astype(np.float32), values


@dataclass(frozen=True, eq=False)
class BestLinear(_PairBaseline):
    """The best linear function of embedding and text measures, for each user."""

    id = "best-linear"
    title = "Best linear function of embedding and text measures, for each user"
    kind = "oracle"

    embedder: TextEmbedder

    def spec(self) -> JSON:
        """Return what it is, as JSON."""
        return {"id": self.id, "params": {"features": "all", "n_prompts": len(self._prompts)}}

    @cached_property
    def _prompts(self) -> I32:
        """Rows of the history split that the function is fitted on, at most 2,048, in random order."""
        rows = self.pairs.source.history_rows
        seed = derive_seed(self.pairs.source.protocol.seed, "best linear")
        prompts: I32 = sample_prompts(1, rows, min(len(rows), _LINEAR_PROMPTS), seed)[0]
        return prompts

    @cached_property
    def _fits(self) -> dict[str, F64]:
        """Kind of users -> their weights, which the tests on unseen and on seen prompts share."""
        return {}

    @cached_property
    def _features(self) -> FeatureMap:
        """The whole embedding and the text measures: whatever a built-in linear method reads."""
        pool, prompts = self.pairs.source.pool, self._prompts
        if not len(pool):
            first = np.zeros(len(prompts), np.uint8)
            pool = Histories(self.pairs.source.corpus, 1, 0 * prompts, prompts, first, 1 - first)
        return TextFeatureMap.fit(self.embedder, pool)

    def answer(self, group: Group, tests: TestPairs) -> Answer:
        """Return the best linear utility of each response."""
        if group.kind not in self._fits:
            self._fits[group.kind] = self._weights(group)
        queries = self.pairs.queries(tests, 0, group.n_users)
        candidates, row = self._features.candidates(self.embedder, queries)
        scores = score_queries(self._fits[group.kind], candidates, row, queries.user)
        return _of_values(tests, self.pairs.by_response(tests, scores))

    def _weights(self, group: Group) -> F64:
        """Return each user's weights, float64 (n_users, n_features), on the scale of log-odds."""
        coefficients, prompts, scores = self._regressions
        mixture = group.population.weights
        # the scale of log-odds on prompts that the regression has not seen; where the outcome is drawn, so is this one
        answers = self._comparisons(group, prompts)
        place = np.searchsorted(prompts, answers.prompt)
        gap = scores[place, answers.chosen] - scores[place, answers.rejected]
        slope = _one_coefficient(np.einsum("nm,nm->n", gap, mixture[answers.user]))
        return np.asarray(slope * (mixture @ coefficients))

    @cached_property
    def _regressions(self) -> tuple[F64, I32, F64]:
        """The regression of the RMs' scores on the features, within prompts.

        A user's utility is a mixture of the scores, so the mixture of their regressions is the user's regression: no
        user is fitted alone, and every response of every prompt counts.

        Returns:
            Coefficients on all prompts, float64 (n_reward_models, n_features); a fifth of the prompts, ascending; and
            their scores, float64 (n, n_responses, n_reward_models), by column of the corpus, as predicted without them.
        """
        prompts = self._prompts
        held = np.sort(prompts[4 * len(prompts) // 5 :])
        all_x, all_y = self._within(np.sort(prompts))
        x, y = self._within(np.setdiff1d(prompts, held))
        part = _ridge(x, y) if len(x) else np.zeros((y.shape[2], x.shape[2]))
        return _ridge(all_x, all_y), held, self._within(held)[0] @ part.T

    def _within(self, prompts: I32) -> tuple[F64, F64]:
        """Return features and scores, (n, n_responses, ...), by column of the corpus, less their mean in the prompt."""
        source = self.pairs.source
        queries = Queries(source.corpus, 1, np.zeros_like(prompts), prompts)
        x = self._features.candidates(self.embedder, queries)[0].astype(np.float64)
        column = np.arange(x.shape[1])[None, :]
        response = source.view.to_responses(prompts[:, None], column).astype(np.intp)
        y = np.take_along_axis(source.table.values[prompts].astype(np.float64), response[:, :, None], axis=1)
        return x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)

    def _comparisons(self, group: Group, prompts: I32) -> Histories:
        """Return what the users of a group prefer on the same prompts, drawn as the outcomes to predict are."""
        source, seed = self.pairs.source, derive_seed(self.pairs.source.protocol.seed, "best linear feedback")
        questions = source.questions(prompts)
        each = np.broadcast_to(questions, (group.n_users, len(questions)))
        return source.ask(group.population, each, self.pairs.outcome, seed).histories(source.view)


def _ridge(x: F64, y: F64) -> F64:
    """Return the ridge regression, (n_targets, n_features), each penalty by leave-one-out error."""
    from sklearn.linear_model import RidgeCV

    fit = RidgeCV(_PENALTIES, fit_intercept=False, alpha_per_target=True)
    return np.asarray(fit.fit(x.reshape(-1, x.shape[2]), y.reshape(-1, y.shape[2])).coef_).reshape(y.shape[2], -1)


def pair_baselines(pairs: Pairs, embedder: TextEmbedder | None) -> tuple[_PairBaseline, ...]:
    """Return the baselines and oracles for simulated users; `best-linear` is left out without an embedder."""
    linear = () if embedder is None else (BestLinear(pairs, embedder),)
    return (Coin(pairs), Longer(pairs), PopulationShare(pairs), *linear, TrueWeights(pairs))


TITLES = {kind.id: kind.title for kind in (Coin, Longer, PopulationShare, BestLinear, TrueWeights)}
"""Ids of the baselines and oracles and their titles."""


def rejected_share(pairs: Pairs, tests: TestPairs) -> F32:
    """Return float32 (n,): the share of the pool's users who prefer the rejected response; a tie counts half."""
    prompts, row = np.unique(tests.prompt, return_inverse=True)
    return _shares(pairs, prompts, FeedbackRule())[row, tests.rejected, tests.chosen]


def choice_probability(gap: npt.NDArray[np.floating[Any]], rule: FeedbackRule) -> npt.NDArray[np.floating[Any]]:
    """Return the probability that a rule has the first response win, from its utility minus the other's.

    tanh does not overflow; a temperature that rounds to 0 in the type of the gap is kept above 0.
    """
    if rule.temperature:
        share = 0.5 + 0.5 * np.tanh(gap / gap.dtype.type(max(2 * rule.temperature, _MIN_TEMPERATURE)))
    else:
        share = 0.5 + 0.5 * np.sign(gap)
    return (1 - rule.flip) * share + rule.flip * (1 - share)


def _shares(pairs: Pairs, prompts: I32, rule: FeedbackRule) -> F32:
    """Return float32 (n, n_responses, n_responses): the share of the electorate whose choice is the first response."""
    weights = pairs.electorate.weights.astype(np.float32)
    width = pairs.source.benchmark.n_responses
    shares = np.empty((len(prompts), width, width), np.float32)
    for start in range(0, len(prompts), _PROMPT_BLOCK):
        block = slice(start, start + _PROMPT_BLOCK)
        values = np.einsum("um,prm->pru", weights, pairs.source.table.values[prompts[block]])
        for first in range(width):
            chosen = choice_probability(values[:, first, None] - values, rule)
            shares[block, first] = chosen.mean(axis=2, dtype=np.float64)
    return shares


def _of_values(tests: TestPairs, values: npt.NDArray[np.floating[Any]]) -> Answer:
    """Return the answer whose log-odds are differences of values, (n, n_responses)."""
    row = np.arange(len(tests))
    margin = values[row, tests.chosen] - values[row, tests.rejected]
    return margin.astype(np.float32), values.astype(np.float32)


def _one_coefficient(differences: F64) -> float:
    """Return b that maximises the mean of log sigmoid(b x), by Newton steps.

    A slight ridge, one comparison's worth, keeps it finite where all differences have one sign; x is scaled to unit
    mean square, and steps are at most 1, so that the first ones cannot overshoot.
    """
    scale = float(np.sqrt(np.mean(differences**2))) if len(differences) else 0.0
    if not scale > 0:
        return 0.0
    x, b, ridge = differences / scale, 0.0, 1.0 / len(differences)
    for _ in range(_NEWTON_STEPS):
        wrong = 1.0 / (1.0 + np.exp(np.clip(b * x, -30, 30)))
        step = (np.mean(wrong * x) - ridge * b) / (np.mean(wrong * (1 - wrong) * x * x) + ridge)
        b += float(np.clip(step, -1.0, 1.0))
        if abs(step) < 1e-10:
            break
    return b / scale
