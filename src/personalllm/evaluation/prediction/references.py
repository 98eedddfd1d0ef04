"""Nulls and oracles of the predict track: what needs no learning about a user, and what no learner can see.

- `random`: a coin for every pair.
- `longer`: P(a) = sigmoid(b (length of a - length of b)), lengths in characters, b fitted on the pool's comparisons.
- `population`: P(a) = the share of the pool's users who prefer a, (votes + 1/2) / (voters + 1): the best answer that
  ignores who asks, made from scores that no learner sees. Seen users vote too; noise in the outcome is allowed for.
- `best-linear`: for each user the linear function of 64 features that fits noise-free comparisons of the history split
  (at most 2,048 prompts) best, the ridge chosen on a fifth of them: what a learner linear in the features would reach
  with all the feedback there is. Where the outcome is drawn, one slope for all users allows for the noise. On seen
  prompts it has seen the very comparisons that are to be predicted.
- `true-weights`: the user's own utilities.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from personalllm.core.protocols import TextEmbedder
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, F64, JSON, Histories
from personalllm.evaluation.prediction.task import Group, PredictionTask, TestPairs
from personalllm.evaluation.references import PREDICTORS
from personalllm.feedback import FeedbackRule, interact, sample_prompts
from personalllm.users import Population

__all__ = ["Judgement", "Predictors", "opposition"]


_PROMPT_BLOCK = 64
_CERTAIN = 20.0
_LINEAR_PROMPTS = 2048
_LINEAR_FEATURES = 64
_TUNING_USERS = 64
_PRECISIONS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_NEWTON_STEPS = 30
_COLD = 1e-20


@dataclass(frozen=True, eq=False, slots=True)
class Judgement:
    """What a null or an oracle says of test pairs.

    Attributes:
        margin: float32 (n,), log-odds that the chosen response is preferred.
        preference: float32 (n, n_responses), higher is better, by response of the benchmark.
    """

    margin: F32
    preference: F32


@dataclass(frozen=True, eq=False)
class Predictors:
    """The nulls and oracles of a task.

    Attributes:
        task: The task.
        embedder: For `best-linear`, which is left out without one.
    """

    task: PredictionTask
    embedder: TextEmbedder | None

    @property
    def names(self) -> tuple[str, ...]:
        """Nulls, then oracles."""
        return tuple(name for name in PREDICTORS if name != "best-linear" or self.embedder is not None)

    def kind(self, name: str) -> Literal["null", "oracle"]:
        """Tell which of the two it is."""
        return "oracle" if name in {"best-linear", "true-weights"} else "null"

    def spec(self, name: str) -> JSON:
        """Return what it is, as JSON."""
        params: JSON = {}
        if name == "best-linear":
            params = {"n_features": _LINEAR_FEATURES, "n_prompts": len(self._linear_prompts)}
        return {"id": name, "params": params}

    def judge(self, name: str, group: Group, tests: TestPairs) -> Judgement:
        """Return what one of `names` says of a group's test pairs."""
        if name == "random":
            return Judgement(np.zeros(len(tests), np.float32), self._nothing(tests))
        if name == "longer":
            return _of_values(tests, self._per_character * self.task.lengths(tests))
        if name == "population":
            return self._population(tests)
        if name == "true-weights":
            return self._true(group, tests)
        return _of_values(tests, self._linear(group, tests))

    def _nothing(self, tests: TestPairs) -> F32:
        return np.zeros((len(tests), self.task.benchmark.n_responses), np.float32)

    @cached_property
    def _per_character(self) -> float:
        """Log-odds for each character more."""
        pool, view = self.task.task.pool, self.task.task.view
        lengths = self.task.response_lengths
        chosen, rejected = (
            lengths[pool.prompt, view.to_responses(pool.prompt, side)] for side in (pool.chosen, pool.rejected)
        )
        return _one_coefficient((chosen - rejected).astype(np.float64))

    def _population(self, tests: TestPairs) -> Judgement:
        prompts, place = np.unique(tests.prompt, return_inverse=True)
        shares, voters = _shares(self.task, prompts, self.task.outcome), self.task.electorate.n_users
        votes = voters * shares[place, tests.chosen, tests.rejected].astype(np.float64)
        margin = np.log(votes + 0.5) - np.log(voters - votes + 0.5)
        return Judgement(margin.astype(np.float32), shares.mean(axis=2)[place].astype(np.float32))

    def _true(self, group: Group, tests: TestPairs) -> Judgement:
        values = self.task.utilities(group.population, tests)
        rule, at = self.task.outcome, np.arange(len(tests))
        gap = values[at, tests.chosen].astype(np.float64) - values[at, tests.rejected]
        right = _chosen(gap, rule)
        with np.errstate(divide="ignore"):
            margin = np.clip(np.log(right) - np.log1p(-right), -_CERTAIN, _CERTAIN)
        return Judgement(margin.astype(np.float32), values)

    @cached_property
    def _linear_prompts(self) -> npt.NDArray[np.int32]:
        """Rows of the history split that the best linear function is fitted on, at most 2,048."""
        known = self.task.known
        seed = derive_seed(self.task.protocol.seed, "best linear")
        prompts: npt.NDArray[np.int32] = sample_prompts(1, known, min(len(known), _LINEAR_PROMPTS), seed)[0]
        return prompts

    def _linear(self, group: Group, tests: TestPairs) -> F32:
        """Return float32 (n, n_responses): the best linear utility of each response."""
        from personalllm.methods.parts.features import FeatureMap
        from personalllm.methods.parts.linear_method import score_queries
        from personalllm.methods.parts.logistic import newton_map

        embedder = self._needed_embedder
        noisy = self.task.outcome
        without = dataclasses.replace(noisy, temperature=0.0, flip=0.0)
        heard = self._heard(group.population, without)
        pool = self.task.task.pool
        features = FeatureMap.fit(embedder, pool if len(pool) else heard, _LINEAR_FEATURES)
        pairs = features.pairs(embedder, heard)
        some = pairs.of_users(np.arange(min(_TUNING_USERS, group.n_users)))
        kept = some.first(max(1, 4 * len(self._linear_prompts) // 5))
        held = _after(some.offsets, kept.offsets)
        tried = []
        for precision in _PRECISIONS:
            weights = newton_map(kept, 0.0, precision).mean
            logits = np.einsum("nd,nd->n", some.differences().astype(np.float64), weights[some.user])
            tried.append(logits[held])
        best = int(np.argmin([float(np.logaddexp(0.0, -logits).sum()) for logits in tried]))
        weights = newton_map(pairs, 0.0, _PRECISIONS[best]).mean
        if noisy != without:
            swapped = (self._heard(group.population, noisy).chosen != heard.chosen)[: len(held)][held]
            weights = weights * _one_coefficient(np.where(swapped, -tried[best], tried[best]))
        queries = self.task.queries(tests, 0, group.n_users)
        candidates, place = features.candidates(embedder, queries)
        return self.task.by_response(tests, score_queries(weights, candidates, place, queries.user))

    @property
    def _needed_embedder(self) -> TextEmbedder:
        if self.embedder is None:
            raise ValueError("best-linear needs an embedder")
        return self.embedder

    def _heard(self, population: Population, rule: FeedbackRule) -> Histories:
        """Return what the users say of the same prompts; which pairs they see does not depend on the noise."""
        prompts = np.broadcast_to(self._linear_prompts, (population.n_users, len(self._linear_prompts)))
        seed = derive_seed(self.task.protocol.seed, "best linear feedback")
        said = interact(population, self.task.task.table, prompts, rule, seed)
        return said.histories(self.task.task.view)


def opposition(task: PredictionTask, tests: TestPairs) -> F32:
    """Return float32 (n,): the share of the pool's users who prefer the rejected response; a tie counts half."""
    prompts, place = np.unique(tests.prompt, return_inverse=True)
    return _shares(task, prompts, FeedbackRule())[place, tests.rejected, tests.chosen]


def _chosen(gap: npt.NDArray[np.floating], rule: FeedbackRule) -> npt.NDArray[np.floating]:
    """Return the probability that a rule has the first response win, from its utility minus the other's."""
    if rule.temperature:
        right = 0.5 + 0.5 * np.tanh(gap / gap.dtype.type(max(2 * rule.temperature, _COLD)))
    else:
        right = 0.5 + 0.5 * np.sign(gap)
    return (1 - rule.flip) * right + rule.flip * (1 - right)


def _shares(task: PredictionTask, prompts: npt.NDArray[np.int32], rule: FeedbackRule) -> F32:
    """Return float32 (n, n_responses, n_responses): the share of the electorate whose choice is the first response."""
    weights = task.electorate.weights.astype(np.float32)
    width = task.benchmark.n_responses
    shares = np.empty((len(prompts), width, width), np.float32)
    for start in range(0, len(prompts), _PROMPT_BLOCK):
        block = slice(start, start + _PROMPT_BLOCK)
        values = np.einsum("um,prm->pru", weights, task.task.table.values[prompts[block]])
        for first in range(width):
            shares[block, first] = _chosen(values[:, first, None] - values, rule).mean(axis=2, dtype=np.float64)
    return shares


def _of_values(tests: TestPairs, values: npt.NDArray[np.floating]) -> Judgement:
    """Return the judgement of somebody whose log-odds are differences of values, (n, n_responses)."""
    at = np.arange(len(tests))
    margin = values[at, tests.chosen] - values[at, tests.rejected]
    return Judgement(margin.astype(np.float32), values.astype(np.float32))


def _after(offsets: npt.NDArray[np.int64], kept: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which rows are not among the first ones of their user."""
    counts = np.diff(offsets)
    place = np.arange(int(offsets[-1])) - np.repeat(offsets[:-1], counts)
    return place >= np.repeat(np.diff(kept), counts)


def _one_coefficient(differences: F64) -> float:
    """Return b that maximises the mean of log sigmoid(b x), by Newton steps; a slight ridge keeps it finite."""
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
