"""Share the base of chat models: batches, copies in other processes, messages in the servers' format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from personalllm.core.errors import PersonalLLMError, RunError, UserError
from personalllm.core.protocols import Done, Failed
from personalllm.core.types import ChatReply, ChatRequest, Message

__all__ = ["BatchChatModel", "turns"]


class BatchChatModel(ABC):
    """A chat model that answers a batch and reports each reply when it arrives; `chat` follows from that.

    Attributes:
        _arguments: Of the constructor, by keyword; a copy in another process is built from them.
    """

    _arguments: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), dict(self._arguments))

    @abstractmethod
    def chat_some(self, requests: Sequence[ChatRequest], done: Done, failed: Failed) -> None:
        """Answer what can be answered; a request that fails does not stop the others.

        Args:
            requests: n requests.
            done: Called with (index of the request, its reply, `"model"` or `"cache"`).
            failed: Called with (index of the request, kind of failure, error); returns whether to go on. If not, no
                further request is started.
        """

    def chat(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """Answer the requests, in their order.

        Raises:
            UserError: If a setting is wrong: a key, a model's name, an address, a cache file.
            RunError: If a prompt is too long, or the model fails. No further request is started then; the message
                says how many were answered.
        """
        failures: dict[int, PersonalLLMError] = {}
        replies: dict[int, ChatReply] = {}

        def keep(i: int, reply: ChatReply, source: str) -> None:  # noqa: ARG001
            replies[i] = reply

        def stop(i: int, kind: str, error: PersonalLLMError) -> bool:  # noqa: ARG001
            failures[i] = error
            return False

        self.chat_some(requests, keep, stop)
        if failures:
            raise _batch_error(failures, len(replies), len(requests)) from None
        return [replies[i] for i in range(len(requests))]


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return the messages as the protocol has them; what is no valid Unicode (a lone surrogate) becomes `?`."""
    return [{"role": m.role, "content": m.content.encode("utf-8", "replace").decode()} for m in messages]


def _batch_error(failures: Mapping[int, PersonalLLMError], answered: int, n: int) -> PersonalLLMError:
    """Return the first failure of a batch, with how much of the batch had been answered."""
    first = min(failures)
    error = failures[first]
    if n == 1:
        return error
    family = UserError if isinstance(error, UserError) else RunError
    return family(f"Request {first + 1} of {n} failed ({answered} were answered): {error.message}", error.remedy)


def _rebuild(kind: type[BatchChatModel], arguments: dict[str, Any]) -> BatchChatModel:
    return kind(**arguments)
