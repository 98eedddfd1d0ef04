"""The contract of an algorithm, as checks."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np

from personalllm.algorithms.base import Algorithm
from personalllm.protocols import ChatModel, TextEmbedder
from personalllm.testing._scenes import (
    PlantedScene,
    Scene,
    alone,
    odd_scene,
    permuted,
    planted_scene,
    small_scene,
    snapshot,
)
from personalllm.testing._standins import EchoChatModel, HashEmbedder
from personalllm.types import F32, Conversation, Histories

__all__ = ["check_algorithm"]

_SEED = 11


@dataclass(frozen=True)
class _Bench:
    """A class under test with its parameters and backends."""

    cls: type[Algorithm]
    params: dict[str, Any]
    embedder: TextEmbedder
    llm: ChatModel

    def trained(self, scene: Scene, seed: int = _SEED) -> Algorithm:
        """Return a fresh algorithm after bind, fit and adapt."""
        algorithm = self.cls(**self.params)
        backends = {"embedder": self.embedder, "llm": self.llm}
        given: dict[str, Any] = {need: backends[need] for need in self.cls.needs}
        for step, returned in (
            ("bind", algorithm.bind(**given, seed=seed)),
            ("fit", algorithm.fit(scene.pool)),
            ("adapt", algorithm.adapt(scene.targets)),
        ):
            self.require(returned is algorithm, f"{step} must return self, got {type(returned).__name__}")
        return algorithm

    def ranked(self, scene: Scene, seed: int = _SEED) -> F32:
        """Return the ranks of a scene."""
        return self.checked(self.trained(scene, seed).rank(scene.queries), scene)

    def asked(self, scene: Scene) -> list[Conversation]:
        """Return the conversations of a scene."""
        return self.trained(scene).messages(scene.queries)

    def checked(self, scores: F32, scene: Scene) -> F32:
        """Check shape, dtype and range of a ranking."""
        shape = (len(scene.queries), scene.queries.corpus.n_responses)
        self.require(isinstance(scores, np.ndarray), f"rank must return an array, got {type(scores).__name__}")
        self.require(scores.shape == shape, f"rank must return (n_queries, n_responses) = {shape}, got {scores.shape}")
        self.require(scores.dtype == np.float32, f"rank must return float32, got {scores.dtype}")
        self.require(bool(np.isfinite(scores).all()), "rank must return finite numbers, got NaN or infinity")
        return scores

    def copied(self, algorithm: Algorithm) -> Algorithm:
        """Return a copy of a trained algorithm by way of pickle."""
        try:
            data = pickle.dumps(algorithm)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise AssertionError(f"{self.cls.__name__}: it cannot be pickled after fit and adapt: {error}.") from error
        copy: Algorithm = pickle.loads(data)  # noqa: S301
        return copy

    def require(self, condition: object, message: str) -> None:
        """Raise `AssertionError` with the name of the class unless the condition holds."""
        if not condition:
            raise AssertionError(f"{self.cls.__name__}: {message}.")


def check_algorithm(
    cls: type[Algorithm],
    params: dict[str, Any] | None = None,
    *,
    embedder: TextEmbedder | None = None,
    llm: ChatModel | None = None,
) -> None:
    """Raise `AssertionError` unless a class keeps the contract of `personalllm.algorithms.Algorithm`.

    Checked: declarations; spec and pickle round trips; equal results of equal seeds; results that do not depend on the
    other queries, on the order of the responses or on an earlier fit; users and pools without history; unicode, blank
    and very long texts; inputs left as they were. A class that overrides `adapt` claims to personalise: its ranking
    must serve planted users with opposite tastes better than any non-personalised one could, its messages must differ
    between users.

    Args:
        cls: The class, a dataclass.
        params: Parameters to build it with; by default its `example_params()`.
        embedder: By default `HashEmbedder()`.
        llm: By default `EchoChatModel()`.

    >>> from personalllm.algorithms import load_algorithm
    >>> check_algorithm(load_algorithm("longest"))
    """
    bench = _Bench(
        cls, cls.example_params() if params is None else params, embedder or HashEmbedder(), llm or EchoChatModel()
    )
    _check_declarations(bench)
    _check_round_trips(bench)
    tracks = cls.tracks()
    if "rank" in tracks:
        _check_rank(bench)
    if "generate" in tracks:
        _check_messages(bench)
    if cls.adapt is not Algorithm.adapt:
        planted = planted_scene(bench.embedder)
        if "rank" in tracks:
            _check_serves_planted_users(bench, planted)
        if "generate" in tracks:
            _check_tells_users_apart(bench, planted)


def _check_declarations(bench: _Bench) -> None:
    cls = bench.cls
    bench.require("__dataclass_fields__" in vars(cls), "decorate the class itself with @dataclass")
    for name in ("id", "title"):
        value = getattr(cls, name)
        bench.require(isinstance(value, str) and value.strip(), f"set the class attribute {name!r} to a non-empty text")
    bench.require(
        cls.id == cls.id.lower() and " " not in cls.id, f"id must be lower case without spaces, got {cls.id!r}"
    )
    unknown = set(cls.needs) - {"embedder", "llm"}
    bench.require(not unknown, f"needs may hold 'embedder' and 'llm', got {sorted(unknown)}")
    bench.require(cls.history in ("random", "nearest"), f"history must be 'random' or 'nearest', got {cls.history!r}")
    bench.require(cls.tracks(), "implement rank or messages")


def _check_round_trips(bench: _Bench) -> None:
    algorithm = bench.cls(**bench.params)
    spec = algorithm.spec()
    try:
        replayed = json.loads(json.dumps(spec, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{bench.cls.__name__}: spec() must be JSON: {error}.") from error
    bench.require(
        bench.cls(**replayed["params"]) == algorithm,
        f"rebuilding it from the JSON of its spec must give an equal algorithm; the spec is {spec}",
    )
    bench.require(pickle.loads(pickle.dumps(algorithm)) == algorithm, "an unpickled copy must be equal")  # noqa: S301
    used = bench.trained(small_scene())
    bench.require(used.spec() == spec, "fit and adapt must not change a parameter; keep what is learnt in attributes")
    learnt = set(vars(used)) - set(algorithm.params())
    wrong = sorted(name for name in learnt if not (name.startswith("_") or name.endswith("_")))
    bench.require(not wrong, f"attributes that are learnt end in an underscore, got {wrong}")


def _close(scores: F32, expected: F32) -> bool:
    """Tell whether scores agree but for the rounding of float32 sums."""
    scale = float(np.abs(expected).max(initial=0.0))
    return bool(np.allclose(scores, expected, rtol=1e-4, atol=1e-5 * scale))


def _check_rank(bench: _Bench) -> None:
    scene = small_scene()
    before = snapshot(scene)
    scores = bench.ranked(scene)
    bench.require(snapshot(scene) == before, "fit, adapt and rank must leave their inputs as they were")
    bench.require(np.array_equal(bench.ranked(scene), scores), "equal seeds must give equal ranks")
    trained = bench.trained(scene)
    copy = bench.copied(trained)
    bench.require(
        np.array_equal(copy.rank(scene.queries), scores), "a pickled copy must rank alike after fit and adapt"
    )
    trained.rank(scene.queries)
    for i in range(len(scene.queries)):
        single = trained.rank(alone(scene.queries, i))[0]
        bench.require(
            _close(single, scores[i]),
            f"a query's scores must not depend on the other queries: {single} alone, {scores[i]} in the batch",
        )
    again = trained.fit(scene.pool).adapt(scene.targets).rank(scene.queries)
    bench.require(np.array_equal(again, scores), "a second fit must replace the first, not add to it")
    moved, order = permuted(scene)
    expected = np.take_along_axis(scores, order[scene.queries.prompt], axis=1)
    bench.require(
        _close(bench.ranked(moved), expected),
        "permuting the responses of the prompts must permute the scores and change nothing else",
    )
    for bare in _bare(scene):
        bench.ranked(bare)
    bench.ranked(odd_scene())


def _check_messages(bench: _Bench) -> None:
    scene = small_scene()
    before = snapshot(scene)
    asked = bench.asked(scene)
    bench.require(snapshot(scene) == before, "fit, adapt and messages must leave their inputs as they were")
    _check_conversations(bench, asked, scene)
    bench.require(bench.asked(scene) == asked, "equal seeds must give equal messages")
    trained = bench.trained(scene)
    copy = bench.copied(trained)
    bench.require(copy.messages(scene.queries) == asked, "a pickled copy must ask alike after fit and adapt")
    for i in range(len(scene.queries)):
        single = trained.messages(alone(scene.queries, i))
        bench.require(single == [asked[i]], f"the messages of query {i} must not depend on the other queries")
    again = trained.fit(scene.pool).adapt(scene.targets).messages(scene.queries)
    bench.require(again == asked, "a second fit must replace the first, not add to it")
    moved, _ = permuted(scene)
    bench.require(bench.asked(moved) == asked, "the order of the responses in the corpus must not change the messages")
    for bare in (*_bare(scene), odd_scene()):
        _check_conversations(bench, bench.asked(bare), bare)


def _check_conversations(bench: _Bench, asked: list[Conversation], scene: Scene) -> None:
    n = len(scene.queries)
    bench.require(len(asked) == n, f"messages must return one conversation for each of {n} queries, got {len(asked)}")
    for row, conversation in zip(scene.queries.prompt.tolist(), asked, strict=True):
        bench.require(
            isinstance(conversation, Conversation), f"messages must return Conversations, got {conversation!r}"
        )
        turns = conversation.messages
        bench.require(type(turns) is tuple and len(turns), "a conversation holds a non-empty tuple of turns")
        bench.require(turns[-1].role == "user", f"the last turn is the user's, got {turns[-1].role!r}")
        prompt = scene.queries.corpus.prompts[row]
        bench.require(prompt in turns[-1].content, "the last turn must hold the prompt of the query, whole")
        counts = (conversation.n_examples, conversation.n_dropped)
        bench.require(min(counts) >= 0, f"n_examples and n_dropped must be >= 0, got {counts}")


def _bare(scene: Scene) -> list[Scene]:
    """Return the scene without the targets' histories, without the pool, and without both, and without queries."""
    corpus, queries = scene.queries.corpus, scene.queries
    no_pool = Histories.empty(corpus, 0)
    no_history = Histories.empty(corpus, scene.targets.n_users)
    no_queries = type(queries)(corpus, queries.n_users, queries.user[:0], queries.prompt[:0])
    return [
        Scene(scene.pool, no_history, queries),
        Scene(no_pool, scene.targets, queries),
        Scene(Histories.empty(corpus, 3), no_history, queries),
        Scene(scene.pool, scene.targets, no_queries),
    ]


def _check_serves_planted_users(bench: _Bench, scene: PlantedScene) -> None:
    """Require a mean utility of the choices that is above 0 by 2.6 standard errors over queries (p < .005)."""
    chosen = np.argmax(bench.ranked(scene), axis=1)
    gained = scene.utilities[np.arange(len(chosen)), chosen].astype(np.float64)
    mean, error = float(gained.mean()), float(gained.std(ddof=1) / np.sqrt(len(gained)))
    bench.require(
        mean > 2.6 * error,
        "it overrides adapt but does not serve users with opposite tastes: the mean utility of its choices is "
        f"{mean:.3f} (standard error {error:.3f}), a random choice has 0",
    )


def _check_tells_users_apart(bench: _Bench, scene: PlantedScene) -> None:
    asked = bench.asked(scene)
    by_prompt: dict[int, set[tuple[Any, ...]]] = {}
    for row, conversation in zip(scene.queries.prompt.tolist(), asked, strict=True):
        by_prompt.setdefault(row, set()).add(conversation.messages)
    bench.require(
        any(len(different) > 1 for different in by_prompt.values()),
        "it overrides adapt but asks the same for users with opposite tastes",
    )
