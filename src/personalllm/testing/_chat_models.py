"""The contract of a chat model, as checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from personalllm.core.errors import PersonalLLMError
from personalllm.core.protocols import ChatModel
from personalllm.core.types import ChatReply, ChatRequest, Message
from personalllm.testing._backends import COPY, IDENTITY, PLAIN, check_name, pickled, require
from personalllm.testing._checks import Check, Clauses, require_all
from personalllm.testing._scenes import ODD_TEXTS

__all__ = ["chat_model_checks", "check_chat_model"]


def _requests() -> list[ChatRequest]:
    texts = (*PLAIN, *ODD_TEXTS[:-1])
    plain = [ChatRequest((Message("user", text),), max_tokens=6) for text in texts]
    turns = (Message("user", "Say a word."), Message("assistant", "Rain."), Message("user", "Another."))
    system = (Message("system", "Be brief."), Message("user", "Why is the sky blue?"))
    sampled = [ChatRequest(turns, max_tokens=6, temperature=0.8, seed=seed) for seed in (1, 2)]
    return [*plain, ChatRequest(turns, max_tokens=6), ChatRequest(system, max_tokens=6), *sampled]


@dataclass(frozen=True)
class _Chat:
    """A chat model under test."""

    model: ChatModel

    @cached_property
    def requests(self) -> list[ChatRequest]:
        """Greedy and sampled, with and without a system turn, odd texts among them."""
        return _requests()

    @cached_property
    def replies(self) -> list[ChatReply]:
        """To the requests, one for each."""
        replies = self.model.chat(self.requests)
        n = len(self.requests)
        require(self.model, isinstance(replies, Sequence), f"chat must return a list, got {type(replies).__name__}")
        require(
            self.model, len(replies) == n, f"chat must return one reply for each of {n} requests, got {len(replies)}"
        )
        for reply in replies:
            require(self.model, isinstance(reply, ChatReply), f"chat must return ChatReply objects, got {reply!r}")
        return list(replies)


_CHAT: Clauses[_Chat] = Clauses()


@_CHAT.clause("names", IDENTITY)
def _chat_names(at: _Chat) -> None:
    """Its name and identity are texts that stay the same."""
    check_name(at.model, "name")
    check_name(at.model, "identity")


@_CHAT.clause("context")
def _context(at: _Chat) -> None:
    """context_length is at least 1.

    Return the maximum tokens of prompt and reply together.
    """
    length: object = at.model.context_length
    require(at.model, isinstance(length, int) and length >= 1, f"context_length must be >= 1, got {length!r}")


@_CHAT.clause("chat")
def _chats(at: _Chat) -> None:
    """chat() returns one ChatReply for each request, in order, for any text.

    Return [ChatReply(text, finish_reason, prompt_tokens, completion_tokens), ...].
    """
    _ = at.replies


@_CHAT.clause("reply-text", after=("chat",))
def _reply_text(at: _Chat) -> None:
    """White space around a reply is removed.

    Return text.strip().
    """
    for reply in at.replies:
        stripped = reply.text == reply.text.strip()
        require(at.model, stripped, f"white space around a reply must be removed: {reply.text!r}")


@_CHAT.clause("max-tokens", after=("chat",))
def _max_tokens(at: _Chat) -> None:
    """max_tokens is kept and finish_reason is true.

    Stop at max_tokens new tokens and say 'length' then, 'stop' otherwise.
    """
    for request, reply in zip(at.requests, at.replies, strict=True):
        within = 0 <= reply.completion_tokens <= request.max_tokens
        more = f"{reply.completion_tokens} new tokens, more than max_tokens={request.max_tokens}"
        require(at.model, within, more)
        reason = reply.finish_reason
        require(at.model, reason in ("stop", "length"), f"finish_reason must be 'stop' or 'length', got {reason!r}")
        require(
            at.model,
            reason != "length" or reply.completion_tokens == request.max_tokens,
            f"finish_reason is 'length' after {reply.completion_tokens} of {request.max_tokens} tokens",
        )


@_CHAT.clause("token-counts", after=("chat",))
def _token_counts(at: _Chat) -> None:
    """count_tokens agrees with the replies.

    Count the messages as the model's own chat template renders them, special tokens included.
    """
    for request, reply in zip(at.requests, at.replies, strict=True):
        counted = at.model.count_tokens(request.messages)
        require(
            at.model,
            counted == reply.prompt_tokens,
            f"count_tokens says {counted}, the reply says {reply.prompt_tokens} prompt tokens",
        )


@_CHAT.clause("empty")
def _chats_nothing(at: _Chat) -> None:
    """No requests give an empty list.

    Return [] for [].
    """
    require(at.model, at.model.chat([]) == [], "chat([]) must be []")


@_CHAT.clause("repeatable", after=("chat",))
def _chats_again(at: _Chat) -> None:
    """A second call gives equal replies, greedy and seeded.

    Reset the state before each request and seed the sampler with the request's seed.
    """
    require(at.model, at.model.chat(at.requests) == at.replies, "a second call must give equal replies")


@_CHAT.clause("pickle", COPY, after=("chat",))
def _chat_pickles(at: _Chat) -> None:
    """A copy by pickle replies alike to a request alone."""
    copy = pickled(at.model)
    require(at.model, copy.identity == at.model.identity, "a pickled copy must have the same identity")
    for i in (0, len(at.requests) - 1):
        alone = copy.chat([at.requests[i]])
        require(
            at.model, alone == [at.replies[i]], f"a pickled copy must reply alike to request {i} alone, got {alone}"
        )


@_CHAT.clause("order", after=("repeatable",))
def _chat_order(at: _Chat) -> None:
    """A reply does not depend on the other requests.

    Keep nothing from one request to the next: no shared sampler, no history.
    """
    reverse = at.model.chat(at.requests[::-1])[::-1]
    require(at.model, reverse == at.replies, "a reply must not depend on the other requests")


@_CHAT.clause("too-long", after=("context",))
def _too_long(at: _Chat) -> None:
    """A prompt longer than the context is refused, not cut.

    Raise personalllm.core.errors.RunError before the model sees it.
    """
    too_long = ChatRequest((Message("user", "word " * at.model.context_length),), max_tokens=1)
    try:
        at.model.chat([too_long])
    except PersonalLLMError:
        return
    raise AssertionError(f"{type(at.model).__name__}: a prompt longer than the context must raise a PersonalLLMError.")


def chat_model_checks(model: ChatModel) -> tuple[Check, ...]:
    """Return the clauses of `check_chat_model`, each by itself, in the order in which it runs them."""
    return _CHAT.of(_Chat(model))


def check_chat_model(model: ChatModel) -> None:
    """Raise `AssertionError` unless a chat model keeps the contract of `personalllm.core.protocols.ChatModel`.

    Checked: names; one reply for each request, in order; equal replies on a second call, from a pickled copy, and for a
    request alone, greedy and seeded; `max_tokens` kept and `finish_reason` true; token counts that agree with
    `count_tokens`; unicode; a prompt longer than the context refused with an error of this package, not cut.

    >>> from personalllm.testing import EchoChatModel
    >>> check_chat_model(EchoChatModel())
    """
    require_all(chat_model_checks(model))
