"""The contract of a method.

A method is a dataclass whose fields are its parameters. What it learns goes into attributes that end in an
underscore, never into a field, so `spec()` always describes an unfitted method and `clone()` returns one.
It sees texts, interactions and the injected backends; weights and scores are out of its reach (docs/architecture.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Literal, Self, TypeVar

from personalllm.core.backends import backend
from personalllm.core.errors import ParameterError, UserError
from personalllm.core.protocols import ChatModel, RewardSignals, TextEmbedder
from personalllm.core.types import F32, I32, JSON, U8, Conversation, Histories, Queries
from personalllm.methods.answers import of_any_width
from personalllm.methods.state import write_state
from personalllm.methods.user import User

__all__ = ["OFF", "HistoryRule", "Method", "Need", "fitting"]

M = TypeVar("M", bound="Method")

Need = Literal["embedder", "llm", "signals"]
HistoryRule = Literal["random", "nearest"]

OFF = "off"
"""Metadata of a parameter that was added to published methods: the value with which they are what they were."""

_NEEDS = {"embedder": "'minilm-l6-int8'", "llm": "'smollm2-135m-instruct'", "signals": "..."}
_HISTORIES = ("random", "nearest")


class _NotLearned(UserError, AttributeError):
    """A learned attribute was read before it was learned; an `AttributeError`, so that `hasattr` works."""


def fitting(learn: Callable[[M, Histories], M]) -> Callable[Concatenate[M, ...], M]:
    """Decorate a `fit(self, pool)`, so that it takes `Preferences` too, and backends by name or as objects.

    Subclasses are decorated when they are defined; the decorator is for type checkers, which do not see that.
    """

    @wraps(learn)
    def fit(self: M, pool: object, *, embedder: object = None, llm: object = None, seed: int | None = None) -> M:
        histories = pool if isinstance(pool, Histories) else getattr(pool, "histories", None)
        if not isinstance(histories, Histories):
            raise UserError(
                f"A method cannot learn from a {type(pool).__name__}.",
                "Pass personalllm.Preferences.from_rows(rows), or Histories.",
            )
        if embedder is not None or llm is not None or seed is not None:
            self.bind(
                embedder=backend("embedder", embedder) or getattr(self, "_embedder", None),
                llm=backend("chat model", llm) or getattr(self, "_llm", None),
                signals=getattr(self, "_signals", None),
                seed=self.seed if seed is None else seed,
            )
        before = dict(vars(self))
        fitted = learn(self, histories)
        new = {name for name, value in vars(self).items() if name.endswith("_") and value is not before.get(name)}
        self._learned = frozenset(new) | getattr(self, "_learned", frozenset())
        self._fits += 1
        return fitted

    del fit.__wrapped__  # help() shows the signature above, not that of the function inside
    return fit


@dataclass
class Method:
    """Base class: subclass it as a dataclass, set `id`, and implement `utilities` or `messages` (or both).

    The evaluation calls, on a fresh copy: `bind` (backends, seed), `fit` (the pool: other users' histories), `adapt`
    (the target users' histories), then `utilities` or `messages` with the target users' queries. A method of your own
    needs no registration:

    >>> import numpy as np
    >>> from personalllm.core.types import Corpus, Histories
    >>> @dataclass
    ... class Polite(Method):
    ...     id = "polite"
    ...
    ...     def utilities(self, queries):
    ...         rows = [queries.corpus.responses[prompt] for prompt in queries.prompt]
    ...         return np.array([[text.count("please") for text in row] for row in rows], dtype=np.float32)
    >>> pool = Histories(Corpus(["Hi"], [["Yes?", "What?"]]), 1, [0], [0], [0], [1])
    >>> Polite().fit(pool).user("ann").rank("Tea?", ["No.", "Yes, please.", "Sit down, please, please."])
    [2, 1, 0]

    Class attributes:
        id: Short name in lower case; that of a built-in method is its file's name with hyphens.
        title: A few words for tables; the id if it is empty.
        paper: Where it was published; empty for a baseline without a paper.
        needs: Backends it cannot work without.
        history: Which history it is evaluated with: `"random"` train prompts, or the train prompts `"nearest"` to
            the query.
        log_odds: Whether differences of utilities are log-odds, so that P(a is preferred to b) = sigmoid(utility of a -
            utility of b); without it the predict track leaves log-loss and calibration blank.
        objective: What is maximised or minimised, in one sentence (for the card).
        fitted_per_user: What is fitted for a new user, in one sentence.
        cost: What that costs, in one sentence.
        extra: Optional extra of this package that it needs, e.g. `"torch"`; `all` leaves it out where that is absent.
    """

    id: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    needs: ClassVar[frozenset[Need]] = frozenset()
    history: ClassVar[HistoryRule] = "random"
    log_odds: ClassVar[bool] = False
    extra: ClassVar[str] = ""
    objective: ClassVar[str] = ""
    fitted_per_user: ClassVar[str] = ""
    cost: ClassVar[str] = ""

    _fits = 0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.title = cls.title or cls.id
        for name, decorate in (("fit", fitting), ("utilities", of_any_width)):
            if name in vars(cls):
                setattr(cls, name, decorate(vars(cls)[name]))

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
                    f"Pass {need}={_NEEDS[need]} (a name or an object) to fit() or evaluate().",
                )
        if "signals" in self.needs and signals is None:
            raise UserError(
                f"The method {self.id!r} uses the scores of the reward models, which this protocol does not allow.",
                "Use the predict track with --set prediction.reward_signals=true, or the online track with "
                "--set online.reward_signals=true (in Python: online={'reward_signals': True}), and say so with its "
                "numbers.",
            )
        self._embedder, self._llm, self._signals, self._seed = embedder, llm, signals, seed
        return self

    def _bound(self, need: Need, words: str) -> Any:
        backend = getattr(self, f"_{need}", None)
        if backend is None:
            remedy = f"Pass {need}={_NEEDS[need]} to fit()." if need in self.needs else f"Add {need!r} to its `needs`."
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

    @property
    def fit_count(self) -> int:
        """How often it was fitted or restored: a named user compares it, so that none answers from an earlier fit."""
        return self._fits

    @fitting
    def fit(self, pool: Histories) -> Self:
        """Learn from the histories of other users; the default learns nothing.

        Override it as `fit(self, pool)` with `pool` the `Histories`; the caller may pass more:

        Args:
            pool: `Histories`, or anything with `.histories`, such as `personalllm.Preferences`.
            embedder: A registered name or an object; as in `bind`.
            llm: A registered name or an object; as in `bind`.
            seed: As in `bind`.

        Raises:
            UserError: If a backend is missing or unknown, or the pool holds no histories.
        """
        return self

    def adapt(self, histories: Histories) -> Self:
        """Learn about the target users from their own histories; the default learns nothing."""
        return self

    def utilities(self, queries: Queries) -> F32:
        """Return a utility for each candidate, float32 (n_queries, n_responses); higher is better.

        Ties are broken by the lower column in the rank track and counted half in the predict track. The candidates of
        query i are `queries.corpus.responses[queries.prompt[i]]`; a permutation of them must permute the result. A
        subclass may return anything that NumPy reads as numbers of that shape, such as float64 or nested lists. It
        sees queries whose prompts have equally many responses; for others it is called once for each number, and the
        result is padded with -inf: a response that is not there is preferred to none.
        """
        raise NotImplementedError(f"{self.id!r} does not score responses.")

    def messages(self, queries: Queries) -> list[Conversation]:
        """Return what to ask the chat model for each query, length n_queries."""
        raise NotImplementedError(f"{self.id!r} does not ask a chat model.")

    def next_query(self, queries: Queries) -> tuple[I32, U8, U8]:
        """Choose for each user the comparison to ask for, among the responses of the prompts; policies do.

        Returns:
            int32 (n_users,): the row among `queries`, -1 for a user without one; uint8 (n_users,) twice: the two
            responses, columns of the corpus.
        """
        raise NotImplementedError(f"{self.id!r} does not choose comparisons.")

    def asking(self, policy: Any = "") -> Any:
        """Return a policy that asks users for this fitted method, unadapted; methods with a posterior have some.

        Args:
            policy: Registered name or a `Policy`.

        Raises:
            UserError: If the method has no posterior, or the policy is none.
        """
        raise UserError(
            f"The method {self.id!r} does not choose what to ask a user: it has no posterior of their taste.",
            "Use one that has, such as 'sparse-basis', 'hierarchical-bt' or 'pref'.",
        )

    def user(self, name: str) -> User:
        """Return the handle of a named user, who starts from what the pool taught; the same one for the same name.

        Users do not share what is learned of them, keep their preferences when the method is fitted again, and are not
        saved with it.

        >>> from personalllm.core.types import Corpus, Histories
        >>> from personalllm.methods import EmbeddingRanker
        >>> from personalllm.testing import HashEmbedder
        >>> pool = Histories(Corpus(["Hi"], [["Hello there.", "What?"]]), 1, [0], [0], [0], [1])
        >>> method = EmbeddingRanker(shrinkage=1.0).fit(pool, embedder=HashEmbedder())
        >>> ann = method.user("ann")
        >>> _ = ann.update("Any news?", chosen="it rains", rejected="nothing new")
        >>> ann.rank("And today?", ["nothing", "rains again"]), len(ann.preferences)
        ([1, 0], 1)
        >>> method.user("bob").preferences
        ()
        """
        if not isinstance(name, str):
            raise ParameterError("name", "a text", name)
        users: dict[str, User] = self.__dict__.setdefault("_users", {})
        if name not in users:
            users[name] = User(self, name)
        return users[name]

    def save(self, path: str | Path) -> Self:
        """Write the fitted method to a folder: learned arrays as safetensors, everything else as JSON, never pickle.

        The folder appears as a whole or not at all; a saved method that is there is replaced. What `fit` learned is
        kept, and the name and the identity of the backends; what `adapt` learned and named users are not.

        Args:
            path: The folder; `personalllm.load_method` reads it.

        Raises:
            UserError: If the method is not fitted, a learned attribute cannot be written, or the folder holds something
                else.
        """
        state = self.fitted_state()
        backends = {need: getattr(self, f"_{need}", None) for need in ("embedder", "llm") if need in self.needs}
        cls = type(self)
        note = {
            "method": self.spec(),
            "class": f"{cls.__module__}:{cls.__qualname__}",
            "seed": self.seed,
            "backends": {need: {"name": b.name, "identity": b.identity} for need, b in backends.items() if b},
        }
        write_state(Path(path).expanduser(), note, state, cls.__module__)
        return self

    def fitted_state(self) -> dict[str, Any]:
        """Return what `fit` learned, by name of the attribute.

        Raises:
            UserError: If the method is not fitted.
        """
        learned = getattr(self, "_learned", None)
        if learned is None:
            raise UserError(f"The method {self.id!r} is not fitted, so there is nothing to save.", "Call fit() first.")
        return {name: vars(self)[name] for name in sorted(learned)}

    def restore(self, learned: Mapping[str, Any]) -> Self:
        """Set what an equal method learned in `fit`, by name of the attribute."""
        vars(self).update(learned)
        self._learned = frozenset(learned)
        self._fits += 1
        return self

    @classmethod
    def implements(cls, *hooks: str) -> bool:
        """Tell whether the class overrides any of these methods of `Method`, e.g. `utilities` or `messages`.

        >>> Method.implements("utilities")
        False
        """
        return any(getattr(cls, hook, None) is not getattr(Method, hook, None) for hook in hooks)

    @classmethod
    def example_params(cls) -> dict[str, Any]:
        """Parameters with which the contract suite builds the method."""
        return {}

    def identity(self) -> JSON:
        """Return what keys and seeds are made of: `spec()` without added parameters that are off (see `OFF`)."""
        spec, added = self.spec(), [field for field in dataclasses.fields(self) if OFF in field.metadata]
        off = {field.name for field in added if getattr(self, field.name) == field.metadata[OFF]}
        return spec | {"params": {name: value for name, value in spec["params"].items() if name not in off}}

    def params(self) -> dict[str, Any]:
        """Return the parameters (the dataclass fields)."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def spec(self) -> JSON:
        """Return `{"id": ..., "params": ...}`, replayable JSON; raise for a class with an `__init__` of its own."""
        cls = type(self)  # two objects whose parameters are unknown would share one key and one result
        if "__init__" in vars(cls) and "__dataclass_fields__" not in vars(cls):
            remedy = "Decorate it with @dataclass and declare each parameter as a field, e.g. w: float = 1.0"
            raise UserError(f"{cls.__name__!r} has an __init__ of its own, so its parameters are unknown.", remedy)
        return {"id": self.id, "params": self.params()}

    def clone(self) -> Self:
        """Return an unfitted, unbound copy with the same parameters."""
        return type(self)(**self.params())

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say which step is missing when a learned attribute, whose name ends in an underscore, is not there."""
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name.startswith("_") or not name.endswith("_"):
                raise AttributeError(message, name=name, obj=self)
            raise _NotLearned(
                f"The method {self.id!r} has not learned {name!r}.",
                "Call fit(pool) and adapt(histories), in this order, before utilities, messages or next_query.",
            )

    def check_positive(self, *names: str, or_none: bool = False) -> None:
        """Raise `ParameterError` unless the named parameters are integers >= 1, or None (for `__post_init__`)."""
        for name in names:
            value = getattr(self, name)
            if (not isinstance(value, int) or isinstance(value, bool) or value < 1) and not (or_none and value is None):
                raise ParameterError(name, f"an integer >= 1{' or None' * or_none}", value)

    def check_number(self, *names: str, above_zero: bool = True, or_none: bool = False) -> None:
        """Raise `ParameterError` unless the named parameters are finite numbers > 0 or >= 0, or None."""
        for name in names:
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
            if (not number or (above_zero and value == 0)) and not (or_none and value is None):
                sign = ">" if above_zero else ">="
                raise ParameterError(name, f"a finite number {sign} 0{' or None' * or_none}", value)

    def check_one_of(self, name: str, allowed: Sequence[str]) -> None:
        """Raise `ParameterError` unless the named parameter is one of the allowed texts (for `__post_init__`)."""
        value = getattr(self, name)
        if not (isinstance(value, str) and value in allowed):
            raise ParameterError(name, f"one of {', '.join(allowed)}", value)
