"""Build embedders, chat models and reward ensembles from their names; nothing is downloaded here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from personalllm.core.errors import MissingExtra, ModelFileError, PersonalLLMError, PluginError, UnknownName, UserError
from personalllm.core.protocols import ChatModel, RewardEnsemble, TextEmbedder
from personalllm.core.registry import Registry
from personalllm.core.types import JSON

if TYPE_CHECKING:
    from personalllm.backends.llm import ServerOptions

__all__ = [
    "DEFAULT_EMBEDDER",
    "DEFAULT_LLM",
    "build_embedder",
    "build_llm",
    "build_rewards",
    "called",
    "check_chat_model_name",
    "checked",
    "checked_backend",
    "optional_embedder",
]

DEFAULT_EMBEDDER = "minilm-l6-int8"
DEFAULT_LLM = "smollm2-135m-instruct"
_SERVED = "openai:"
_OFFLINE_ENGINE = "vllm:"


def build_embedder(name: str = DEFAULT_EMBEDDER, base_url: str | None = None) -> TextEmbedder:
    """Return an embedder, its vectors cached on disk.

    Args:
        name: `minilm-l6-int8`, the name of a plugin, `openai:MODEL` for a server, or `module:factory` for your own
            (called without arguments).
        base_url: Address of the server for `openai:MODEL`; `$OPENAI_BASE_URL` if None.

    Raises:
        ModelFileError: If its files are not in the cache; the remedy is the command that gets them.
        UserError: If there is no such embedder, or no address was given for a server.
        PluginError: If a plugin or your own does not load, or makes no embedder.
    """
    from personalllm.backends.embedding import CachedEmbedder, OpenAIEmbedder, default_embedder
    from personalllm.backends.registry import EMBEDDERS

    if name.startswith(_SERVED):
        return CachedEmbedder(OpenAIEmbedder(name.removeprefix(_SERVED), _address(name, base_url)))
    if ":" in name or EMBEDDERS.is_plugin(name):
        return CachedEmbedder(_from_plugin(name, EMBEDDERS, TextEmbedder))
    if name != DEFAULT_EMBEDDER:
        raise UserError(
            f"There is no embedder named {name!r}.",
            f"Use {', '.join(EMBEDDERS)}, openai:MODEL for a server, or module:factory for your own.",
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
    options: ServerOptions | None = None,
    cache: bool = True,
) -> ChatModel:
    """Return a chat model, its replies cached on disk.

    Replies of a plugin or of your own factory are not cached: only its author knows whether its identity tells two
    models apart. For a server without a tokenizer of its own, `$PERSONALLLM_TOKENIZER` names the folder of one.

    Args:
        name: A chat model of `personalllm models list`, the name of a plugin, `openai:MODEL` for a server,
            `vllm:MODEL` for vLLM in this process, or `module:factory` for your own (called without arguments).
        base_url: Address of the server for `openai:MODEL`; `$OPENAI_BASE_URL` if None.
        stream: Whether a server's replies are received piece by piece.
        context_length: Maximum tokens of prompt and reply together; if None, as the server or vLLM reports, 4096
            for a local model.
        concurrency: Maximum requests under way at once: of a server (8 if None), or the local model's workers.
        revision: What fixes the weights of a server or of vLLM, for the identity.
        options: Time limits, rate limits and the key of a server; without effect on other models.
        cache: Whether replies are kept in, and taken from, the folder `replies` of the cache. Set it to False for a
            check that a model is deterministic.

    Raises:
        ModelFileError: If its file is not in the cache; the remedy is the command that gets it.
        MissingExtra: If the runtime is not installed.
        UserError: If no address was given for a server, or a server's settings for another model.
        PluginError: If a plugin or your own does not load, or makes no chat model.
    """
    from personalllm.backends.llm import CachedChatModel, LocalChatModel, VLLMChatModel
    from personalllm.backends.registry import CHAT_MODELS

    check_chat_model_name(name)
    model: ChatModel
    if name.startswith(_SERVED):
        sizes = {"context_length": context_length, "concurrency": 8 if concurrency is None else concurrency}
        model = _served(name, base_url, options, stream=stream, revision=revision, **sizes)
        return CachedChatModel(model) if cache else model
    here = name.startswith(_OFFLINE_ENGINE)
    given = {"base_url": base_url, "stream": stream}
    other = {"concurrency": concurrency} if here else {"revision": revision}
    _refuse([setting for setting, value in (given | other).items() if value], name, "a server, openai:MODEL")
    if here:
        model = VLLMChatModel(name.removeprefix(_OFFLINE_ENGINE), revision=revision, context_length=context_length)
    elif ":" in name or CHAT_MODELS.is_plugin(name):
        sizes = {"context_length": context_length, "concurrency": concurrency}
        _refuse([setting for setting, value in sizes.items() if value is not None], name, "a named model or a server")
        plugin: ChatModel = _from_plugin(name, CHAT_MODELS, ChatModel)
        return plugin
    else:
        model = LocalChatModel(
            name, workers=concurrency, context_length=4096 if context_length is None else context_length
        )
    return CachedChatModel(model) if cache else model


def check_chat_model_name(name: str) -> None:
    """Raise unless a name can be that of a chat model; nothing is loaded, and `module:factory` is not imported.

    Raises:
        UserError: If it names a model of another kind.
        UnknownName: If nothing has that name; lists the nearest chat models and plug-ins.
    """
    from personalllm.backends.models import load_entries
    from personalllm.backends.registry import CHAT_MODELS

    if ":" in name or name in CHAT_MODELS:
        return
    kinds = {entry.name: entry.kind for entry in load_entries().values()}
    chat_models = {*CHAT_MODELS, *(other for other, kind in kinds.items() if kind == "chat")}
    if name in chat_models:
        return
    if name in kinds:
        what = {"embedder": "an embedder", "base": "a base model, without a chat template"}.get(
            kinds[name], kinds[name]
        )
        raise UserError(f"{name!r} is {what}, not a chat model.", f"Chat models: {', '.join(sorted(chat_models))}.")
    raise UnknownName("chat model", name, chat_models)


def _refuse(settings: Sequence[str], name: str, kind: str) -> None:
    """Raise if settings were given that a model would ignore."""
    if settings:
        raise UserError(f"{', '.join(settings)} only apply to {kind}; {name!r} is none.", "Leave them out.")


def _served(name: str, base_url: str | None, options: ServerOptions | None, **settings: Any) -> ChatModel:
    """Return the model behind a server, with the tokenizer of the environment if the options name none."""
    from personalllm.backends.llm import OpenAIChatModel, ServerOptions

    options = options or ServerOptions()
    options = replace(options, tokenizer=options.tokenizer or os.environ.get("PERSONALLLM_TOKENIZER") or None)
    address = _address(name, base_url)
    return OpenAIChatModel(name.removeprefix(_SERVED), base_url=address, options=options, **settings)


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


def build_rewards(
    metadata: JSON, embedder: TextEmbedder | None = None, name: str | Sequence[str] | None = None
) -> RewardEnsemble:
    """Return the reward ensemble that scored a benchmark.

    Args:
        metadata: Of the benchmark; its key `reward_ensemble` names the ensemble, or is a list of published models.
        embedder: Shared with the ensemble if it is the default one.
        name: Instead of the metadata's: a shipped ensemble, `published`, a published reward model or a list of
            them (see `load_rewards`), the name of a plugin, a safetensors file, or `module:factory`.

    Raises:
        UserError: If neither the metadata nor `name` names one, or there is none of that name.
        ModelFileError: If the embedder's files are not in the cache.
        PluginError: If a plugin or your own does not load, or makes no reward ensemble.
    """
    from personalllm.backends.registry import REWARD_ENSEMBLES
    from personalllm.backends.reward import is_published, load_rewards

    reference = name or metadata.get("reward_ensemble")
    if not reference:
        raise UserError(
            "The benchmark does not say which reward ensemble scored it, so new text cannot be scored.",
            "Name it with --rewards (e.g. compact-v2), or use the rank track, which needs none.",
        )
    if not isinstance(reference, str) or is_published(reference):
        return load_rewards(reference)
    if ":" in reference or REWARD_ENSEMBLES.is_plugin(reference):
        ensemble: RewardEnsemble = _from_plugin(reference, REWARD_ENSEMBLES, RewardEnsemble)
        return ensemble
    from personalllm.backends.reward import REWARD_MODELS, load_compact, shipped_ensembles

    if reference not in shipped_ensembles() and not reference.endswith(".safetensors"):
        raise UnknownName("reward ensemble", reference, {*REWARD_ENSEMBLES, *REWARD_MODELS})
    shared = embedder if embedder is not None and embedder.name == DEFAULT_EMBEDDER else None
    return load_compact(reference, lambda: shared or build_embedder())


def _from_plugin(reference: str, registry: Registry, protocol: Any) -> Any:
    """Build the object that a plugin's name or `module:factory` refers to, and check that it is of the kind."""
    return checked_backend(called(registry.load(reference), reference), reference, registry.kind, protocol)


def called(factory: Any, reference: str) -> Any:
    """Return what a class or function makes without arguments.

    Raises:
        PluginError: If it cannot be called so, or fails; says with what.
    """
    if not callable(factory):
        raise PluginError(
            f"{reference!r} is of the type {type(factory).__name__}, which cannot be called.",
            "Name a class or a function that takes no arguments and returns the object.",
        )
    try:
        return factory()
    except PersonalLLMError:
        raise
    except (Exception, SystemExit) as error:  # third-party code: any failure is reported under its name
        raise PluginError(
            f"{reference!r} was called without arguments and failed: {type(error).__name__}: {error}.",
            "Give every argument a default, or name a function without arguments that makes the object.",
        ) from error


def checked_backend(backend: Any, reference: str, kind: str, protocol: Any) -> Any:
    """Return the backend that a factory made, if it has all that its kind needs.

    Raises:
        PluginError: If a method or attribute is missing, or a name or the identity is empty.
    """
    if not isinstance(backend, protocol):
        members: Sequence[str] = sorted(n for n in vars(protocol) if not n.startswith("_"))
        missing = [name for name in members if name not in dir(backend)]
        raise PluginError(
            f"{reference!r} returned a {type(backend).__name__}, which is no {kind}.",
            f"It needs: {', '.join(members)} (see personalllm.core.protocols.{protocol.__name__}); "
            f"missing: {', '.join(missing)}.",
        )
    return checked(backend, kind, protocol, reference)


def checked(backend: Any, kind: str, protocol: Any, reference: str = "") -> Any:
    """Return an object of a protocol if its name and identity are texts: results are filed under them.

    Raises:
        PluginError: If one is empty, is no text, or fails.
    """
    where = repr(reference or type(backend).__name__)
    for name in ("identity", "name"):
        if name not in vars(protocol):
            continue
        try:
            value = getattr(backend, name)
        except PersonalLLMError:
            raise
        except Exception as error:  # third-party property: any failure is reported under its name
            raise PluginError(f"{where}: {name} fails: {type(error).__name__}: {error}.") from error
        if not isinstance(value, str) or not value.strip():
            raise PluginError(
                f"{where}: the {name} of this {kind} is {value!r}, not a text.",
                "Results are filed under it: return a text that changes whenever the output could.",
            )
    return backend
