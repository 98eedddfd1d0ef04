"""A disk cache of replies, by model and request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from personalllm.backends.llm._base import BatchChatModel
from personalllm.core.errors import PersonalLLMError
from personalllm.core.protocols import ChatModel, Done, Failed, chat_some
from personalllm.core.storage import BlobStore, cache_file, canonical_json, digest
from personalllm.core.types import ChatReply, ChatRequest, Message

__all__ = ["CachedChatModel"]

_SLICE = 8


class CachedChatModel(BatchChatModel):
    """Keeps the replies of a chat model on disk, keyed by its identity and by every field of the request.

    The cache is one SQLite file for each model identity: each reply is committed when it arrives, so neither a killed
    run nor a request that fails loses what was answered, and several processes may share the file. SQLite rather than
    a file for each reply, because a run has tens of thousands of short replies and a transaction is what has to be
    atomic. A damaged entry is requested again. Equal requests of one call are sent once.

    Do not use it to check that a model is deterministic: it would compare a reply with itself.

    Args:
        model: What answers the requests that are not there yet.
        directory: Where the files are; the folder `replies` of the user's cache if None.
    """

    def __init__(self, model: ChatModel, directory: Path | str | None = None) -> None:
        self._model = model
        self._directory = None if directory is None else Path(directory)
        self._arguments = {"model": model, "directory": self._directory}
        self._counts: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"CachedChatModel({self._model!r})"

    @property
    def name(self) -> str:
        """Name of the model inside."""
        return self._model.name

    @property
    def identity(self) -> str:
        """Identity of the model inside: a cache does not change a reply."""
        return self._model.identity

    @property
    def context_length(self) -> int:
        """Maximum tokens of prompt and reply together, of the model inside."""
        return self._model.context_length

    @property
    def path(self) -> Path:
        """The SQLite file of this model."""
        return cache_file("replies", self.identity, self._directory)

    def chat_some(self, requests: Sequence[ChatRequest], done: Done, failed: Failed) -> None:
        """Answer what can be answered, from the cache where it is there; a failure does not stop the others.

        A model without this method is given a few requests at a time, and one by one where that fails.

        Args:
            requests: n requests.
            done: Called with (index of the request, its reply, `"model"` or `"cache"`), before the reply is stored:
                what is in the cache has been accounted for.
            failed: Called with (index of the request, kind of failure, error); returns whether to go on.
        """
        indices: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            indices.setdefault(_key(request), []).append(i)
        with BlobStore("reply", self.path, self.identity, "replies", "request TEXT", "reply") as store:
            replies = ((key, _decode(blob)) for key, blob in store.read(list(indices)))
            stored = {key: reply for key, reply in replies if reply is not None}
            for key, reply in stored.items():
                for i in indices[key]:
                    done(i, reply, "cache")
            absent = [key for key in indices if key not in stored]

            def keep(n: int, reply: ChatReply, source: str) -> None:
                first, *copies = indices[absent[n]]
                done(first, reply, source)
                store.write({absent[n]: json.dumps(asdict(reply)).encode()})
                for i in copies:
                    done(i, reply, "cache")

            def note(n: int, kind: str, error: PersonalLLMError) -> bool:
                verdicts = [failed(i, kind, error) for i in indices[absent[n]]]
                return all(verdicts)

            chat_some(self._model, [requests[indices[key][0]] for key in absent], keep, note, at_once=_SLICE)

    @property
    def remote(self) -> bool:
        """Whether this machine is free while the model inside works."""
        return bool(getattr(self._model, "remote", False))

    def require(self) -> None:
        """Raise if the model inside says that it cannot be used here."""
        require = getattr(self._model, "require", None)
        if callable(require):
            require()

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of the messages as the model inside counts them; counts are kept."""
        key = _digest([(message.role, message.content) for message in messages])
        if key not in self._counts:
            self._counts[key] = self._model.count_tokens(messages)
        return self._counts[key]


def _decode(blob: bytes) -> ChatReply | None:
    """Return a stored reply, or None if it is none."""
    try:
        return ChatReply(**json.loads(blob))
    except (ValueError, TypeError):
        return None


def _key(request: ChatRequest) -> str:
    return _digest(asdict(request))


def _digest(value: object) -> str:
    """Return a digest of texts that may hold a lone surrogate, which UTF-8 cannot."""
    return digest(canonical_json(value).encode("utf-8", "surrogatepass").hex(), 64)
