"""Between what the personalisation share is measured: `text-only`, its zero, and `known-basis`, its ceiling.

- `text-only` is the best method that sees the texts and the pool and serves everybody alike. A few are fitted on three
  quarters of the pool's prompts; the one that does best for the pool's users on the other quarter is fitted on all of
  them. Neither a target user nor a prompt of the split that is evaluated has a part in the choice.
- `known-basis` infers each user's weights from the same preferences that methods get, exactly, given what no method
  has: the true scores and the distribution of weights. Where users named the best and the worst of all responses, all
  comparisons that this implies count. It is a ceiling for learning from so many preferences, as an oracle is for
  knowing the user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, F64, I32, I64, JSON, U8, Histories, Queries
from personalllm.evaluation.baselines.predicting import choice_probability
from personalllm.evaluation.contract import Backends, Outcome, Unit
from personalllm.evaluation.resolve import named
from personalllm.methods.baselines.longest import Longest
from personalllm.methods.baselines.pooled_ranker import PooledRanker
from personalllm.methods.linear.pooled_bt import PooledBT
from personalllm.methods.parts.features import FeatureMap
from personalllm.methods.parts.surface import TextFeatureMap
from personalllm.users.posterior import Posterior, enumerated_weights, posterior_weights

if TYPE_CHECKING:
    from personalllm.evaluation.sources.pairs import TestPairs
    from personalllm.evaluation.sources.simulated import Simulated
    from personalllm.feedback import FeedbackRule
    from personalllm.methods.base import Method

__all__ = ["ANCHORS", "EndOfShare", "KnownBasis", "TextOnly", "best_for_all", "right_for_all"]

ANCHORS = {"text-only": "Best on text and pool alone (not personalised)", "known-basis": "User inferred, scores known"}
"""Ids and titles."""

_HELD_OUT = 4


@dataclass
class PooledText(PooledBT):
    """`pooled-bt` with measures of the text among its features."""

    id: ClassVar[str] = "pooled-text"
    title: ClassVar[str] = "Pooled Bradley-Terry on text and embedding"

    def make_features(self, pool: Histories) -> FeatureMap:
        """Return the components and the measures of the text."""
        return TextFeatureMap.fit(self.embedder, pool, self.n_features)


@dataclass(frozen=True, eq=False)
class TextOnly:
    """The method that is best for everybody alike, chosen and fitted on first use.

    Attributes:
        source: The users.
        backends: Those of the run.
        score: From responses to prompts of the history split to how good they are for the pool's users: prompts, int32
            (n,), and utilities, float32 (n, n_responses), by response of the benchmark.
    """

    source: Simulated
    backends: Backends
    score: Callable[[Simulated, I32, F32], float]

    @property
    def candidates(self) -> tuple[Method, ...]:
        """What is chosen among; without an embedder, what needs none."""
        every: tuple[Method, ...] = (Longest(), PooledRanker(), PooledBT(), PooledText())
        return tuple(method for method in every if self.backends.embedder is not None or not method.needs)

    @cached_property
    def chosen(self) -> tuple[Method, dict[str, float]]:
        """The one that is chosen, fitted on the whole pool, and how good each candidate was on prompts held out."""
        pool, scores = self.source.pool, {}
        prompts = np.unique(pool.prompt)
        held_out = prompts[_HELD_OUT - 1 :: _HELD_OUT].astype(np.int32)
        best: Method = self.candidates[0]
        if len(held_out):
            rest = pool.rows(~np.isin(pool.prompt, held_out))
            for method in self.candidates:
                scores[named(method).label] = self.score(
                    self.source, held_out, self._answers(self._fitted(method, rest), held_out)
                )
            best = max(self.candidates, key=lambda method: scores[named(method).label])
        return self._fitted(best, pool), scores

    def utilities(self, prompts: I32) -> F32:
        """Return float32 (n, n_responses): the utility for everybody, by response of the benchmark."""
        distinct, row = np.unique(prompts, return_inverse=True)
        return self._answers(self.chosen[0], distinct.astype(np.int32))[row.ravel()]

    def spec(self) -> JSON:
        """Return what was chosen, among what, and how good each was."""
        method, scores = self.chosen
        return {"id": "text-only", "params": {"method": named(method).spec, "held_out": scores}}

    def _fitted(self, method: Method, pool: Histories) -> Method:
        seed = derive_seed(self.source.protocol.seed, "text-only", named(method).key)
        return self.backends.bind(method.clone(), seed).fit(pool)

    def _answers(self, method: Method, prompts: I32) -> F32:
        source = self.source
        queries = Queries(source.corpus, 1, np.zeros(len(prompts), np.int32), prompts)
        utilities = method.adapt(Histories.empty(source.corpus, 1)).utilities(queries)
        columns = source.view.to_columns(prompts[:, None], np.arange(utilities.shape[1])[None, :])
        return np.take_along_axis(utilities, columns.astype(np.intp), axis=1)


@dataclass(frozen=True, eq=False)
class KnownBasis:
    """The posterior of users' weights, given the scores and the population.

    Attributes:
        source: The users.
    """

    source: Simulated

    def posterior(self, histories: Histories, shots: Sequence[int], key: str, users: slice) -> Posterior:
        """Return what so many of the users' interactions say about their weights.

        Args:
            histories: Of all users of a group, as methods get them.
            shots: Ascending.
            key: Kind of the group, which the seeds are derived from.
            users: Of the group.
        """
        some = histories.of_users(users.start, users.stop)
        comparisons, of = some.implied()
        view, values = self.source.view, self.source.table.values
        chosen, rejected = (
            view.to_responses(comparisons.prompt, side) for side in (comparisons.chosen, comparisons.rejected)
        )
        starts, offsets = np.searchsorted(of, np.arange(len(some) + 1)).astype(np.int64), some.offsets
        # what was chosen first, then what it implies in an order that the view of methods has no part in
        order = np.lexsort((rejected, chosen, np.arange(len(of)) != starts[of], of))
        better, worse = (values[comparisons.prompt, side].astype(np.float64)[order] for side in (chosen, rejected))
        first: list[I64] = [starts[offsets[u] : offsets[u + 1] + 1] for u in range(some.n_users)]
        rows: list[F64] = [better[part[0] : part[-1]] - worse[part[0] : part[-1]] for part in first]
        first = [part - part[0] for part in first]
        noise: Any = {"temperature": self.source.rule.temperature, "flip": self.source.rule.flip}
        spec = self.source.protocol.population
        if spec.kind in ("dirichlet", "published"):
            seed = self.source.protocol.seed
            seeds = [derive_seed(seed, "known-basis", key, user) for user in range(users.start, users.stop)]
            return posterior_weights(spec.alpha, rows, first, shots, seeds, **noise)
        support = self.source.full_population.weights.astype(np.float64)
        return enumerated_weights(support, rows, first, shots, **noise)

    def vote(
        self, posterior: Posterior, index: int, tests: TestPairs, start: int, rule: FeedbackRule
    ) -> tuple[F32, F32]:
        """Return what the posterior predicts of test pairs.

        Args:
            posterior: Of users from `start` on.
            index: Which number of shots.
            tests: Their pairs.
            start: First user of the posterior.
            rule: Of the test pairs.

        Returns:
            Margins, float32 (n,): log-odds of the vote, half a vote added on each side; preferences, float32 (n,
            n_responses): expected utilities, by response of the benchmark.
        """
        values, row = self.source.table.values, np.arange(len(tests))
        margin, preference = np.empty(len(tests), np.float32), np.empty((len(tests), values.shape[1]), np.float32)
        ends = np.searchsorted(tests.user, np.arange(start, start + posterior.mean.shape[1] + 1))
        for user, (first, last) in enumerate(pairwise(ends.tolist())):
            rows, particles = slice(first, last), posterior.particles[index, user].astype(np.float64)
            scores = values[tests.prompt[rows]].astype(np.float64)
            at = row[: last - first]
            gaps = (scores[at, tests.chosen[rows]] - scores[at, tests.rejected[rows]]) @ particles.T
            votes = choice_probability(gaps, rule) @ posterior.shares[index, user]
            n = len(particles)
            margin[rows] = np.log(n * votes + 0.5) - np.log(n * (1.0 - votes) + 0.5)
            preference[rows] = scores @ posterior.mean[index, user]
        return margin, preference


class SharingTrack(Protocol):
    """A track that has a personalisation share."""

    def anchor_units(self, key: str) -> Sequence[Unit]:
        """Cut the work into units, of the users' own histories."""

    def text_only(self, of: TextOnly, unit: Unit) -> Outcome:
        """Return the samples of a unit of the zero."""

    def known_basis(self, of: KnownBasis, unit: Unit) -> Outcome:
        """Return the samples of a unit of the ceiling."""


@dataclass(frozen=True, eq=False)
class EndOfShare:
    """An end of the personalisation share in a track.

    Attributes:
        id: One of `ANCHORS`.
        of: Who answers.
        track: Who turns the answers into samples.
    """

    id: str
    of: TextOnly | KnownBasis
    track: SharingTrack

    @property
    def title(self) -> str:
        """A few words for tables."""
        return ANCHORS[self.id]

    @property
    def kind(self) -> Literal["baseline", "oracle"]:
        """The zero ignores the user, the ceiling sees the scores."""
        return "baseline" if isinstance(self.of, TextOnly) else "oracle"

    @property
    def log_odds(self) -> bool:
        """Whether margins are log-odds."""
        return not isinstance(self.of, TextOnly) or self.of.chosen[0].log_odds

    def spec(self) -> JSON:
        """Return what it is, as JSON, without what is found out on the way."""
        if isinstance(self.of, KnownBasis):
            return {"id": self.id, "params": {}}
        return {"id": self.id, "params": {"candidates": [named(method).spec for method in self.of.candidates]}}

    def found(self) -> JSON:
        """Return what it came out as, as JSON for the record and the manifest."""
        return self.of.spec() if isinstance(self.of, TextOnly) else self.spec()

    def units(self, key: str) -> Sequence[Unit]:
        """Cut its work into units."""
        return self.track.anchor_units(key)

    def prepare(self) -> None:
        """Choose and fit what serves everybody."""
        if isinstance(self.of, TextOnly):
            self.of.chosen  # noqa: B018 - a cached property, which then travels with this object

    def work(self, unit: Unit) -> Outcome:
        """Return the samples of a unit."""
        if isinstance(self.of, TextOnly):
            return self.track.text_only(self.of, unit)
        return self.track.known_basis(self.of, unit)


def best_for_all(source: Simulated, prompts: I32, utilities: F32) -> float:
    """Return the mean utility of the top responses for the pool's users (see `TextOnly`)."""
    mean = source.pool_population.weights.astype(np.float64).mean(axis=0)
    chosen: U8 = utilities.argmax(axis=1).astype(np.uint8)
    return float((source.table.values[prompts, chosen].astype(np.float64) @ mean).mean())


def right_for_all(source: Simulated, prompts: I32, utilities: F32) -> float:
    """Return the share of the pool's comparisons that the responses' order predicts (see `TextOnly`)."""
    pool = source.pool.rows(np.isin(source.pool.prompt, prompts))
    row = np.searchsorted(prompts, pool.prompt)
    chosen, rejected = (
        utilities[row, source.view.to_responses(pool.prompt, side)] for side in (pool.chosen, pool.rejected)
    )
    return float(np.mean((chosen > rejected) + 0.5 * (chosen == rejected)))
