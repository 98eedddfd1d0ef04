"""Planted truths: populations whose utility is known in the embedding, with the best that anyone could reach.

Texts are generated, and `PlantedEmbedder` returns exactly the vectors of which the utilities were made. Comparisons are
drawn with probability `sigmoid(u_a - u_b)`; the best achievable prediction after k comparisons is the Bayes posterior's
under the true population, computed by enumeration or by elliptical slice sampling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
from population_posterior import Prior, predictive, sample_posterior

from personalllm.core.seeding import generator
from personalllm.core.types import F32, F64, I64, Corpus, Histories, Queries
from personalllm.testing._standins import HashEmbedder, PlantedSignals

__all__ = ["FAMILIES", "Family", "PlantedEmbedder", "PlantedWorld", "Score", "planted_world"]


Family = Literal["linear", "low-rank", "clustered", "non-linear", "opposed"]
FAMILIES: tuple[Family, ...] = get_args(Family)

_KEY = "personalllm.testing.planted"
_N_RESPONSES = 4
_DIM = 8
_N_TRAIN, _N_TEST = 300, 40
_N_POOL, _POOL_PAIRS = 240, 40
_N_TARGETS, _MAX_SHOTS = 80, 64
_ROW = re.compile(r"r(\d+)\Z")
_WORDS = ("amber", "brisk", "calm", "dense", "eager", "faint", "grand", "harsh", "idle", "jolly")


@dataclass(frozen=True, eq=False)
class PlantedEmbedder:
    """Returns the vector that a generated response was made with; any other text gets a vector by its words.

    For contract tests only.

    Attributes:
        vectors: float32 (n_texts, dim), unit rows; text i ends in `r{i}`.
    """

    vectors: F32
    name: ClassVar[str] = "planted"

    @property
    def identity(self) -> str:
        """Fixed."""
        return self.name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    def embed(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, dim), unit rows."""
        found = [_ROW.search(text) for text in texts]
        result = np.zeros((len(texts), self.dim), dtype=np.float32)
        known = [i for i, match in enumerate(found) if match]
        result[known] = self.vectors[[int(match[1]) for match in found if match]]
        others = [i for i, match in enumerate(found) if not match]
        if others:
            result[others] = HashEmbedder(self.dim).embed([texts[i] for i in others])
        return result


@dataclass(frozen=True, slots=True)
class Score:
    """How well a prediction does over all pairs of all queries.

    Attributes:
        accuracy: Share of pairs whose better response (by utility, without noise) is predicted; ties count half.
        log_loss: Expected log-loss of noisy labels, in nats.
    """

    accuracy: float
    log_loss: float


def _pair_columns() -> tuple[I64, I64]:
    first, second = np.triu_indices(_N_RESPONSES, 1)
    return first.astype(np.int64), second.astype(np.int64)


@dataclass(frozen=True, eq=False)
class PlantedWorld:
    """A benchmark whose users are known: what a method is handed, and what it could know.

    Attributes:
        family: How utility depends on the embedding.
        seed: Which world of the family.
        prior: The population.
        embedder: Returns the exact vectors.
        features: float64 (n_prompts, n_responses, n_features): utility of a response = features . weights of the user.
        corpus: The texts; the last prompts are the test prompts.
        pool: Noisy comparisons of other users.
        targets: Noisy comparisons of the target users, as many as the largest k.
        queries: Every test prompt for every target user.
        weights: float64 (n_targets, n_features), the target users.
    """

    family: Family
    seed: int
    prior: Prior
    embedder: PlantedEmbedder
    features: F64
    corpus: Corpus
    pool: Histories
    targets: Histories
    queries: Queries
    weights: F64

    @cached_property
    def utilities(self) -> F64:
        """float64 (n_queries, n_responses): differences are the log-odds of a label."""
        return np.asarray(np.einsum("nrf,nf->nr", self.features[self.queries.prompt], self.weights[self.queries.user]))

    @cached_property
    def signals(self) -> PlantedSignals:
        """The family's basis functions as reward models."""
        scores = self.features @ self.prior.basis.T
        flat = scores.reshape(-1, scores.shape[-1])
        return PlantedSignals(((scores - flat.mean(axis=0)) / flat.std(axis=0)).astype(np.float32))

    def shots(self, k: int) -> Histories:
        """Return the first k comparisons of each target user."""
        h = self.targets
        kept = np.arange(len(h)) - h.offsets[h.user] < k
        return Histories(h.corpus, h.n_users, h.user[kept], h.prompt[kept], h.chosen[kept], h.rejected[kept])

    def score(self, ranked: npt.NDArray[np.floating]) -> Score:
        """Judge scores of the candidates, (n_queries, n_responses), whose differences are log-odds."""
        a, b = _pair_columns()
        scores = ranked.astype(np.float64)
        return self._judge(scores[:, a] - scores[:, b])

    def _judge(self, logits: F64) -> Score:
        a, b = _pair_columns()
        truth = self.utilities[:, a] - self.utilities[:, b]
        correct = np.where(logits == 0, 0.5, (logits > 0) == (truth > 0))
        p = 1.0 / (1.0 + np.exp(-truth))
        loss = p * np.logaddexp(0.0, -logits) + (1.0 - p) * np.logaddexp(0.0, logits)
        return Score(float(correct.mean()), float(loss.mean()))

    def achievable(self, k: int) -> Score:
        """Return what the Bayes posterior under the true population reaches after k comparisons.

        The accuracy is that of predicting the response which is more likely to be the better one, the log-loss that of
        the posterior mean of the label's probability.
        """
        better, label = self._posterior_predictive(k)
        return Score(self._judge(better - 0.5).accuracy, self._judge(np.log(label / (1.0 - label))).log_loss)

    def _posterior_predictive(self, k: int) -> tuple[F64, F64]:
        """Return P(u_a > u_b | k comparisons) and P(label a | k comparisons), (n_queries, n_pairs)."""
        h = self.shots(k)
        shape = (h.n_users, k, self.features.shape[2])
        differences = (self.features[h.prompt, h.chosen] - self.features[h.prompt, h.rejected]).reshape(shape)
        rng = _rng(self.family, self.seed, "posterior", k)
        drawn, shares = sample_posterior(self.prior, differences, rng)
        a, b = _pair_columns()
        rows = self.features[_N_TRAIN:]
        pairs = (rows[:, a] - rows[:, b]).reshape(-1, rows.shape[2])
        better, label = predictive(drawn, shares, pairs)
        return better.reshape(-1, len(a)), label.reshape(-1, len(a))

    def overconfidence(self, ranked: npt.NDArray[np.floating]) -> float:
        """Return by how much predictions for unknown users are surer than the population is agreed.

        Of the fifth of the predictions with the largest log-odds: the mean probability that they give to the predicted
        side, minus the mean share of the population whose label would be that side. At most about 0 for honest ones,
        and 0 for whoever predicts nothing.

        Args:
            ranked: (n_queries, n_responses), predicted without any comparison of the target users.
        """
        a, b = _pair_columns()
        scores = ranked.astype(np.float64)
        logits = (scores[:, a] - scores[:, b]).ravel()
        _, share = self._posterior_predictive(0)
        agreed = np.select([logits > 0, logits < 0], [share.ravel(), 1.0 - share.ravel()], 0.5)
        confidence = 1.0 / (1.0 + np.exp(-np.abs(logits)))
        surest = np.argsort(-confidence, kind="stable")[: max(1, len(logits) // 5)]
        return float(confidence[surest].mean() - agreed[surest].mean())


def _rng(family: Family, seed: int, *part: str | int) -> np.random.Generator:
    return generator(_KEY, family, *(() if seed == 0 else (seed,)), *part)


def _vectors(family: Family, seed: int, n_prompts: int) -> F64:
    """Return unit vectors, (n_prompts, n_responses, dim), whose mean over the responses of a prompt is zero."""
    rng = _rng(family, seed, "vectors")
    dim = _N_RESPONSES if family == "non-linear" else _DIM
    frames, _ = np.linalg.qr(rng.standard_normal((n_prompts, dim, _N_RESPONSES)))
    corners = np.eye(_N_RESPONSES) - 1.0 / _N_RESPONSES
    return np.asarray((frames @ corners).transpose(0, 2, 1) * np.sqrt(_N_RESPONSES / (_N_RESPONSES - 1)))


def _features(family: Family, seed: int, vectors: F64) -> F64:
    """Return what utility is linear in: the vectors, or squares of projections of them."""
    if family != "non-linear":
        return vectors
    axes = _rng(family, seed, "axes").standard_normal((vectors.shape[2], 3))
    axes /= np.linalg.norm(axes, axis=0)
    squares = (vectors @ axes) ** 2
    return np.asarray((squares - squares.mean(axis=(0, 1))) / squares.std(axis=(0, 1)))


def _prior(family: Family, seed: int) -> Prior:
    """Return the population of a family."""
    rng = _rng(family, seed, "population")
    if family == "linear":
        turn, _ = np.linalg.qr(rng.standard_normal((_DIM, _DIM)))
        mean = rng.standard_normal(_DIM)
        return Prior("gaussian", (turn * np.geomspace(3.0, 0.6, _DIM)).T, mean=2.5 * mean / np.linalg.norm(mean))
    if family == "non-linear":
        return Prior("gaussian", np.diag([0.0, 1.6, 1.6])[1:], mean=np.array([1.0, 0.0, 0.0]))
    directions = rng.standard_normal(({"low-rank": 3, "clustered": 4, "opposed": 3}[family], _DIM))
    directions *= 5.0 / np.linalg.norm(directions, axis=1, keepdims=True)
    if family == "low-rank":
        return Prior("simplex", 1.4 * directions)
    if family == "clustered":
        return Prior("clusters", directions, shares=np.array([0.4, 0.3, 0.2, 0.1]))
    both = np.concatenate([directions, -directions])
    return Prior("clusters", both, shares=np.full(len(both), 1.0 / len(both)))


def _texts(n_prompts: int) -> Corpus:
    rng = generator(_KEY, "texts")

    def text() -> str:
        return " ".join(rng.choice(_WORDS, size=int(rng.integers(2, 9))))

    rows = range(0, n_prompts * _N_RESPONSES, _N_RESPONSES)
    return Corpus(
        [f"{text()} number {i}" for i in range(n_prompts)],
        [[f"{text()} r{row + j}" for j in range(_N_RESPONSES)] for row in rows],
    )


def _compare(corpus: Corpus, features: F64, weights: F64, n_pairs: int, rng: np.random.Generator) -> Histories:
    """Return noisy comparisons of random pairs of responses of random train prompts."""
    n_users = len(weights)
    user = np.repeat(np.arange(n_users), n_pairs)
    prompt = np.concatenate([rng.permutation(_N_TRAIN)[:n_pairs] for _ in range(n_users)])
    first = rng.integers(0, _N_RESPONSES, len(user))
    second = (first + rng.integers(1, _N_RESPONSES, len(user))) % _N_RESPONSES
    logits = np.einsum("nf,nf->n", features[prompt, first] - features[prompt, second], weights[user])
    kept = rng.random(len(user)) < 1.0 / (1.0 + np.exp(-logits))
    chosen, rejected = np.where(kept, first, second), np.where(kept, second, first)
    return Histories(
        corpus,
        n_users,
        user.astype(np.int32),
        prompt.astype(np.int32),
        chosen.astype(np.uint8),
        rejected.astype(np.uint8),
    )


@lru_cache(maxsize=4 * len(FAMILIES))
def planted_world(family: Family, seed: int = 0) -> PlantedWorld:
    """Return a world of a family; the same one for the same seed.

    The seed draws everything anew: vectors, population, users and labels. The methods' defaults were chosen while
    world 0 of each family was looked at, so others judge them.

    - `linear`: weights from a Gaussian with a mean, unequal variances in turned axes.
    - `low-rank`: weights are a mixture (on the simplex) of three directions.
    - `clustered`: each user is one of four directions, of unequal shares.
    - `non-linear`: utility is a sum of squares of projections of the embedding, no linear function predicts it.
    - `opposed`: each user is one of three directions or their opposites; without history nothing can be known.

    >>> world = planted_world("clustered")
    >>> world.achievable(16).accuracy > world.achievable(0).accuracy
    True
    """
    n_prompts = _N_TRAIN + _N_TEST
    vectors = _vectors(family, seed, n_prompts)
    features, prior, corpus = _features(family, seed, vectors), _prior(family, seed), _texts(n_prompts)
    rng = _rng(family, seed, "users")
    others, weights = prior.draw(_N_POOL, rng), prior.draw(_N_TARGETS, rng)
    pool = _compare(corpus, features, others, _POOL_PAIRS, rng)
    targets = _compare(corpus, features, weights, _MAX_SHOTS, rng)
    queries = Queries(
        corpus,
        _N_TARGETS,
        np.repeat(np.arange(_N_TARGETS), _N_TEST).astype(np.int32),
        np.tile(np.arange(_N_TRAIN, n_prompts), _N_TARGETS).astype(np.int32),
    )
    embedder = PlantedEmbedder(vectors.reshape(-1, vectors.shape[2]).astype(np.float32))
    return PlantedWorld(family, seed, prior, embedder, features, corpus, pool, targets, queries, weights)
