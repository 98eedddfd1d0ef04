"""Compute the baselines and oracles of the predict track.

A baseline ignores whose preference is predicted, an oracle knows scores that no method sees.

- `random`: a coin for every pair.
- `longer`: P(a) = sigmoid(b x), x the difference in length of a and b, b fitted on the pool's comparisons.
- `population`: P(a) = the share of the pool's users who prefer a, (votes + 1/2) / (voters + 1): the best answer that
  ignores the user, made from scores that no method sees. Seen users vote too; noise in the outcome is allowed for. Of
  people, the comparisons that they made are counted.
- `best-linear`: for each user the linear function of 64 features that fits noise-free comparisons of the history split
  (at most 2,048 prompts) best, the ridge chosen on a fifth of them: what a method linear in the features would reach
  with all the feedback there is. Where the outcome is drawn, one slope for all users allows for the noise. On seen
  prompts it has seen the very comparisons that are to be predicted.
- `true-weights`: the user's own utilities.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.protocols import TextEmbedder
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, F64, I32, I64, JSON, Histories
from personalllm.evaluation.contract import Outcome, Unit
from personalllm.evaluation.sources.pairs import Group, Pairs, TestPairs
from personalllm.evaluation.sources.people import Fold, People
from personalllm.feedback import FeedbackRule, sample_prompts
from personalllm.methods.parts.features import FeatureMap
from personalllm.methods.parts.linear_method import score_queries
from personalllm.methods.parts.logistic import newton_map

__all__ = ["PEOPLE_BASELINES", "TITLES", "pair_baselines", "people_baselines", "rejected_share"]

Answer: TypeAlias = tuple[F32, F32]
"""Margins, float32 (n,), log-odds that the chosen response is preferred; preference, float32 (n, n_responses)."""

_PROMPT_BLOCK = 64
_MAX_LOG_ODDS = 20.0
_LINEAR_PROMPTS = 2048
_LINEAR_FEATURES = 64
_TUNING_USERS = 64
_PRECISIONS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_NEWTON_STEPS = 30
_SLOPE_STEPS = 50
_MIN_TEMPERATURE = 1e-20


class _Baseline(ABC):
    """Id, title and kind of a baseline or an oracle."""

    id: ClassVar[str]
    title: ClassVar[str]
    kind: ClassVar[Literal["baseline", "oracle"]] = "baseline"

    def spec(self) -> JSON:
        """Return what it is, as JSON."""
        return {"id": self.id, "params": {}}


@dataclass(frozen=True, eq=False)
class _PairBaseline(_Baseline):
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
        share = _choice_probability(gap, self.pairs.outcome)
        with np.errstate(divide="ignore"):
            margin = np.clip(np.log(share) - np.log1p(-share), -_MAX_LOG_ODDS, _MAX_LOG_ODDS)
        return margin.astype(np.float32), values


@dataclass(frozen=True, eq=False)
class BestLinear(_PairBaseline):
    """The best linear function of the features, for each user."""

    id = "best-linear"
    title = "Best linear function of the features, for each user"
    kind = "oracle"

    embedder: TextEmbedder

    def spec(self) -> JSON:
        """Return what it is, as JSON."""
        return {"id": self.id, "params": {"n_features": _LINEAR_FEATURES, "n_prompts": len(self._prompts)}}

    @cached_property
    def _prompts(self) -> I32:
        """The questions about the history split that the function is fitted on, at most 2,048."""
        source = self.pairs.source
        questions = source.questions(source.history_rows)
        seed = derive_seed(source.protocol.seed, "best linear")
        asked: I32 = sample_prompts(1, questions, min(len(questions), _LINEAR_PROMPTS), seed)[0]
        return asked

    @cached_property
    def _fits(self) -> dict[str, tuple[FeatureMap, F64]]:
        """Kind of users -> their fit, which the tests on unseen and on seen prompts share."""
        return {}

    def answer(self, group: Group, tests: TestPairs) -> Answer:
        """Return the best linear utility of each response."""
        if group.kind not in self._fits:
            self._fits[group.kind] = self._fitted(group)
        features, weights = self._fits[group.kind]
        queries = self.pairs.queries(tests, 0, group.n_users)
        candidates, row = features.candidates(self.embedder, queries)
        return _of_values(tests, self.pairs.by_response(tests, score_queries(weights, candidates, row, queries.user)))

    def _fitted(self, group: Group) -> tuple[FeatureMap, F64]:
        """Return the features, and the weights of each user after a search for the ridge."""
        noisy = self.pairs.outcome
        noiseless = dataclasses.replace(noisy, temperature=0.0, flip=0.0)
        comparisons, pool = self._comparisons(group, noiseless), self.pairs.source.pool
        features = FeatureMap.fit(self.embedder, pool if len(pool) else comparisons, _LINEAR_FEATURES)
        compared = features.pairs(self.embedder, comparisons)
        tuning = compared.of_users(np.arange(min(_TUNING_USERS, group.n_users)))
        training = tuning.first(max(1, 4 * len(self._prompts) // 5))
        held_out = _after(tuning.offsets, training.offsets)
        logits_by_precision = []
        for precision in _PRECISIONS:
            weights = newton_map(training, 0.0, precision).mean
            logits = np.einsum("nd,nd->n", tuning.differences().astype(np.float64), weights[tuning.user])
            logits_by_precision.append(logits[held_out])
        losses = [float(np.logaddexp(0.0, -logits).sum()) for logits in logits_by_precision]
        best = int(np.argmin(losses))
        weights = newton_map(compared, 0.0, _PRECISIONS[best]).mean
        if noisy != noiseless:
            # which pairs a user sees does not depend on the noise, so the two differ in who was chosen alone
            swapped = self._comparisons(group, noisy).chosen != comparisons.chosen
            swapped = swapped[: len(held_out)][held_out]
            logits = logits_by_precision[best]
            weights = weights * _one_coefficient(np.where(swapped, -logits, logits))
        return features, weights

    def _comparisons(self, group: Group, rule: FeedbackRule) -> Histories:
        """Return what the users of a group prefer on the same prompts."""
        prompts = np.broadcast_to(self._prompts, (group.n_users, len(self._prompts)))
        seed = derive_seed(self.pairs.source.protocol.seed, "best linear feedback")
        answers = self.pairs.source.ask(group.population, prompts, rule, seed)
        return answers.histories(self.pairs.source.view)


def pair_baselines(pairs: Pairs, embedder: TextEmbedder | None) -> tuple[_PairBaseline, ...]:
    """Return the baselines and oracles for simulated users; `best-linear` is left out without an embedder."""
    linear = () if embedder is None else (BestLinear(pairs, embedder),)
    return (Coin(pairs), Longer(pairs), PopulationShare(pairs), *linear, TrueWeights(pairs))


TITLES = {kind.id: kind.title for kind in (Coin, Longer, PopulationShare, BestLinear, TrueWeights)}
"""Ids of the baselines and oracles and their titles."""


@dataclass(frozen=True, eq=False)
class _PeopleBaseline(_Baseline):
    """A baseline for people; a unit is a fold."""

    people: People

    def work(self, unit: Unit) -> Outcome:
        """Return samples with the same columns as a method's."""
        import pyarrow as pa

        fold = self.people.folds[unit.start]
        tests = self.people.tests(fold)
        margins = {kind: self.margins(fold, rows) for kind, rows in tests.items()}
        conditions = [(index, self.people.conditions[index].prompts) for index in unit.conditions]
        tables = [self.people.samples(index, tests[prompts], margins[prompts]) for index, prompts in conditions]
        return Outcome(pa.concat_tables(tables))

    @abstractmethod
    def margins(self, fold: Fold, rows: I64) -> F32:
        """Return the log-odds, float32 (n,), that the chosen response of rows is preferred."""


class PeopleCoin(_PeopleBaseline):
    """A coin for every pair."""

    id = Coin.id
    title = Coin.title

    def margins(self, fold: Fold, rows: I64) -> F32:
        """Return zeros."""
        return np.zeros(len(rows), np.float32)


class PeopleLonger(_PeopleBaseline):
    """The longer response, with one coefficient for the ratio of the lengths."""

    id = Longer.id
    title = Longer.title

    def margins(self, fold: Fold, rows: I64) -> F32:
        """Return log-odds proportional to the log of the ratio of the lengths."""
        slope = _slope(self.people.length_ratios(self.people.pool(fold)))
        return np.asarray((slope * self.people.lengths[rows]).astype(np.float32))


class PeopleShare(_PeopleBaseline):
    """The share of the other people who prefer a response to the same other one."""

    id = PopulationShare.id
    title = PopulationShare.title

    def margins(self, fold: Fold, rows: I64) -> F32:
        """Return log-odds of the share, one vote added on each side; 0 for a pair that nobody else compared."""
        pool, everything = self.people.pool(fold), self.people.people.histories
        wins = np.zeros((everything.corpus.n_prompts, 2))
        np.add.at(wins, (pool.prompt, pool.chosen), 1.0)
        share, item = np.log(wins + 1.0), everything.prompt[rows]
        margin = share[item, everything.chosen[rows]] - share[item, everything.rejected[rows]]
        return np.asarray(margin.astype(np.float32))


PEOPLE_BASELINES = (PeopleCoin, PeopleLonger, PeopleShare)


def people_baselines(people: People) -> tuple[_PeopleBaseline, ...]:
    """Return the baselines for people, whose utilities are unknown, so that there is no oracle."""
    return tuple(kind(people) for kind in PEOPLE_BASELINES)


def rejected_share(pairs: Pairs, tests: TestPairs) -> F32:
    """Return float32 (n,): the share of the pool's users who prefer the rejected response; a tie counts half."""
    prompts, row = np.unique(tests.prompt, return_inverse=True)
    return _shares(pairs, prompts, FeedbackRule())[row, tests.rejected, tests.chosen]


def _choice_probability(gap: npt.NDArray[np.floating[Any]], rule: FeedbackRule) -> npt.NDArray[np.floating[Any]]:
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
            chosen = _choice_probability(values[:, first, None] - values, rule)
            shares[block, first] = chosen.mean(axis=2, dtype=np.float64)
    return shares


def _of_values(tests: TestPairs, values: npt.NDArray[np.floating[Any]]) -> Answer:
    """Return the answer whose log-odds are differences of values, (n, n_responses)."""
    row = np.arange(len(tests))
    margin = values[row, tests.chosen] - values[row, tests.rejected]
    return margin.astype(np.float32), values.astype(np.float32)


def _after(offsets: I64, first: I64) -> npt.NDArray[np.bool_]:
    """Return which rows are not among the first ones of their user."""
    counts = np.diff(offsets)
    position = np.arange(int(offsets[-1])) - np.repeat(offsets[:-1], counts)
    return position >= np.repeat(np.diff(first), counts)


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


def _slope(lengths: F64) -> float:
    """Return the slope b for which sigmoid(b x) is likeliest, by Newton steps under a weak prior, N(0, 10)."""
    slope = 0.0
    for _ in range(_SLOPE_STEPS):
        wrong = 1.0 / (1.0 + np.exp(np.clip(slope * lengths, -500, 500)))
        gradient = float((wrong * lengths).sum()) - slope / 10
        curvature = float((wrong * (1 - wrong) * lengths**2).sum()) + 0.1
        step = gradient / curvature
        slope += step
        if abs(step) < 1e-9:
            break
    return slope
