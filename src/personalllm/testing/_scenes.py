"""Small synthetic corpora, histories and planted users for the contract suite."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from personalllm.core.protocols import RewardSignals, TextEmbedder
from personalllm.core.seeding import generator
from personalllm.core.types import F32, Corpus, Histories, Queries
from personalllm.testing._standins import PlantedSignals, surface_signals

__all__ = [
    "PlantedScene",
    "Scene",
    "alone",
    "odd_scene",
    "permuted",
    "planted_scene",
    "ragged",
    "small_scene",
    "snapshot",
]

_WORDS = tuple(f"{first}{last}" for first in "bdfklmnrstvz" for last in ("ado", "emi", "oru", "ilen"))
_N_RESPONSES = 5
ODD_TEXTS = (
    "naïve café \u2603 \U0001f680\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "e\u0301 \u200b\ufeff\u202ereversed",
    "line one\n\n\tline two\r\n",
    " ",
    "<|im_end|> {{ user }} %s \\ \" ' </s>",
    "a very long text " * 3_000,
)


@dataclass(frozen=True, eq=False)
class Scene:
    """The input of a method: other users' histories, the target users' histories, and their queries."""

    pool: Histories
    targets: Histories
    queries: Queries

    @property
    def signals(self) -> RewardSignals:
        """Scores of the responses, for a method that declares that it uses them."""
        return surface_signals(self.queries.corpus)


@dataclass(frozen=True, eq=False)
class PlantedScene(Scene):
    """A scene whose target users have known tastes.

    Attributes:
        utilities: float32 (n_queries, n_responses), standardised within each query (mean 0, sd 1).
        tastes: float32 (n_prompts, n_responses, n_users), the utility of every response for each taste.
    """

    utilities: F32
    tastes: F32

    @property
    def signals(self) -> RewardSignals:
        """The tastes as reward models."""
        return PlantedSignals(self.tastes / self.tastes.std(axis=(0, 1)))


def _texts(key: str, n_prompts: int, n_words: tuple[int, int]) -> Corpus:
    """Return a corpus of random words; no two responses of a prompt are equal."""
    rng = generator("personalllm.testing", key)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(_WORDS, size=int(rng.integers(low, high))))

    prompts = [f"{text(3, 6)} number {i}" for i in range(n_prompts)]
    responses = [[f"{text(*n_words)} r{i * _N_RESPONSES + j}" for j in range(_N_RESPONSES)] for i in range(n_prompts)]
    return Corpus(prompts, responses)


def _random_histories(corpus: Corpus, counts: list[int], n_train: int, key: str) -> Histories:
    """Return histories of the given lengths on the first `n_train` prompts, with random feedback."""
    rng = generator("personalllm.testing", key)
    n = sum(counts)
    user = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    prompt = np.concatenate([rng.permutation(n_train)[:count] for count in counts]).astype(np.int32)
    chosen = rng.integers(0, _N_RESPONSES, n)
    rejected = (chosen + rng.integers(1, _N_RESPONSES, n)) % _N_RESPONSES
    sides = chosen.astype(np.uint8), rejected.astype(np.uint8)
    return Histories(corpus, len(counts), user, prompt, *sides, np.arange(n) % 2 == 0)


def _queries(corpus: Corpus, n_users: int, rows: npt.NDArray[np.int64]) -> Queries:
    """Return every user's query of every row, and one row asked twice by user 0."""
    user = np.append(np.repeat(np.arange(n_users), len(rows)), 0).astype(np.int32)
    prompt = np.append(np.tile(rows, n_users), rows[:1]).astype(np.int32)
    return Queries(corpus, n_users, user, prompt)


def small_scene() -> Scene:
    """Return 6 pool users and 4 target users, one of each without history, on 20 train and 4 test prompts."""
    corpus = _texts("small", 24, (3, 12))
    pool = _random_histories(corpus, [5, 3, 0, 7, 4, 6], 20, "small pool")
    targets = _random_histories(corpus, [4, 0, 1, 6], 20, "small targets")
    return Scene(pool, targets, _queries(corpus, 4, np.arange(20, 24)))


def odd_scene() -> Scene:
    """Return a scene of unicode, control characters, blank and very long texts."""
    n = len(ODD_TEXTS)
    responses = [[ODD_TEXTS[(i + j) % n] for j in range(_N_RESPONSES)] for i in range(n)]
    corpus = Corpus(list(ODD_TEXTS), responses)
    pool = _random_histories(corpus, [3, 2, 4], n, "odd pool")
    return Scene(pool, _random_histories(corpus, [3, 0], n, "odd targets"), _queries(corpus, 2, np.arange(n)))


def planted_scene(embedder: TextEmbedder, n_pairs: int = 40) -> PlantedScene:
    """Return users whose utility is linear in the response embedding, in pairs of opposite tastes.

    User 2i has a random direction d_i, user 2i + 1 has -d_i; the utility of response y is `d . e(y)`. Whoever ranks
    without regard to the user serves the two equally well and badly, so over all queries the utility of the choices of
    a non-personalised method is exactly 0 on average.

    Args:
        embedder: e, as it is handed to the method.
        n_pairs: Interactions of each user (best against worst of the responses of a train prompt).
    """
    n_train, n_test, n_tastes = 80, 20, 4
    corpus = _texts("planted", n_train + n_test, (4, 14))
    vectors = embedder.embed([text for row in corpus.responses for text in row])
    rng = generator("personalllm.testing", "tastes")
    directions = rng.standard_normal((n_tastes, embedder.dim))
    tastes = np.stack([directions, -directions], axis=1).reshape(2 * n_tastes, embedder.dim)
    utilities = (tastes @ vectors.astype(np.float64).T).reshape(len(tastes), corpus.n_prompts, _N_RESPONSES)

    def histories(owners: npt.NDArray[np.int64], key: str) -> Histories:
        order = generator("personalllm.testing", key)
        rows = np.stack([order.permutation(n_train)[:n_pairs] for _ in owners])
        shown = np.take_along_axis(utilities[owners], rows[:, :, None], axis=1)
        user = np.repeat(np.arange(len(owners)), n_pairs).astype(np.int32)
        best, worst = (pick(shown, axis=2).ravel().astype(np.uint8) for pick in (np.argmax, np.argmin))
        return Histories(
            corpus, len(owners), user, rows.ravel().astype(np.int32), best, worst, np.ones(len(user), np.bool_)
        )

    users = np.arange(len(tastes))
    queries = Queries(
        corpus,
        len(users),
        np.repeat(users, n_test).astype(np.int32),
        np.tile(np.arange(n_train, n_train + n_test), len(users)).astype(np.int32),
    )
    scores = utilities[queries.user, queries.prompt]
    scaled = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
    pool = histories(np.tile(users, 3), "planted pool")
    tastes_of = utilities.transpose(1, 2, 0).astype(np.float32)
    return PlantedScene(pool, histories(users, "planted targets"), queries, scaled.astype(np.float32), tastes_of)


def permuted(scene: Scene) -> tuple[Scene, npt.NDArray[np.int64]]:
    """Return the scene with the responses of every prompt in another order.

    Returns:
        The scene, and int64 (n_prompts, n_responses): new column j of prompt p is old column `order[p, j]`.
    """
    old = scene.queries.corpus
    rng = generator("personalllm.testing", "permutation")
    order = np.argsort(rng.random((old.n_prompts, old.n_responses)), axis=1)
    new = Corpus(
        list(old.prompts),
        [[row[j] for j in columns] for row, columns in zip(old.responses, order.tolist(), strict=True)],
    )
    inverse = np.argsort(order, axis=1).astype(np.uint8)

    def moved(h: Histories) -> Histories:
        return replace(h, corpus=new, chosen=inverse[h.prompt, h.chosen], rejected=inverse[h.prompt, h.rejected])

    return Scene(moved(scene.pool), moved(scene.targets), replace(scene.queries, corpus=new)), order


def ragged(scene: Scene) -> Scene:
    """Return the scene with 2 to 5 responses for a prompt, those that were compared among them."""
    old = scene.queries.corpus
    widths = 2 + np.arange(old.n_prompts) % (_N_RESPONSES - 1)
    for h in (scene.pool, scene.targets):
        np.maximum.at(widths, h.prompt, np.maximum(h.chosen, h.rejected).astype(np.int64) + 1)
    new = Corpus(old.prompts, [row[:width] for row, width in zip(old.responses, widths.tolist(), strict=True)])
    pool, targets = replace(scene.pool, corpus=new), replace(scene.targets, corpus=new)
    return Scene(pool, targets, replace(scene.queries, corpus=new))


def alone(queries: Queries, index: int) -> Queries:
    """Return one query as a batch of its own."""
    part = slice(index, index + 1)
    return replace(queries, user=queries.user[part], prompt=queries.prompt[part])


def snapshot(scene: Scene) -> tuple[object, ...]:
    """Return a copy of everything that a method was given, comparable with `==`."""
    corpus = scene.queries.corpus
    columns = [
        column.tobytes()
        for h in (scene.pool, scene.targets)
        for column in (h.user, h.prompt, h.chosen, h.rejected, h.best_worst)
    ]
    texts = (tuple(corpus.prompts), tuple(tuple(row) for row in corpus.responses))
    return (texts, *columns, scene.queries.user.tobytes(), scene.queries.prompt.tobytes())
