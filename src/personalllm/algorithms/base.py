"""The contract of an algorithm.

An algorithm is a dataclass whose fields are its parameters. What it learns goes into attributes that end in an
underscore, never into a field, so `spec()` always describes an unfitted algorithm and `fresh()` returns one.
It sees texts, interactions and the injected backends; weights and scores are out of its reach (docs/architecture.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from personalllm.errors import ParameterError, UserError
from personalllm.protocols import ChatModel, TextEmbedder
from personalllm.types import F32, JSON, Conversation, Histories, Queries

__all__ = ["Algorithm", "HistoryRule", "Need", "Track"]

Need = Literal["embedder", "llm"]
Track = Literal["rank", "generate"]
HistoryRule = Literal["random", "nearest"]

_NEEDS = {
    "embedder": "personalllm.backends.embedding.default_embedder()",
    "llm": "personalllm.backends.llm.LocalChatModel()",
}
_HISTORIES = ("random", "nearest")


@dataclass
class Algorithm:
    """Base class: subclass it as a dataclass, set `id`, and implement `rank` or `messages` (or both).

    The evaluation calls, on a fresh copy: `bind` (backends, seed), `fit` (the pool: other users' histories), `adapt`
    (the target users' histories), then `rank` or `messages` with the target users' queries.

    Class attributes:
        id: Registered name, the same as the file's name with hyphens.
        title: A few words for tables.
        paper: Where it was published; empty for a baseline without a paper.
        needs: Backends it cannot work without.
        history: Which history it is evaluated with: `"random"` train prompts, or the train prompts `"nearest"` to
            the query.
    """

    id: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    needs: ClassVar[frozenset[Need]] = frozenset()
    history: ClassVar[HistoryRule] = "random"

    def bind(self, *, embedder: TextEmbedder | None = None, llm: ChatModel | None = None, seed: int = 0) -> Self:
        """Hand over the backends and the seed of this run.

        Raises:
            UserError: If a backend that the algorithm needs is missing.
        """
        for name, given_as, allowed in (("needs", self.needs, _NEEDS), ("history", {self.history}, _HISTORIES)):
            if not set(given_as) <= set(allowed):
                raise ParameterError(f"{name} of {self.id!r}", f"of {', '.join(allowed)}", sorted(given_as))
        for need, given in (("embedder", embedder), ("llm", llm)):
            if need in self.needs and given is None:
                raise UserError(
                    f"The algorithm {self.id!r} needs an {need}.",
                    f"Pass {need}={_NEEDS[need]} to evaluate(), or use the command line, which does it for you.",
                )
        self._embedder, self._llm, self._seed = embedder, llm, seed
        return self

    @property
    def embedder(self) -> TextEmbedder:
        """The injected embedder."""
        embedder = getattr(self, "_embedder", None)
        if embedder is None:
            raise UserError(f"The algorithm {self.id!r} has no embedder.", "Add 'embedder' to its `needs`.")
        return embedder  # type: ignore[no-any-return]

    @property
    def llm(self) -> ChatModel:
        """The injected chat model."""
        llm = getattr(self, "_llm", None)
        if llm is None:
            raise UserError(f"The algorithm {self.id!r} has no chat model.", "Add 'llm' to its `needs`.")
        return llm  # type: ignore[no-any-return]

    @property
    def seed(self) -> int:
        """The seed of this run; derive generators from it with `personalllm.seeding.generator`."""
        return getattr(self, "_seed", 0)

    def fit(self, pool: Histories) -> Self:
        """Learn from the histories of other users; the default learns nothing."""
        return self

    def adapt(self, histories: Histories) -> Self:
        """Learn about the target users from their own histories; the default learns nothing."""
        return self

    def rank(self, queries: Queries) -> F32:
        """Return a preference for each candidate, float32 (n_queries, n_responses); higher is better.

        Ties are broken by the lower column. The candidates of query i are
        `queries.corpus.responses[queries.prompt[i]]`; a permutation of them must permute the result.
        """
        raise NotImplementedError(f"{self.id!r} does not rank.")

    def messages(self, queries: Queries) -> list[Conversation]:
        """Return what to ask the chat model for each query, length n_queries."""
        raise NotImplementedError(f"{self.id!r} does not generate.")

    @classmethod
    def tracks(cls) -> tuple[Track, ...]:
        """Tell which tracks the algorithm can take part in: the methods that it overrides."""
        names: dict[Track, bool] = {
            "rank": cls.rank is not Algorithm.rank,
            "generate": cls.messages is not Algorithm.messages,
        }
        return tuple(track for track, has in names.items() if has)

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Parameters with which the contract suite builds the algorithm."""
        return {}

    def params(self) -> dict[str, Any]:
        """Return the parameters (the dataclass fields)."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def spec(self) -> JSON:
        """Return `{"id": ..., "params": ...}`, replayable JSON."""
        return {"id": self.id, "params": self.params()}

    def fresh(self) -> Self:
        """Return an unfitted, unbound copy with the same parameters."""
        return type(self)(**self.params())

    def check_positive(self, *names: str) -> None:
        """Raise `ParameterError` unless the named integer parameters are >= 1 (for `__post_init__`)."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ParameterError(name, "an integer >= 1", value)

    def check_one_of(self, name: str, allowed: Sequence[str]) -> None:
        """Raise `ParameterError` unless the named parameter is one of the allowed texts (for `__post_init__`)."""
        value = getattr(self, name)
        if not (isinstance(value, str) and value in allowed):
            raise ParameterError(name, f"one of {', '.join(allowed)}", value)
