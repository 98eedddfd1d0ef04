"""Define the protocols of the backends that the edge hands to the rooms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from personalllm.core.errors import PersonalLLMError, RunError
from personalllm.core.types import F32, I32, U8, ChatReply, ChatRequest, Message

__all__ = [
    "ChatModel",
    "Done",
    "Executor",
    "Failed",
    "RewardEnsemble",
    "RewardSignals",
    "TextClassifier",
    "TextEmbedder",
    "chat_some",
]

T = TypeVar("T")
R = TypeVar("R")

Done: TypeAlias = Callable[[int, ChatReply, str], None]
"""Called with (index of the request, its reply, where the reply is from: `"model"` or `"cache"`)."""

Failed: TypeAlias = Callable[[int, str, PersonalLLMError], bool]
"""Called with (index of the request, kind of failure, error); returns whether to go on."""


@runtime_checkable
class ChatModel(Protocol):
    """A language model that answers chats."""

    @property
    def name(self) -> str:
        """Short name, e.g. `smollm2-135m-instruct`."""

    @property
    def identity(self) -> str:
        """All that decides the text besides the request: weights (sha256), runtime and version, layout."""

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of prompt and reply together."""

    def chat(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """Answer the requests, in their order."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of the messages, rendered with the model's own chat template."""


@runtime_checkable
class _ResilientChatModel(Protocol):
    """A chat model that hands over each reply when it is there, and goes on after a request that fails."""

    def chat_some(self, requests: Sequence[ChatRequest], done: Done, failed: Failed) -> None: ...


def chat_some(
    model: ChatModel, requests: Sequence[ChatRequest], done: Done, failed: Failed, *, at_once: int = 32
) -> None:
    """Request replies; a request that fails does not stop the others.

    Args:
        model: A model with a method `chat_some` answers by it; any other is given a few requests at a time, and those
            one by one if they fail together.
        requests: n requests.
        done: Called for each reply.
        failed: Called for each failure.
        at_once: How many a model without `chat_some` is given.
    """
    if isinstance(model, _ResilientChatModel):
        model.chat_some(requests, done, failed)
        return
    for start in range(0, len(requests), at_once):
        for i, outcome in enumerate(_outcomes(model, requests[start : start + at_once]), start):
            if isinstance(outcome, ChatReply):
                done(i, outcome, "model")
            elif not failed(i, "failed request", outcome):
                return


def _outcomes(model: ChatModel, requests: Sequence[ChatRequest]) -> list[ChatReply | PersonalLLMError]:
    try:
        replies: list[ChatReply | PersonalLLMError] = [*model.chat(requests)]
        if len(replies) != len(requests):
            raise RunError(f"{model.name} gave {len(replies)} replies to {len(requests)} requests.")
    except PersonalLLMError as error:
        if len(requests) == 1:
            return [error]
        return [_outcomes(model, [request])[0] for request in requests]
    return replies


@runtime_checkable
class TextEmbedder(Protocol):
    """Maps texts to vectors."""

    @property
    def name(self) -> str:
        """Short name, e.g. `minilm-l6-int8`."""

    @property
    def identity(self) -> str:
        """All that decides the vectors: weights (sha256), tokenizer, truncation, runtime."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, dim), rows of unit length; a text's row does not depend on the other texts."""


@runtime_checkable
class RewardEnsemble(Protocol):
    """Several reward models that score together."""

    @property
    def reward_models(self) -> tuple[str, ...]:
        """Names in the order of the last axis of `score`."""

    @property
    def identity(self) -> str:
        """All that decides the scores."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> F32:
        """Return raw scores, float32 (n, n_reward_models), of response i as an answer to prompt i."""


@runtime_checkable
class RewardSignals(Protocol):
    """Reward models' scores of the stored responses, for methods that declare `"signals"` among their needs.

    The utilities of simulated users are made of these scores, so a protocol hands them over only if it says so; a
    number that was reached with them is no measure of learning from texts.
    """

    @property
    def reward_models(self) -> tuple[str, ...]:
        """Names in the order of the last axis of `vectors`."""

    @property
    def identity(self) -> str:
        """All that decides the values: the benchmark, the standardiser, the order of the corpus's columns."""

    def vectors(self, prompts: I32, columns: U8) -> F32:
        """Return standardised scores, float32 (n, n_reward_models), of column `columns[i]` of corpus row `prompts[i]`.

        Args:
            prompts: int32 (n,), rows of the corpus that the method was handed.
            columns: uint8 (n,), columns of that corpus.
        """


@runtime_checkable
class Executor(Protocol):
    """Runs work units, here or elsewhere; results come in the order of the units."""

    def map(self, function: Callable[[T], R], units: Sequence[T]) -> Iterator[R]:
        """Yield `function(unit)` for each unit, in order."""


@runtime_checkable
class TextClassifier(Protocol):
    """Measures features of texts, such as formality or sentiment."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in the order of the last axis of `measure`."""

    @property
    def identity(self) -> str:
        """All that decides the values: weights or lexicon, library and version."""

    def measure(self, texts: Sequence[str]) -> F32:
        """Return float32 (n_texts, n_features); a text's row does not depend on the other texts."""
