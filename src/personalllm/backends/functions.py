"""Backends made of one plain function and an identity."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from personalllm.core.errors import RunError
from personalllm.core.types import F32, F64, ChatReply, ChatRequest, Message

__all__ = ["FunctionChatModel", "FunctionEmbedder", "FunctionEnsemble", "unit_rows"]

_SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "seed")
_BYTES_PER_TOKEN = 3
_TURN_TOKENS = 4  # what chat templates put around a turn


@dataclass
class FunctionEmbedder:
    """Embeds with a function from n texts to (n, dim); rows are scaled to unit length.

    Attributes:
        function: What computes the vectors.
        identity: What decides them.
        owner: The object that the function belongs to; it may know the length of a vector.
    """

    function: Callable[[list[str]], Any]
    identity: str
    owner: object = None
    _dim: int | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The identity."""
        return self.identity

    @property
    def dim(self) -> int:
        """Length of a vector; one short text is embedded if the function's owner does not know it."""
        if self._dim is None:
            length = getattr(self.owner, "get_sentence_embedding_dimension", None)  # of SentenceTransformer
            size = length() if callable(length) else None
            self._dim = size if isinstance(size, int) else self._rows(["length"]).shape[1]
        return self._dim

    def embed(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, dim), rows of unit length.

        Raises:
            RunError: If the function returns another shape, or a row without a direction (zeros or no numbers).
        """
        if not texts:
            return np.empty((0, self.dim), np.float32)
        return unit_rows(self._rows(list(texts)), f"The embedder {self.identity!r}")

    def _rows(self, texts: list[str]) -> Any:
        """Return float64 (n, dim) as the function computes it."""
        rows = _numbers(self.function(texts), f"embedder {self.identity!r}")
        if rows.ndim != 2 or len(rows) != len(texts) or rows.shape[1] == 0:
            raise RunError(
                f"The embedder {self.identity!r} returned shape {rows.shape} for {len(texts)} texts.",
                "Its function must return an array (n_texts, dim).",
            )
        return rows


@dataclass
class FunctionChatModel:
    """Answers with a function from messages to a text.

    Attributes:
        function: From `[{"role": ..., "content": ...}, ...]` to the text of the reply.
        identity: What decides the text.
        context_length: Maximum tokens of prompt and reply together.
        counter: From messages to their number of tokens; estimated from the bytes if None.
    """

    function: Callable[..., str]
    identity: str
    context_length: int
    counter: Callable[[list[dict[str, str]]], int] | None = None

    @property
    def name(self) -> str:
        """The identity."""
        return self.identity

    def chat(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """Answer the requests, in their order, one at a time.

        Raises:
            RunError: If the function returns something else than a text.
        """
        accepted = _accepted(self.function)
        replies = []
        for request in requests:
            text = self.function(_turns(request.messages), **{name: getattr(request, name) for name in accepted})
            if not isinstance(text, str):
                raise RunError(
                    f"The chat model {self.identity!r} returned a {type(text).__name__}.",
                    "Its function must return the text of the reply.",
                )
            used = self.count_tokens(request.messages), self.count_tokens([Message("assistant", text)])
            replies.append(ChatReply(text.strip(), "stop", *used))
        return replies

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of the messages, or an estimate if there is no counter."""
        if self.counter is not None:
            return self.counter(_turns(messages))
        sizes = (len(message.content.encode("utf-8", "replace")) for message in messages)
        return sum(_TURN_TOKENS + -(-size // _BYTES_PER_TOKEN) for size in sizes)


@dataclass
class FunctionEnsemble:
    """Scores with a function from n prompts and n responses to (n, n_reward_models).

    Attributes:
        function: What computes the scores.
        reward_models: Names, in the order of the columns.
        identity: What decides the scores.
    """

    function: Callable[[list[str], list[str]], Any]
    reward_models: tuple[str, ...]
    identity: str

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> F32:
        """Return raw scores, float32 (n, n_reward_models).

        Raises:
            RunError: If the function returns another shape or scores that are not finite.
        """
        scores = _numbers(self.function(list(prompts), list(responses)), f"reward ensemble {self.identity!r}")
        shape = (len(responses), len(self.reward_models))
        if scores.shape == shape[:1] and shape[1] == 1:
            scores = scores[:, None]
        if scores.shape != shape or not np.all(np.isfinite(scores)):
            raise RunError(
                f"The reward ensemble {self.identity!r} returned shape {scores.shape} instead of {shape}, or a score "
                "that is not finite.",
                "Its function must return an array (n, n_reward_models).",
            )
        raw: F32 = scores.astype(np.float32)
        return raw


def unit_rows(rows: F64, who: str) -> F32:
    """Return rows at unit length.

    Raises:
        RunError: If a row has no direction; names who gave it.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(np.isfinite(lengths)) or np.any(lengths == 0):
        raise RunError(f"{who} gave a vector without a direction (zeros or no numbers).")
    unit: F32 = (rows / lengths).astype(np.float32)
    return unit


def _numbers(values: Any, what: str) -> Any:
    """Return an array, float64, of what the function returned (lists, arrays, tensors on the CPU)."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"The {what} returned a {type(values).__name__} that is no array of numbers: {error}.") from None


def _accepted(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the sampling parameters that a function takes."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return ()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return _SAMPLING
    return tuple(name for name in _SAMPLING if name in parameters)


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
