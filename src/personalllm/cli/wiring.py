"""From names to backends, for the command line; nothing is downloaded here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from personalllm.errors import MissingExtra, ModelFileError, PluginError, UserError
from personalllm.protocols import ChatModel, RewardEnsemble, TextEmbedder
from personalllm.registry import load_object
from personalllm.types import JSON

__all__ = ["DEFAULT_EMBEDDER", "DEFAULT_LLM", "build_embedder", "build_llm", "build_rewards", "optional_embedder"]

DEFAULT_EMBEDDER = "minilm-l6-int8"
DEFAULT_LLM = "smollm2-135m-instruct"
_SERVED = "openai:"


def build_embedder(name: str = DEFAULT_EMBEDDER, base_url: str | None = None) -> TextEmbedder:
    """Return an embedder, its vectors cached on disk.

    Args:
        name: `minilm-l6-int8`, `openai:MODEL` for a server, or `module:factory` for your own (called without
            arguments).
        base_url: Address of the server for `openai:MODEL`; `$OPENAI_BASE_URL` if None.

    Raises:
        ModelFileError: If its files are not in the cache; the remedy is the command that gets them.
        UserError: If there is no such embedder, or no address was given for a server.
    """
    from personalllm.backends.embedding import CachedEmbedder, OpenAIEmbedder, default_embedder

    if name.startswith(_SERVED):
        return CachedEmbedder(OpenAIEmbedder(name.removeprefix(_SERVED), _address(name, base_url)))
    if ":" in name:
        return CachedEmbedder(_own(name, "embedder", TextEmbedder))
    if name != DEFAULT_EMBEDDER:
        raise UserError(
            f"There is no embedder named {name!r}.",
            f"Use {DEFAULT_EMBEDDER}, openai:MODEL for a server, or module:factory for your own.",
        )
    return default_embedder()


def optional_embedder(name: str = DEFAULT_EMBEDDER) -> TextEmbedder | None:
    """Return an embedder if its files are here, else None: for runs that can do without."""
    try:
        return build_embedder(name)
    except (ModelFileError, MissingExtra):
        return None


def build_llm(
    name: str = DEFAULT_LLM,
    *,
    base_url: str | None = None,
    stream: bool = False,
    context_length: int | None = None,
    concurrency: int | None = None,
    revision: str | None = None,
    cache: bool = True,
) -> ChatModel:
    """Return a chat model, its replies cached on disk.

    Replies of your own factory are not cached: only its author knows whether its identity tells two models apart. For a
    server without a tokenizer of its own, `$PERSONALLLM_TOKENIZER` names the folder of one.

    Args:
        name: A chat model of `personalllm models list`, `openai:MODEL` for a server, or `module:factory` for your own
            (called without arguments).
        base_url: Address of the server for `openai:MODEL`; `$OPENAI_BASE_URL` if None.
        stream: Whether a server's replies are received piece by piece.
        context_length: Most tokens of prompt and reply together; asked of a server, 4096 for a local model, if None.
        concurrency: Most requests under way at once: of a server (8 if None), or the local model's workers.
        revision: What fixes a server's weights, for the identity.
        cache: Whether replies are kept in, and taken from, the folder `replies` of the cache. Set it to False for a
            check that a model is deterministic.

    Raises:
        ModelFileError: If its file is not in the cache; the remedy is the command that gets it.
        MissingExtra: If the runtime is not installed.
        UserError: If no address was given for a server, or a server's settings for another model.
    """
    from personalllm.backends.llm import CachedChatModel, LocalChatModel

    if name.startswith(_SERVED):
        model: ChatModel = _served_llm(
            name,
            base_url,
            stream=stream,
            context_length=context_length,
            concurrency=concurrency,
            revision=revision,
        )
        return CachedChatModel(model) if cache else model
    given = {"base_url": base_url, "stream": stream, "revision": revision}
    _refuse([setting for setting, value in given.items() if value], name, "a server, openai:MODEL")
    if ":" in name:
        sizes = {"context_length": context_length, "concurrency": concurrency}
        _refuse([setting for setting, value in sizes.items() if value is not None], name, "a named model or a server")
        own: ChatModel = _own(name, "chat model", ChatModel)
        return own
    model = LocalChatModel(name, workers=concurrency, context_length=4096 if context_length is None else context_length)
    return CachedChatModel(model) if cache else model


def _refuse(settings: Sequence[str], name: str, kind: str) -> None:
    """Raise if settings were given that a model would ignore."""
    if settings:
        raise UserError(f"{', '.join(settings)} only apply to {kind}; {name!r} is none.", "Leave them out.")


def _served_llm(
    name: str,
    base_url: str | None,
    *,
    stream: bool,
    context_length: int | None,
    concurrency: int | None,
    revision: str | None,
) -> ChatModel:
    from personalllm.backends.llm import OpenAIChatModel, ServerOptions

    return OpenAIChatModel(
        name.removeprefix(_SERVED),
        base_url=_address(name, base_url),
        context_length=context_length,
        stream=stream,
        concurrency=8 if concurrency is None else concurrency,
        revision=revision,
        options=ServerOptions(tokenizer=os.environ.get("PERSONALLLM_TOKENIZER") or None),
    )


def _address(name: str, base_url: str | None) -> str:
    """Return the address of a server, given or from the environment; there is no default, so nothing is sent away."""
    address = base_url or os.environ.get("OPENAI_BASE_URL", "")
    if not address:
        raise UserError(
            f"{name!r} is behind a server whose address is not known.",
            "Give --base-url or set OPENAI_BASE_URL, e.g. http://127.0.0.1:8000/v1 (vLLM) or "
            "http://127.0.0.1:11434/v1 (Ollama).",
        )
    return address


def build_rewards(metadata: JSON, embedder: TextEmbedder | None = None, name: str | None = None) -> RewardEnsemble:
    """Return the reward ensemble that scored a benchmark.

    Args:
        metadata: Of the benchmark; its key `reward_ensemble` names the ensemble.
        embedder: Shared with the ensemble if it is the default one.
        name: Instead of the metadata's: a shipped ensemble, a safetensors file, or `module:factory`.

    Raises:
        UserError: If neither the metadata nor `name` names one.
        ModelFileError: If the embedder's files are not in the cache.
    """
    wanted = name or metadata.get("reward_ensemble")
    if not wanted:
        raise UserError(
            "The benchmark does not say which reward ensemble scored it, so new text cannot be scored.",
            "Name it with --rewards (e.g. compact-v1), or use the rank track, which needs none.",
        )
    wanted = str(wanted)
    if ":" in wanted:
        ensemble: RewardEnsemble = _own(wanted, "reward ensemble", RewardEnsemble)
        return ensemble
    from personalllm.backends.reward import CompactEnsemble

    if embedder is None or embedder.name != DEFAULT_EMBEDDER:
        embedder = build_embedder()
    return CompactEnsemble.load(wanted, embedder)


def _own(reference: str, kind: str, protocol: Any) -> Any:
    """Call the factory that `module:factory` names and check what it returns."""
    backend = load_object(reference)()
    if not isinstance(backend, protocol):
        wanted: Sequence[str] = sorted(n for n in vars(protocol) if not n.startswith("_"))
        raise PluginError(
            f"{reference!r} returned a {type(backend).__name__}, which is no {kind}.",
            f"It needs: {', '.join(wanted)} (see personalllm.protocols.{protocol.__name__}).",
        )
    return backend
