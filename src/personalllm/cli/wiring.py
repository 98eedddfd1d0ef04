"""From names to backends, for the command line; nothing is downloaded here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from personalllm.errors import MissingExtra, ModelFileError, PluginError, UserError
from personalllm.protocols import ChatModel, RewardEnsemble, TextEmbedder
from personalllm.registry import load_object
from personalllm.types import JSON

__all__ = ["DEFAULT_EMBEDDER", "DEFAULT_LLM", "build_embedder", "build_llm", "build_rewards", "optional_embedder"]

DEFAULT_EMBEDDER = "minilm-l6-int8"
DEFAULT_LLM = "smollm2-135m-instruct"


def build_embedder(name: str = DEFAULT_EMBEDDER) -> TextEmbedder:
    """Return an embedder, its vectors cached on disk.

    Args:
        name: `minilm-l6-int8`, or `module:factory` for your own (called without arguments).

    Raises:
        ModelFileError: If its files are not in the cache; the remedy is the command that gets them.
        UserError: If there is no such embedder.
    """
    from personalllm.backends.embedding import CachedEmbedder, default_embedder

    if ":" in name:
        return CachedEmbedder(_own(name, "embedder", TextEmbedder))
    if name != DEFAULT_EMBEDDER:
        raise UserError(
            f"There is no embedder named {name!r}.", f"Use {DEFAULT_EMBEDDER}, or module:factory for your own."
        )
    return default_embedder()


def optional_embedder(name: str = DEFAULT_EMBEDDER) -> TextEmbedder | None:
    """Return an embedder if its files are here, else None: for runs that can do without."""
    try:
        return build_embedder(name)
    except (ModelFileError, MissingExtra):
        return None


def build_llm(name: str = DEFAULT_LLM) -> ChatModel:
    """Return a chat model.

    Args:
        name: A chat model of `personalllm models list`, or `module:factory` for your own (called without arguments).

    Raises:
        ModelFileError: If its file is not in the cache; the remedy is the command that gets it.
        MissingExtra: If the runtime is not installed.
    """
    if ":" in name:
        model: ChatModel = _own(name, "chat model", ChatModel)
        return model
    from personalllm.backends.llm import LocalChatModel

    return LocalChatModel(name)


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
