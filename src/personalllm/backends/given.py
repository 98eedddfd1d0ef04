"""Turn what a user hands over - a name, an object, a function - into a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from personalllm.backends.names import DEFAULT_EMBEDDER, DEFAULT_LLM, build_embedder, build_llm, build_rewards, checked
from personalllm.core.errors import ParameterError, UserError
from personalllm.core.protocols import ChatModel, Executor, RewardEnsemble, TextEmbedder

__all__ = ["chat_model", "embedder", "executor", "reward_ensemble"]


def embedder(given: object = DEFAULT_EMBEDDER, *, identity: str = "", base_url: str | None = None) -> TextEmbedder:
    """Return an embedder from its name, from an object, or from a function.

    Args:
        given: `minilm-l6-int8`, a plugin's name, `openai:MODEL`, `module:factory`; an object of the protocol
            `TextEmbedder`; a function from a list of n texts to an array (n, dim); or an object with such a function
            `encode`, e.g. a `SentenceTransformer`. Rows of functions are scaled to unit length, `v / |v|`.
        identity: For a function, and required there: a text that changes whenever the vectors could, e.g. the model's
            name and revision. Vectors are cached on disk under it.
        base_url: Address of the server for `openai:MODEL`; `$OPENAI_BASE_URL` if None.

    Raises:
        UserError: If there is no embedder of that name, or the object is none; the remedy says how to wrap it.

    >>> embedder(lambda texts: [[len(text), 1.0] for text in texts], identity="length v1").identity
    'length v1'
    """
    from personalllm.backends.embedding import CachedEmbedder
    from personalllm.backends.functions import FunctionEmbedder

    if isinstance(given, str):
        _refuse_identity(given, identity)
        return build_embedder(given, base_url)
    if isinstance(given, TextEmbedder) and not isinstance(given, type):
        _refuse_identity(given, identity)
        return cast("TextEmbedder", checked(given, "embedder", TextEmbedder))
    encode = getattr(given, "encode", None)
    function = _function(given if encode is None else encode, given, "embedder", TextEmbedder, identity)
    return CachedEmbedder(FunctionEmbedder(function, identity, owner=given))


def chat_model(
    given: object = DEFAULT_LLM,
    *,
    identity: str = "",
    context_length: int | None = None,
    count_tokens: Callable[[list[dict[str, str]]], int] | None = None,
    **settings: Any,
) -> ChatModel:
    """Return a chat model from its name, from an object, or from a function.

    Args:
        given: The name of a local model or of a plugin, `openai:MODEL`, `vllm:MODEL`, `module:factory`; an object of
            the protocol `ChatModel`; or a function from messages (`[{"role": "user", "content": "..."}]`) to the text
            of the reply. A function is also given those of `max_tokens`, `temperature`, `top_p`, `top_k` and `seed`
            that it has as parameters.
        identity: For a function, and required there: a text that changes whenever the replies could.
        context_length: Maximum tokens of prompt and reply together; 8192 for a function if None.
        count_tokens: For a function: from messages to their number of tokens; if None it is estimated as one token
            for three bytes of UTF-8, which is too many rather than too few for English.
        settings: Of named models, see `personalllm.backends.names.build_llm`: `base_url`, `stream`, `concurrency`,
            `revision`, `cache`.

    Raises:
        UserError: If there is no chat model of that name, or the object is none; the remedy says how to wrap it.

    >>> from personalllm.core.types import ChatRequest, Message
    >>> model = chat_model(lambda messages: messages[-1]["content"].upper(), identity="shout v1")
    >>> model.chat([ChatRequest((Message("user", "hello"),))])[0].text
    'HELLO'
    """
    from personalllm.backends.functions import FunctionChatModel

    if isinstance(given, str):
        _refuse_identity(given, identity)
        return build_llm(given, context_length=context_length, **settings)
    if settings:
        raise UserError(f"{', '.join(sorted(settings))} only apply to a chat model's name.", "Leave them out.")
    if isinstance(given, ChatModel) and not isinstance(given, type):
        _refuse_identity(given, identity)
        return cast("ChatModel", checked(given, "chat model", ChatModel))
    function = _function(given, given, "chat model", ChatModel, identity)
    return FunctionChatModel(function, identity, 8192 if context_length is None else context_length, count_tokens)


def reward_ensemble(
    given: object,
    *,
    names: Sequence[str] = (),
    identity: str = "",
    embedder: TextEmbedder | None = None,
) -> RewardEnsemble:
    """Return a reward ensemble from its name, from an object, or from a function.

    Args:
        given: `compact-v1`, `compact-v2`, `published`, a published reward model, a list of them, a plugin's name, a
            safetensors file, `module:factory`; an object of the protocol `RewardEnsemble`; or a function from n prompts
            and n responses to scores (n, n_reward_models), or (n,) if there is one reward model.
        names: For a function: the reward models, in the order of the columns.
        identity: For a function, and required there: a text that changes whenever the scores could.
        embedder: Shared with a named ensemble that reads its vectors.

    Raises:
        UserError: If there is no reward ensemble of that name, or the object is none; the remedy says how to wrap it.

    >>> ensemble = reward_ensemble(lambda prompts, responses: [len(r) for r in responses], names=["long"], identity="1")
    >>> ensemble.score(["a prompt"], ["four"])
    array([[4.]], dtype=float32)
    """
    from personalllm.backends.functions import FunctionEnsemble

    if isinstance(given, str) or (isinstance(given, Sequence) and all(isinstance(name, str) for name in given)):
        _refuse_identity(given, identity)
        return build_rewards({}, embedder, given)
    if isinstance(given, RewardEnsemble) and not isinstance(given, type):
        _refuse_identity(given, identity)
        return cast("RewardEnsemble", checked(given, "reward ensemble", RewardEnsemble))
    function = _function(given, given, "reward ensemble", RewardEnsemble, identity)
    if not names or len(set(names)) < len(names):
        raise ParameterError("names", "the names of the reward models, each once", list(names))
    return FunctionEnsemble(function, tuple(names), identity)


def executor(given: object = "serial") -> Executor:
    """Return an executor from its name (`serial`, `processes:4`, `ray:ADDRESS`) or from an object.

    Raises:
        UserError: If there is no executor of that name, or the object has no `map`.

    >>> executor("processes:2")
    ProcessExecutor(n_workers=2, max_retries=3)
    """
    from personalllm.backends.executor import build_executor

    if isinstance(given, str):
        return build_executor(given)
    if isinstance(given, Executor) and not isinstance(given, type):
        return given
    raise UserError(
        f"An executor is needed, got {_described(given)}.",
        "Pass a name such as 'processes:4', or an object with `map(function, units)` "
        "(see personalllm.core.protocols.Executor).",
    )


def _function(function: object, given: object, kind: str, protocol: type, identity: str) -> Callable[..., Any]:
    """Return the function if it can be wrapped.

    Raises:
        UserError: If it cannot be called, is a class, or has no identity.
    """
    builder = f"personalllm.backends.{kind.replace(' ', '_')}"
    if isinstance(given, type) or not callable(function):
        instance = f" Create an instance first: {given.__name__}(...)." if isinstance(given, type) else ""
        members = ", ".join(sorted(n for n in vars(protocol) if not n.startswith("_")))
        raise UserError(
            f"A name, an object or a function is needed as {kind}, got {_described(given)}.",
            f"An object needs: {members} (see personalllm.core.protocols.{protocol.__name__}).{instance}",
        )
    if not identity.strip():
        names = ", names=[...]" if protocol is RewardEnsemble else ""
        raise UserError(
            f"The identity of {_described(given)} is not known, and results are filed under it.",
            f'Wrap it: {builder}(..., identity="a text that changes whenever the output could"{names})',
        )
    return function


def _refuse_identity(given: object, identity: str) -> None:
    if identity:
        raise UserError(f"identity= is for functions; {_described(given)} has its own.", "Leave it out.")


def _described(given: object) -> str:
    """Return what was given, for a message, without an address in memory."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    if isinstance(given, (str, int, float, list, tuple)):
        return repr(given)
    name = getattr(given, "__name__", "")
    return f"the function {name}" if name else f"an object of type {type(given).__name__}"
