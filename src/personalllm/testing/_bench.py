"""Train the class under test on small scenes, and check its results for shape and range."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from personalllm.core.protocols import ChatModel, TextEmbedder
from personalllm.core.types import F32, Conversation, Histories
from personalllm.methods.base import Method
from personalllm.methods.saved import load_method
from personalllm.testing._scenes import PlantedScene, Scene, planted_scene, small_scene

__all__ = ["Bench", "bare_scenes"]

_SEED = 11


@dataclass(frozen=True)
class Bench:
    """A class under test with its parameters and backends."""

    cls: type[Method]
    params: dict[str, Any]
    embedder: TextEmbedder
    llm: ChatModel

    @cached_property
    def scene(self) -> Scene:
        """The small scene, the same object for every check."""
        return small_scene()

    @cached_property
    def _first(self) -> dict[str, Any]:
        return {}

    def first(self, hook: str) -> Any:
        """Return what a freshly trained method answers in the small scene."""
        if hook not in self._first:
            self._first[hook] = self.answers(hook, self.scene)
        return self._first[hook]

    @cached_property
    def planted(self) -> PlantedScene:
        """Users of opposite tastes."""
        return planted_scene(self.embedder)

    def backends(self, scene: Scene) -> dict[str, Any]:
        """Return what the method needs, by need."""
        given = {"embedder": self.embedder, "llm": self.llm, "signals": scene.signals}
        return {need: value for need, value in given.items() if need in self.cls.needs}

    def trained(self, scene: Scene) -> Method:
        """Return a fresh method after bind, fit and adapt."""
        method = self.cls(**self.params)
        given = self.backends(scene)
        for step, returned in (
            ("bind", method.bind(**given, seed=_SEED)),
            ("fit", method.fit(scene.pool)),
            ("adapt", method.adapt(scene.targets)),
        ):
            self.require(returned is method, f"{step} must return self, got {type(returned).__name__}")
        return method

    def answers(self, hook: str, scene: Scene) -> Any:
        """Return the utilities or the messages of a freshly trained method, checked for their form."""
        answer = getattr(self.trained(scene), hook)(scene.queries)
        check = self._check_utilities if hook == "utilities" else self._check_conversations
        check(answer, scene)
        return answer

    def _check_utilities(self, scores: F32, scene: Scene) -> None:
        shape = (len(scene.queries), scene.queries.corpus.n_responses)
        self.require(isinstance(scores, np.ndarray), f"utilities must return an array, got {type(scores).__name__}")
        self.require(
            scores.shape == shape, f"utilities must return (n_queries, n_responses) = {shape}, got {scores.shape}"
        )
        self.require(scores.dtype == np.float32, f"utilities must return numbers, got {scores.dtype}")
        self.require(bool(np.isfinite(scores).all()), "utilities must return finite numbers, got NaN or infinity")

    def _check_conversations(self, result: list[Conversation], scene: Scene) -> None:
        n = len(scene.queries)
        self.require(
            len(result) == n, f"messages must return one conversation for each of {n} queries, got {len(result)}"
        )
        for row, conversation in zip(scene.queries.prompt.tolist(), result, strict=True):
            self.require(
                isinstance(conversation, Conversation), f"messages must return Conversations, got {conversation!r}"
            )
            turns = conversation.messages
            self.require(type(turns) is tuple and len(turns), "a conversation holds a non-empty tuple of turns")
            self.require(turns[-1].role == "user", f"the last turn is the user's, got {turns[-1].role!r}")
            prompt = scene.queries.corpus.prompts[row]
            self.require(prompt in turns[-1].content, "the last turn must hold the prompt of the query, whole")
            counts = (conversation.n_examples, conversation.n_dropped)
            self.require(min(counts) >= 0, f"n_examples and n_dropped must be >= 0, got {counts}")

    def copied(self, method: Method, when: str) -> Method:
        """Return a copy of a method by way of pickle."""
        try:
            data = pickle.dumps(method)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise AssertionError(f"{self.cls.__name__}: it cannot be pickled {when}: {error}.") from error
        copy: Method = pickle.loads(data)  # noqa: S301
        return copy

    def reloaded(self, scene: Scene) -> Method:
        """Return a copy of a trained method by way of `save` and `load_method`."""
        with tempfile.TemporaryDirectory() as folder:
            self.trained(scene).save(f"{folder}/method")
            return load_method(f"{folder}/method", **self.backends(scene), cls=self.cls)

    def require(self, condition: object, message: str) -> None:
        """Raise `AssertionError` with the name of the class unless the condition holds."""
        if not condition:
            raise AssertionError(f"{self.cls.__name__}: {message}.")


def bare_scenes(scene: Scene) -> list[Scene]:
    """Return the scene without the targets' histories, without the pool, and without both, and without queries."""
    corpus, queries = scene.queries.corpus, scene.queries
    no_pool = Histories.empty(corpus, 0)
    no_history = Histories.empty(corpus, scene.targets.n_users)
    no_queries = replace(queries, user=queries.user[:0], prompt=queries.prompt[:0])
    return [
        Scene(scene.pool, no_history, queries),
        Scene(no_pool, scene.targets, queries),
        Scene(Histories.empty(corpus, 3), no_history, queries),
        Scene(scene.pool, scene.targets, no_queries),
    ]
