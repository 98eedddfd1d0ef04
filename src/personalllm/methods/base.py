"""The contract of a method.

A method is a dataclass whose fields are its parameters. What it learns goes into attributes that end in an
underscore, never into a field, so `spec()` always describes an unfitted method and `clone()` returns one.
It sees texts, interactions and the injected backends; weights and scores are out of its reach (docs/architecture.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.protocols import ChatModel, RewardSignals, TextEmbedder
from personalllm.core.types import F32, JSON, Conversation, Histories, Queries

__all__ = ["HistoryRule", "Method", "Need", "Track"]

Need = Literal["embedder", "llm", "signals"]
Track = Literal["rank", "generate", "predict"]
HistoryRule = Literal["random", "nearest"]

_NEEDS = {
    "embedder": "personalllm.backends.embedding.default_embedder()",
    "llm": "personalllm.backends.llm.LocalChatModel()",
    "signals": "",
}
_HISTORIES = ("random", "nearest")


class _NotLearnt(UserError, AttributeError):
    """Something learnt was asked for before it was learnt; an `AttributeError`, so that `hasattr` answers."""


@dataclass
class Method:
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
        log_odds: Whether differences of `rank` are log-odds, so that P(a is preferred to b) = sigmoid(rank of a - rank
            of b); without it the predict track leaves log-loss and calibration blank.
        extra: Optional extra of this package that it needs, e.g. `"torch"`; `all` leaves it out where that is absent.
    """

    id: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    needs: ClassVar[frozenset[Need]] = frozenset()
    history: ClassVar[HistoryRule] = "random"
    log_odds: ClassVar[bool] = False
    extra: ClassVar[str] = ""

    def bind(
        self,
        *,
        embedder: TextEmbedder | None = None,
        llm: ChatModel | None = None,
        signals: RewardSignals | None = None,
        seed: int = 0,
    ) -> Self:
        """Hand over the backends and the seed of this run; the scores of the RMs only if the protocol allows them.

        Raises:
            UserError: If a backend that the method needs is missing.
        """
        for name, given_as, allowed in (("needs", self.needs, _NEEDS), ("history", {self.history}, _HISTORIES)):
            if not set(given_as) <= set(allowed):
                raise ParameterError(f"{name} of {self.id!r}", f"of {', '.join(allowed)}", sorted(given_as))
        for need, given in (("embedder", embedder), ("llm", llm)):
            if need in self.needs and given is None:
                raise UserError(
                    f"The method {self.id!r} needs an {need}.",
                    f"Pass {need}={_NEEDS[need]} to evaluate(), or use the command line, which does it for you.",
                )
        if "signals" in self.needs and signals is None:
            raise UserError(
                f"The method {self.id!r} uses the scores of the reward models, which this protocol does not allow.",
                "Use the predict track with --set prediction.reward_signals=true (in Python: "
                "prediction={'reward_signals': True}), and say so with its numbers.",
            )
        self._embedder, self._llm, self._signals, self._seed = embedder, llm, signals, seed
        return self

    def _bound(self, need: Need, words: str) -> Any:
        backend = getattr(self, f"_{need}", None)
        if backend is None:
            remedy = f"Call bind({need}=...) first." if need in self.needs else f"Add {need!r} to its `needs`."
            raise UserError(f"The method {self.id!r} has no {words}.", remedy)
        return backend

    @property
    def embedder(self) -> TextEmbedder:
        """The injected embedder."""
        return self._bound("embedder", "embedder")  # type: ignore[no-any-return]

    @property
    def llm(self) -> ChatModel:
        """The injected chat model."""
        return self._bound("llm", "chat model")  # type: ignore[no-any-return]

    @property
    def signals(self) -> RewardSignals:
        """The injected scores of the RMs."""
        return self._bound("signals", "reward signals")  # type: ignore[no-any-return]

    @property
    def seed(self) -> int:
        """The seed of this run; derive generators from it with `personalllm.core.seeding.generator`."""
        return getattr(self, "_seed", 0)

    def fit(self, pool: Histories) -> Self:
        """Learn from the histories of other users; the default learns nothing."""
        return self

    def adapt(self, histories: Histories) -> Self:
        """Learn about the target users from their own histories; the default learns nothing."""
        return self

    def utilities(self, queries: Queries) -> F32:
        """Return a preference for each candidate, float32 (n_queries, n_responses); higher is better.

        Ties are broken by the lower column in the rank track and counted half in the predict track. The candidates of
        query i are `queries.corpus.responses[queries.prompt[i]]`; a permutation of them must permute the result.
        """
        raise NotImplementedError(f"{self.id!r} does not rank.")

    def messages(self, queries: Queries) -> list[Conversation]:
        """Return what to ask the chat model for each query, length n_queries."""
        raise NotImplementedError(f"{self.id!r} does not generate.")

    @classmethod
    def implements(cls, *hooks: str) -> bool:
        """Tell whether the class overrides any of these methods of `Method`, e.g. `utilities` or `messages`.

        >>> Method.implements("utilities")
        False
        """
        return any(getattr(cls, hook, None) is not getattr(Method, hook, None) for hook in hooks)

    @classmethod
    def tracks(cls) -> tuple[Track, ...]:
        """Tell which tracks the method can take part in: the methods that it overrides.

        Whoever ranks can predict; what needs the scores of the RMs takes part in the predict track alone.
        """
        ranks = cls.utilities is not Method.utilities
        names: dict[Track, bool] = {
            "rank": ranks and "signals" not in cls.needs,
            "generate": cls.messages is not Method.messages,
            "predict": ranks,
        }
        return tuple(track for track, has in names.items() if has)

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Parameters with which the contract suite builds the method."""
        return {}

    def params(self) -> dict[str, Any]:
        """Return the parameters (the dataclass fields)."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def spec(self) -> JSON:
        """Return `{"id": ..., "params": ...}`, replayable JSON."""
        return {"id": self.id, "params": self.params()}

    def clone(self) -> Self:
        """Return an unfitted, unbound copy with the same parameters."""
        return type(self)(**self.params())

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say which step is missing when something learnt, whose name ends in an underscore, is not there."""
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name.startswith("_") or not name.endswith("_"):
                raise AttributeError(message, name=name, obj=self)
            raise _NotLearnt(
                f"The method {self.id!r} has not learnt {name!r}.",
                "Call bind(...), fit(pool) and adapt(histories), in this order, before rank, messages or next_query.",
            )

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
