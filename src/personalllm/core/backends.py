"""Resolve `embedder=`, `llm=`, `rewards=` and `executor=`, which take a name or an object.

Rooms that must not import the backends (evaluation, methods) reach them through these references.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, overload

from personalllm.core.protocols import ChatModel, Executor, RewardEnsemble, TextEmbedder
from personalllm.core.registry import load_object

__all__ = ["BackendKind", "backend"]

BackendKind: TypeAlias = Literal["embedder", "chat model", "reward ensemble", "executor"]

_BUILDERS = {
    "embedder": "personalllm.backends.given:embedder",
    "chat model": "personalllm.backends.given:chat_model",
    "reward ensemble": "personalllm.backends.given:reward_ensemble",
    "executor": "personalllm.backends.given:executor",
}


@overload
def backend(kind: Literal["embedder"], given: object) -> TextEmbedder | None: ...
@overload
def backend(kind: Literal["chat model"], given: object) -> ChatModel | None: ...
@overload
def backend(kind: Literal["reward ensemble"], given: object) -> RewardEnsemble | None: ...
@overload
def backend(kind: Literal["executor"], given: object) -> Executor | None: ...


def backend(kind: BackendKind, given: object) -> Any:
    """Return the backend that a name refers to, or the object itself if it can do what its kind needs.

    Args:
        kind: What it is to be.
        given: A name (see `personalllm.backends.embedder` and its neighbours), an object of the protocol, or None.

    Returns:
        The backend; None if `given` is None.

    Raises:
        UserError: If there is no backend of that name, or the object is none; a plain function is refused with the
            call that wraps it.
    """
    return None if given is None else load_object(_BUILDERS[kind])(given)
