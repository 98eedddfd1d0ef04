"""A chat model behind an OpenAI-compatible server: vLLM, llama.cpp, Ollama, a hosted service (extra `openai`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from personalllm.backends.endpoint import BrokenReply, Endpoint, back_off, openai_sdk, run_coroutine
from personalllm.backends.llm.tokenizer import ChatTokenizer
from personalllm.errors import ParameterError, PersonalLLMError, RunError, UserError
from personalllm.storage import canonical_json, digest
from personalllm.types import ChatReply, ChatRequest, Message

__all__ = ["OpenAIChatModel", "ServerOptions"]

_OURS = frozenset(
    ("model", "messages", "max_tokens", "temperature", "top_p", "seed", "stream", "stream_options", "n", "api_key")
)
_CUT = ("length", "max_tokens", "model_length")
_ELSEWHERE = (
    "Give the folder of the model's tokenizer.json and chat template (environment variable PERSONALLLM_TOKENIZER)"
)


@dataclass(frozen=True)
class ServerOptions:
    """What a server is sent besides the request, and how patient we are with it.

    Attributes:
        timeout: Most seconds without a sign of life, > 0.
        retries: Further tries after a failure that may pass, with growing pauses (a server's `Retry-After` is kept).
        extra: Further fields of the request body, e.g. `{"min_p": 0.0}`; they are part of the identity.
        tokenizer: Folder with the model's `tokenizer.json` and chat template, for servers that count no tokens.
    """

    timeout: float = 300.0
    retries: int = 4
    extra: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Path | str | None = None

    def __post_init__(self) -> None:
        taken = sorted(_OURS & set(self.extra))
        if taken:
            raise ParameterError("extra", f"free of {', '.join(taken)}, which the request sets", sorted(self.extra))
        try:
            canonical_json(dict(self.extra))
        except (TypeError, ValueError):
            raise ParameterError("extra", "JSON values", dict(self.extra)) from None


class OpenAIChatModel:
    """Answers chats over HTTP, several at a time, with the official client.

    Temperature 0 is greedy decoding. Whether the same request gives the same text again is up to the server: batching
    on an accelerator may change the last digits, and with them a text. The key is read from `OPENAI_API_KEY` when a
    request is made; a server on this machine needs none.

    Args:
        model: The model's name on the server.
        base_url: Address of the API, e.g. `http://127.0.0.1:8000/v1`.
        context_length: Most tokens of prompt and reply together; asked of the server if None.
        stream: Whether replies are received piece by piece. The texts are the same.
        concurrency: Most requests under way at once, >= 1.
        revision: What fixes the weights (a commit, a digest); takes the place of the address in the identity.
        options: Patience, further fields, and a tokenizer.

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
        self._endpoint = Endpoint(base_url, self._options.timeout, self._options.retries)
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

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (
            self._model,
            {
                "base_url": self._endpoint.base_url,
                "context_length": self._given_length,
                "stream": self._stream,
                "concurrency": self._concurrency,
                "revision": self._revision,
                "options": self._options,
            },
        )

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

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and reply together, as given or as the server says.

        Raises:
            UserError: If it was not given and the server does not say.
        """
        if self._context_length is None:
            self._context_length = _served_length(self._endpoint, self._model)
        return self._context_length

    def chat(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """Answer the requests, in their order.

        A finish reason other than `length` counts as `stop` (a content filter too); a reply without content is the
        empty text. What a server puts elsewhere (reasoning) is not part of the text.

        Raises:
            UserError: If the key, the model's name or the address is refused.
            RunError: If a prompt is too long, or the server cannot be reached or fails. No further request is begun
                then; the message says how many were answered.
        """
        return self.chat_each(requests, _ignore)

    def chat_each(self, requests: Sequence[ChatRequest], done: Callable[[int, ChatReply], None]) -> list[ChatReply]:
        """Answer the requests as `chat` does, and hand over each reply as soon as it is there.

        Args:
            requests: n requests.
            done: Called with (index of the request, its reply).
        """
        if not requests:
            return []
        return run_coroutine(self._chat_all(requests, done))

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of the messages, rendered with the model's own chat template.

        The server is asked: vLLM's `/tokenize`, llama.cpp's `/apply-template` and `/tokenize`. With a tokenizer on
        disk (`ServerOptions.tokenizer`) nobody is asked. Counts are remembered.

        Raises:
            UserError: If the server counts no tokens and no tokenizer was given.
        """
        key = digest(_turns(messages), 32)
        if key not in self._counts:
            counted = self._tokenizer.count(messages) if self._tokenizer else self._count(_turns(messages))
            self._counts[key] = counted
        return self._counts[key]

    def _count(self, turns: list[dict[str, str]]) -> int:
        tokens = _vllm_tokens(self._endpoint, self._model, turns)
        if tokens is None:
            tokens = _llama_tokens(self._endpoint, turns)
        if tokens is None:
            raise UserError(
                f"{self._endpoint.base_url} does not count tokens.",
                f"{_ELSEWHERE}, or use vLLM or llama.cpp's server.",
            )
        return tokens

    async def _chat_all(
        self, requests: Sequence[ChatRequest], done: Callable[[int, ChatReply], None]
    ) -> list[ChatReply]:
        gate = asyncio.Semaphore(self._concurrency)
        failures: dict[int, PersonalLLMError] = {}
        replies: dict[int, ChatReply] = {}

        async def answer(i: int) -> None:
            async with gate:
                if failures:
                    return
                try:
                    replies[i] = await self._answer(client, requests[i])
                    done(i, replies[i])
                except PersonalLLMError as error:
                    failures[i] = error

        async with self._endpoint.client() as client:
            await asyncio.gather(*map(answer, range(len(requests))))
        if failures:
            raise _of_batch(failures, len(replies), len(requests)) from None
        return [replies[i] for i in range(len(requests))]

    async def _answer(self, client: Any, request: ChatRequest) -> ChatReply:
        """Return one reply; a broken one is asked for again, as the client does with refused requests."""
        failed = openai_sdk().OpenAIError
        for attempt in range(self._options.retries + 1):
            try:
                return await self._ask(client, request)
            except BrokenReply as error:
                if attempt == self._options.retries:
                    raise RunError(
                        f"{self._endpoint.base_url} gave no usable reply, {attempt + 1} times in a row: "
                        f"{self._endpoint.scrub(error.message)}.",
                        "See the server's own log.",
                    ) from None
            except failed as error:
                raise self._endpoint.failure(error, self._model) from None
            await asyncio.sleep(back_off(attempt))
        raise AssertionError("unreachable")

    async def _ask(self, client: Any, request: ChatRequest) -> ChatReply:
        knobs: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if self._stream else {}
        further = {"top_k": request.top_k} if request.top_k else {}
        try:
            answer = await client.chat.completions.create(
                model=self._model,
                messages=_turns(request.messages),
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                extra_body={**self._options.extra, **further},
                **knobs,
            )
        except ValueError as error:
            raise BrokenReply(f"it is not JSON ({error})") from None
        return await _streamed(answer) if self._stream else _whole(answer)


def _whole(answer: Any) -> ChatReply:
    """Turn a completion into a reply."""
    choices = getattr(answer, "choices", None)
    if not choices:
        raise BrokenReply("it has no choices" if hasattr(answer, "choices") else "it is not a chat completion")
    message = choices[0].message
    return _reply((message.content if message else None) or "", choices[0].finish_reason, answer.usage)


async def _streamed(answer: Any) -> ChatReply:
    """Gather the pieces of a streamed completion."""
    sdk = openai_sdk()
    pieces: list[str] = []
    reason = usage = None
    try:
        async with answer:
            async for chunk in answer:
                usage = chunk.usage or usage
                for choice in chunk.choices or ():
                    if choice.index:
                        continue
                    if choice.delta and choice.delta.content:
                        pieces.append(choice.delta.content)
                    reason = choice.finish_reason or reason
    except (sdk.APIError, ValueError) as error:
        raise BrokenReply(f"the stream broke off ({error})") from None
    if reason is None:
        raise BrokenReply("the stream ended before the reply did")
    return _reply("".join(pieces), reason, usage)


def _reply(text: str, reason: str | None, usage: Any) -> ChatReply:
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        raise BrokenReply("it does not say how many tokens were used")
    kind: Literal["stop", "length"] = "length" if reason in _CUT else "stop"
    return ChatReply(text.strip(), kind, int(usage.prompt_tokens), int(usage.completion_tokens))


def _of_batch(failures: Mapping[int, PersonalLLMError], answered: int, n: int) -> PersonalLLMError:
    """Return the first failure of a batch, with how much of the batch had been answered."""
    first = min(failures)
    error = failures[first]
    if n == 1:
        return error
    family = UserError if isinstance(error, UserError) else RunError
    return family(f"Request {first + 1} of {n} failed ({answered} were answered): {error.message}", error.remedy)


def _served_length(endpoint: Endpoint, model: str) -> int:
    """Ask the server for its context length: vLLM, OpenRouter, llama.cpp, in turn."""
    status, listed = endpoint.fetch(f"{endpoint.base_url}/models")
    data = listed.get("data") if status == 200 and isinstance(listed, dict) else None
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    mine = next((entry for entry in entries if entry.get("id") == model), entries[0] if len(entries) == 1 else {})
    status, props = endpoint.fetch(f"{endpoint.root}/props")
    settings = props.get("default_generation_settings") if status == 200 and isinstance(props, dict) else None
    for holder, key in (
        (mine, "max_model_len"),
        (mine, "context_length"),
        (settings, "n_ctx"),
        (mine.get("meta"), "n_ctx"),
    ):
        length = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(length, int) and length > 0:
            return length
    raise UserError(
        f"{endpoint.base_url} does not say how many tokens {model!r} can read.",
        "Give context_length (the command line's --context-length).",
    )


def _vllm_tokens(endpoint: Endpoint, model: str, turns: list[dict[str, str]]) -> int | None:
    """Count with vLLM's tokenizer, which renders the chat by itself; None if the server has no such thing."""
    said = _asked(endpoint, "/tokenize", {"model": model, "messages": turns})
    count = said.get("count")
    return count if isinstance(count, int) else None


def _llama_tokens(endpoint: Endpoint, turns: list[dict[str, str]]) -> int | None:
    """Count with llama.cpp's template and tokenizer; None if the server has no such thing.

    The tokenizer adds the begin-of-sequence token that the rendered template leaves to it, so there is exactly one.
    """
    prompt = _asked(endpoint, "/apply-template", {"messages": turns}).get("prompt")
    if not isinstance(prompt, str):
        return None
    body = {"content": prompt, "add_special": True, "parse_special": True}
    tokens = _asked(endpoint, "/tokenize", body).get("tokens")
    return len(tokens) if isinstance(tokens, list) else None


def _asked(endpoint: Endpoint, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return what a server says; nothing if it does not know the path."""
    status, said = endpoint.fetch(endpoint.root + path, body)
    if status == 200:
        return said if isinstance(said, dict) else {}
    if status in (400, 413, 422):
        words = endpoint.scrub(str(said))
        raise UserError(f"{endpoint.root}{path} refused to count tokens: {words}.", f"{_ELSEWHERE}.")
    if status in (408, 409, 429) or (status >= 500 and status != 501):
        raise RunError(f"{endpoint.root}{path} failed: status {status}.", "See the server's own log.")
    return {}


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return the messages as the protocol has them; what is no valid Unicode (a lone surrogate) becomes `?`."""
    return [{"role": m.role, "content": m.content.encode("utf-8", "replace").decode()} for m in messages]


def _ignore(index: int, reply: ChatReply) -> None:
    del index, reply


def _restore(model: str, fields: dict[str, Any]) -> OpenAIChatModel:
    return OpenAIChatModel(model, **fields)
