"""Read what a server returns: completions, streamed or not, its context length, token counts."""

from __future__ import annotations

from typing import Any, Literal

from personalllm.backends.endpoint import ODD, BrokenReply, Endpoint, openai_sdk
from personalllm.core.errors import RunError, UserError
from personalllm.core.types import ChatReply

__all__ = ["ELSEWHERE", "complete", "llama_tokens", "served_length", "streamed", "vllm_tokens"]

_ODD_SHAPE = "it is not a chat completion"
_CUT = ("length", "max_tokens", "model_length")

ELSEWHERE = (
    "Give the folder of the model's tokenizer.json and chat template (environment variable PERSONALLLM_TOKENIZER)"
)


def complete(answer: Any) -> ChatReply:
    """Turn a completion into a reply.

    Raises:
        BrokenReply: If it is no completion.
    """
    try:
        return _complete(answer)
    except ODD as error:
        raise BrokenReply(_ODD_SHAPE) from error


def _complete(answer: Any) -> ChatReply:
    choices = getattr(answer, "choices", None)
    if not choices:
        raise BrokenReply("it has no choices" if hasattr(answer, "choices") else _ODD_SHAPE)
    message, reason = choices[0].message, choices[0].finish_reason
    if reason == "error":
        raise BrokenReply("the server broke it off")
    refused = bool(getattr(message, "refusal", None))
    return _reply((message.content if message else None) or "", reason, answer.usage, refused=refused)


async def streamed(answer: Any) -> ChatReply:
    """Gather the pieces of a streamed completion.

    Raises:
        BrokenReply: If the stream breaks off, or is none of a chat completion.
    """
    sdk = openai_sdk()
    pieces: list[str] = []
    reason = usage = None
    refused = False
    try:
        async with answer:
            async for chunk in answer:
                usage = chunk.usage or usage
                for choice in chunk.choices or ():
                    if choice.index:
                        continue
                    if choice.delta and choice.delta.content:
                        pieces.append(choice.delta.content)
                    refused = refused or bool(getattr(choice.delta, "refusal", None))
                    reason = choice.finish_reason or reason
        if reason is None or reason == "error":
            raise BrokenReply("the stream ended before the reply did")
        return _reply("".join(pieces), reason, usage, refused=refused)
    except (sdk.APIError, ValueError) as error:
        raise BrokenReply(f"the stream broke off ({error})") from None
    except ODD as error:
        raise BrokenReply(_ODD_SHAPE) from error


def _reply(text: str, reason: str | None, usage: Any, *, refused: bool) -> ChatReply:
    refusal = "content_filter" if reason == "content_filter" else "refusal" if refused else ""
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        raise BrokenReply("it does not say how many tokens were used")
    kind: Literal["stop", "length"] = "length" if reason in _CUT else "stop"
    cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None) or 0
    return ChatReply(text.strip(), kind, int(usage.prompt_tokens), int(usage.completion_tokens), int(cached), refusal)


def served_length(endpoint: Endpoint, model: str) -> int:
    """Query the server for its context length: vLLM, OpenRouter, llama.cpp, in turn."""
    status, listed = endpoint.fetch(f"{endpoint.base_url}/models")
    data = listed.get("data") if status == 200 and isinstance(listed, dict) else None
    entries = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
    entry = next((item for item in entries if item.get("id") == model), entries[0] if len(entries) == 1 else {})
    status, props = endpoint.fetch(f"{endpoint.root}/props")
    settings = props.get("default_generation_settings") if status == 200 and isinstance(props, dict) else None
    for holder, key in (
        (entry, "max_model_len"),
        (entry, "context_length"),
        (settings, "n_ctx"),
        (entry.get("meta"), "n_ctx"),
    ):
        length = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(length, int) and length > 0:
            return length
    raise UserError(
        f"{endpoint.base_url} does not say how many tokens {model!r} can read.",
        "Give context_length (the command line's --context-length).",
    )


def vllm_tokens(endpoint: Endpoint, model: str, turns: list[dict[str, str]]) -> int | None:
    """Count with vLLM's tokenizer, which renders the chat by itself; None if the server has no such thing."""
    answer = _post(endpoint, "/tokenize", {"model": model, "messages": turns})
    count = answer.get("count")
    return count if isinstance(count, int) else None


def llama_tokens(endpoint: Endpoint, turns: list[dict[str, str]]) -> int | None:
    """Count with llama.cpp's template and tokenizer; None if the server has no such thing.

    The tokenizer adds the begin-of-sequence token that the rendered template leaves to it, so there is exactly one.
    """
    prompt = _post(endpoint, "/apply-template", {"messages": turns}).get("prompt")
    if not isinstance(prompt, str):
        return None
    body = {"content": prompt, "add_special": True, "parse_special": True}
    tokens = _post(endpoint, "/tokenize", body).get("tokens")
    return len(tokens) if isinstance(tokens, list) else None


def _post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return a server's answer; an empty one if it does not know the path."""
    status, answer = endpoint.fetch(endpoint.root + path, body)
    if status == 200:
        return answer if isinstance(answer, dict) else {}
    if status in (400, 413, 422):
        words = endpoint.scrub(str(answer))
        raise UserError(f"{endpoint.root}{path} refused to count tokens: {words}.", f"{ELSEWHERE}.")
    if status in (408, 409, 429) or (status >= 500 and status != 501):
        raise RunError(f"{endpoint.root}{path} failed: status {status}.", "See the server's own log.")
    return {}
