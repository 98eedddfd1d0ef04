"""Send many requests to a chat model, and continue after failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from personalllm.core.errors import PersonalLLMError
from personalllm.core.protocols import ChatModel
from personalllm.core.types import ChatReply, ChatRequest

__all__ = ["Done", "Failed", "ask", "is_remote"]

Done = Callable[[int, ChatReply, str], None]
Failed = Callable[[int, str, PersonalLLMError], bool]


@runtime_checkable
class _Tolerant(Protocol):
    """A chat model that hands over each reply when it is there, and goes on after a request that fails."""

    def chat_some(self, requests: Sequence[ChatRequest], done: Done, failed: Failed) -> None: ...


def ask(chat: ChatModel, requests: Sequence[ChatRequest], done: Done, failed: Failed) -> None:
    """Ask for replies; a request that fails does not stop the others.

    A model without `chat_some` is asked for all at once, and one by one if that fails.

    Args:
        chat: Who is asked.
        requests: n requests.
        done: Called with (index of the request, its reply, `"model"` or `"cache"`).
        failed: Called with (index of the request, kind of failure, error); returns whether to go on.
    """
    if isinstance(chat, _Tolerant):
        chat.chat_some(requests, done, failed)
        return
    for i, outcome in enumerate(_apart(chat, requests)):
        if isinstance(outcome, ChatReply):
            done(i, outcome, "model")
        elif not failed(i, "failed request", outcome):
            return


def is_remote(chat: ChatModel) -> bool:
    """Tell whether this machine is free for other models while the model is waited for."""
    return bool(getattr(chat, "remote", False))


def _apart(chat: ChatModel, requests: Sequence[ChatRequest]) -> list[ChatReply | PersonalLLMError]:
    try:
        return list(chat.chat(requests))
    except PersonalLLMError as error:
        if len(requests) == 1:
            return [error]
    return [_apart(chat, [request])[0] for request in requests]
