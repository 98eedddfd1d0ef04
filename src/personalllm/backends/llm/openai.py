"""A chat model behind an OpenAI-compatible server: vLLM, llama.cpp, Ollama, a hosted service (extra `openai`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from personalllm.backends.endpoint import (
    DEFAULT_KEY,
    BrokenReply,
    Endpoint,
    filtered,
    openai_sdk,
)
from personalllm.backends.llm._base import BatchChatModel, turns
from personalllm.backends.llm._served import ELSEWHERE, complete, llama_tokens, served_length, streamed, vllm_tokens
from personalllm.backends.llm.limits import RateLimiter
from personalllm.backends.llm.tokenizer import ChatTokenizer
from personalllm.backends.transport import back_off, run_coroutine
from personalllm.core.errors import ParameterError, PersonalLLMError, RunError, UserError
from personalllm.core.protocols import Done, Failed
from personalllm.core.storage import canonical_json, digest
from personalllm.core.types import ChatReply, ChatRequest, Message

__all__ = ["OpenAIChatModel", "ServerOptions"]

_RESERVED = frozenset(
    ("model", "messages", "max_tokens", "temperature", "top_p", "seed", "stream", "stream_options", "n", "api_key")
)
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class ServerOptions:
    """What a server is sent besides the request, and how long and how often it is tried.

    Attributes:
        timeout: Maximum seconds until a reply is there (if it is streamed: until its next piece), > 0.
        retries: Further tries after a transient failure, with growing pauses (a server's `Retry-After` is kept).
        extra: Further fields of the request body, e.g. `{"min_p": 0.0}`; they are part of the identity.
        tokenizer: Folder with the model's `tokenizer.json` and chat template, for servers that count no tokens.
        requests_per_minute: Maximum requests in a minute, tries that failed included; None for no limit.
        tokens_per_minute: Maximum tokens in a minute, prompts and replies together; None for no limit. A request counts
            with a token for four characters of its prompt and with `max_tokens` until its reply says what it used.
        api_key_env: Name of the environment variable that holds the key.
    """

    timeout: float = 300.0
    retries: int = 4
    extra: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Path | str | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    api_key_env: str = DEFAULT_KEY

    def __post_init__(self) -> None:
        reserved = sorted(_RESERVED & set(self.extra))
        if reserved:
            raise ParameterError("extra", f"free of {', '.join(reserved)}, which the request sets", sorted(self.extra))
        try:
            canonical_json(dict(self.extra))
        except (TypeError, ValueError):
            raise ParameterError("extra", "JSON values", dict(self.extra)) from None


class _Failed(Exception):
    """A request that failed after all its tries."""

    def __init__(self, kind: str, error: PersonalLLMError) -> None:
        super().__init__(kind)
        self.kind = kind
        self.error = error


class OpenAIChatModel(BatchChatModel):
    """Answers chats over HTTP, several at a time, with the official client.

    Temperature 0 is greedy decoding. Whether the same request gives the same text again is up to the server: batching
    on an accelerator may change the last digits, and with them a text. The key is read from the environment when a
    request is made; a server on this machine needs none. Models of one process that ask the same model of the same
    server with the same limits share one queue (`RateLimiter`).

    Args:
        model: The model's name on the server.
        base_url: Address of the API, e.g. `http://127.0.0.1:8000/v1`.
        context_length: Maximum tokens of prompt and reply together; the server is queried for it if None.
        stream: Whether replies are received piece by piece. The texts are the same.
        concurrency: Maximum requests under way at once, >= 1.
        revision: What fixes the weights (a commit, a digest); takes the place of the address in the identity.
        options: Time limits, retries, further fields, and a tokenizer.

    Raises:
        UserError: If the address cannot be used.
        OfflineError: If `PERSONALLLM_OFFLINE` is set and the server is not on this machine.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        context_length: int | None = None,
        stream: bool = False,
        concurrency: int = 8,
        revision: str | None = None,
        options: ServerOptions | None = None,
    ) -> None:
        if not model:
            raise ParameterError("model", "the model's name on the server", model)
        if concurrency < 1:
            raise ParameterError("concurrency", ">= 1", concurrency)
        if context_length is not None and context_length < 1:
            raise ParameterError("context_length", ">= 1 token", context_length)
        self._options = options or ServerOptions()
        self._arguments = {
            "model": model,
            "base_url": base_url,
            "context_length": context_length,
            "stream": stream,
            "concurrency": concurrency,
            "revision": revision,
            "options": self._options,
        }
        self._endpoint = Endpoint(base_url, self._options.timeout, self._options.retries, self._options.api_key_env)
        self._limiter = RateLimiter.shared(
            (self._endpoint.base_url, model, self._options.api_key_env),
            self._options.requests_per_minute,
            self._options.tokens_per_minute,
        )
        self._tokenizer = ChatTokenizer(self._options.tokenizer) if self._options.tokenizer is not None else None
        self._model = model
        self._given_length = context_length
        self._context_length = context_length
        self._stream = stream
        self._concurrency = concurrency
        self._revision = revision
        self._counts: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"OpenAIChatModel({self._model!r}, base_url={self._endpoint.base_url!r})"

    @property
    def remote(self) -> bool:
        """True: while this process waits for it, the machine is free for other models."""
        return True

    @property
    def name(self) -> str:
        """The model's name on the server."""
        return self._model

    @property
    def identity(self) -> str:
        """Name, and a digest of the revision (else the address), the further fields and the context length, if given.

        A context length decides how much history is sent, and so which results belong together. The weights behind an
        address cannot be seen from here: give `revision` where results are to be compared.
        """
        parts = {
            "api": "openai chat completions",
            "server": self._endpoint.base_url if self._revision is None else f"revision {self._revision}",
            "extra": dict(self._options.extra),
            "context_length": self._given_length,
        }
        return f"{self._model}@{digest(parts)}"

    def require(self) -> None:
        """Raise unless the server may be used: client installed, key given, network allowed. Makes no request.

        Raises:
            MissingExtra: If the client is not installed.
            UserError: If the server needs a key and there is none, or it cannot be sent.
            OfflineError: If `PERSONALLLM_OFFLINE` is set and the server is not on this machine.
        """
        openai_sdk()
        self._endpoint.require()

    @property
    def context_length(self) -> int:
        """Maximum tokens of prompt and reply together, as given or as the server says.

        Raises:
            UserError: If it was not given and the server does not say.
        """
        if self._context_length is None:
            self._context_length = served_length(self._endpoint, self._model)
        return self._context_length

    def chat_some(self, requests: Sequence[ChatRequest], done: Done, failed: Failed) -> None:
        """Answer what can be answered; a request that fails after all its tries does not stop the others.

        A finish reason other than `length` counts as `stop`; a content filter or a refusal by the model is in
        `refusal`. A reply without content is the empty text. What a server puts elsewhere (reasoning) is left out.
        """
        if requests:
            run_coroutine(self._answer_all(requests, done, failed))

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of the messages, rendered with the model's own chat template.

        The server counts: vLLM's `/tokenize`, llama.cpp's `/apply-template` and `/tokenize`. With a tokenizer on
        disk (`ServerOptions.tokenizer`) no request is made. Counts are kept.

        Raises:
            UserError: If the server counts no tokens and no tokenizer was given.
        """
        key = digest(turns(messages), 32)
        if key not in self._counts:
            counted = self._tokenizer.count(messages) if self._tokenizer else self._count(turns(messages))
            self._counts[key] = counted
        return self._counts[key]

    def _count(self, chat: list[dict[str, str]]) -> int:
        tokens = vllm_tokens(self._endpoint, self._model, chat)
        if tokens is None:
            tokens = llama_tokens(self._endpoint, chat)
        if tokens is None:
            raise UserError(
                f"{self._endpoint.base_url} does not count tokens.",
                f"{ELSEWHERE}, or use vLLM or llama.cpp's server.",
            )
        return tokens

    async def _answer_all(self, requests: Sequence[ChatRequest], done: Done, failed: Failed) -> None:
        waiting = iter(enumerate(requests))
        going = True

        async def work() -> None:
            nonlocal going
            for i, request in waiting:
                if not going:
                    return
                try:
                    reply = await self._answer(client, request)
                except _Failed as failure:
                    going = failed(i, failure.kind, failure.error) and going
                else:
                    done(i, reply, "model")

        async with self._endpoint.client(retries=0) as client:
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(self._concurrency, len(requests))):
                        workers.create_task(work())
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None

    async def _answer(self, client: Any, request: ChatRequest) -> ChatReply:
        """Return one reply, after up to `retries` further tries.

        Raises:
            _Failed: If no try gave one.
        """
        sdk = openai_sdk()
        for attempt in range(self._options.retries + 1):
            try:
                return await self._try(client, request)
            except BrokenReply as error:
                if attempt == self._options.retries:
                    words = self._endpoint.scrub(error.message)
                    raise _Failed("broken reply", self._unusable(words, attempt + 1)) from None
                pause = back_off(attempt)
            except (TimeoutError, sdk.OpenAIError) as error:
                if filtered(error):
                    return ChatReply("", "stop", 0, 0, refusal="content_filter")
                wait = self._endpoint.pause(error, attempt)
                if wait is None:
                    kind = self._endpoint.kind(error)
                    raise _Failed(kind, self._endpoint.failure(error, self._model)) from None
                pause = wait
                if getattr(error, "status_code", None) == 429:
                    self._limiter.hold(pause)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _try(self, client: Any, request: ChatRequest) -> ChatReply:
        """Send once, when it is this request's turn."""
        characters = sum(len(message.content) for message in request.messages)
        tokens = characters // _CHARACTERS_PER_TOKEN + request.max_tokens
        await self._limiter.wait(tokens)
        async with asyncio.timeout(None if self._stream else self._options.timeout):
            reply = await self._send(client, request)
        self._limiter.settle(tokens, reply.prompt_tokens + reply.completion_tokens)
        return reply

    def _unusable(self, words: str, tries: int) -> RunError:
        return RunError(
            f"{self._endpoint.base_url} gave no usable reply, {tries} times in a row: {words}.",
            "See the server's own log.",
        )

    async def _send(self, client: Any, request: ChatRequest) -> ChatReply:
        streaming: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if self._stream else {}
        further = {"top_k": request.top_k} if request.top_k else {}
        try:
            answer = await client.chat.completions.create(
                model=self._model,
                messages=turns(request.messages),
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                extra_body={**self._options.extra, **further},
                **streaming,
            )
        except ValueError as error:
            raise BrokenReply(f"it is not JSON ({error})") from None
        return await streamed(answer) if self._stream else complete(answer)
