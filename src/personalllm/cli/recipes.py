"""Build the backends that a recipe names, and report what is missing on this machine."""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from personalllm.core.errors import MissingExtra, PersonalLLMError, PluginError, UnknownName, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from personalllm.build import Recipe, ResponseModel
    from personalllm.core.protocols import ChatModel, RewardEnsemble, TextEmbedder

__all__ = [
    "chat_models_of",
    "check_names",
    "embedder_of",
    "ensemble_of",
    "missing",
    "n_absent",
    "reachable_chat_models",
    "refuse_missing",
]


def chat_models_of(recipe: Recipe) -> dict[str, ChatModel]:
    """Return the chat models of a recipe by the names that it uses; no request is made."""
    return {model.chat_model: _chat_model(model) for model in recipe.response_model}


def reachable_chat_models(recipe: Recipe) -> dict[str, ChatModel] | None:
    """Return the chat models of a recipe, or None if one of them is not set up on this machine."""
    try:
        models = chat_models_of(recipe)
        _ = [chat.identity for chat in models.values()]
    except PersonalLLMError:
        return None
    return models


def embedder_of(recipe: Recipe) -> TextEmbedder | None:
    """Return the embedder that compares the prompts, if the recipe uses one."""
    from personalllm.backends.names import build_embedder

    rule = recipe.prompts.near_duplicates
    return build_embedder(rule.embedder) if rule is not None and rule.method == "embedding" else None


def ensemble_of(recipe: Recipe) -> RewardEnsemble:
    """Return the reward models of a recipe."""
    from personalllm.backends.names import build_rewards

    return build_rewards({"reward_ensemble": recipe.reward_ensemble})


def n_absent(ensemble: RewardEnsemble, texts: Sequence[Sequence[str]]) -> int | None:
    """Return how many responses have no vector in the cache; None if the reward models keep no vectors.

    Where most have one, scoring is so fast that its speed does not carry over to new responses.
    """
    from personalllm.backends.embedding import CachedEmbedder

    embedder = getattr(ensemble, "embedder", None)
    if not isinstance(embedder, CachedEmbedder):
        return None
    flat = [text for row in texts for text in row]
    return len(flat) - len(set(flat)) + embedder.count_absent(flat)


def _chat_model(model: ResponseModel) -> ChatModel:
    from personalllm.backends.llm import ServerOptions
    from personalllm.backends.names import build_llm

    _check_chat_model(model)
    served = model.chat_model.startswith("openai:")
    settings = {
        "requests_per_minute": model.requests_per_minute or None,
        "tokens_per_minute": model.tokens_per_minute or None,
        "timeout": model.timeout,
        "api_key_env": model.api_key_env or None,
    }
    return build_llm(
        model.chat_model,
        base_url=_address(model) if served else None,
        concurrency=model.concurrency,
        revision=model.revision or None,
        options=ServerOptions(**{name: value for name, value in settings.items() if value is not None}),  # type: ignore[arg-type]
        cache=served,  # the working folder keeps the responses; requests to a server may cost money
    )


def _check_chat_model(model: ResponseModel) -> None:
    """Raise if a response model can run nowhere; nothing is loaded.

    Raises:
        UnknownName: If there is no chat model of the name.
        UserError: If a server has no address, or a setting has no effect.
    """
    from personalllm.backends.names import check_chat_model_name
    from personalllm.backends.registry import CHAT_MODELS

    name = model.chat_model
    check_chat_model_name(name)
    if name.startswith("openai:"):
        _address(model)
        return
    unused = ["base_url", "api_key_env", "timeout", "requests_per_minute", "tokens_per_minute"]
    unused += ["concurrency"] if name.startswith("vllm:") else ["revision"]
    if ":" in name or CHAT_MODELS.is_plugin(name):
        unused.append("concurrency")
    given = [setting for setting in dict.fromkeys(unused) if getattr(model, setting)]
    if given:
        raise UserError(
            f"Response model {model.name}: {', '.join(given)} has no effect on {name!r}.",
            'Leave it out of the recipe, or name a server with chat_model = "openai:MODEL".',
        )


def _address(model: ResponseModel) -> str:
    address = model.base_url or os.environ.get("OPENAI_BASE_URL", "")
    if not address:
        raise UserError(
            f"Response model {model.name}: the address of {model.chat_model!r} is unknown.",
            "Set base_url in the recipe, or the environment variable OPENAI_BASE_URL.",
        )
    return address


def check_names(recipe: Recipe, executor: str = "serial") -> None:
    """Raise if a recipe can run nowhere: an unknown name, a server without an address. Nothing is loaded.

    Raises:
        UserError: If a chat model, an embedder, a reward ensemble or an executor is unknown, a server has no address,
            or a setting has no effect.
    """
    from personalllm.backends.executor import build_executor

    for model in recipe.response_model:
        try:
            _check_chat_model(model)
        except UnknownName as error:
            raise UserError(f"Response model {model.name}: {error.message}", error.remedy) from None
    _check_ensemble_name(recipe)
    _check_embedder_name(recipe)
    if executor != "serial":
        build_executor(executor)
    if executor.partition(":")[0].partition(",")[0] == "ray" and find_spec("ray") is None:
        raise MissingExtra("ray", "ray")


def _check_ensemble_name(recipe: Recipe) -> None:
    from personalllm.backends.registry import REWARD_ENSEMBLES
    from personalllm.backends.reward import REWARD_MODELS, is_published, load_rewards

    name = recipe.reward_ensemble
    if not isinstance(name, str) or is_published(name):
        load_rewards(name)
    elif not (":" in name or name in REWARD_ENSEMBLES or Path(name).is_file()):
        raise UnknownName("reward ensemble", name, {*REWARD_ENSEMBLES, *REWARD_MODELS})


def _check_embedder_name(recipe: Recipe) -> None:
    from personalllm.backends.registry import EMBEDDERS

    rule = recipe.prompts.near_duplicates
    if rule is not None and rule.method == "embedding" and ":" not in rule.embedder and rule.embedder not in EMBEDDERS:
        raise UnknownName("embedder", rule.embedder, EMBEDDERS)


def missing(recipe: Recipe, steps: Iterable[str], *, fetch: bool = False) -> list[tuple[str, PersonalLLMError]]:
    """Return what steps need and this machine lacks - keys, weights, packages - as (step, error).

    Args:
        recipe: What is to be built.
        steps: Of `respond` and `score`.
        fetch: Whether absent files of reward models are fetched now.

    Raises:
        PluginError: If a plugin or a factory of your own does not load.
    """
    lacking: dict[str, tuple[str, PersonalLLMError]] = {}
    for step in steps:
        for require in _of_chat_models(recipe) if step == "respond" else (partial(_of_rewards, recipe, fetch=fetch),):
            try:
                require()
            except (PluginError, UnknownName):
                raise
            except PersonalLLMError as error:
                lacking.setdefault(error.message, (step, error))
    return list(lacking.values())


def refuse_missing(recipe: Recipe, steps: Iterable[str]) -> None:
    """Raise the first thing that steps need and this machine lacks; the others are notes to it."""
    errors = [error for _, error in missing(recipe, steps, fetch=True)]
    if errors:
        for error in errors[1:]:
            errors[0].add_note(f"And: {error}")
        raise errors[0]


def _of_chat_models(recipe: Recipe) -> list[Callable[[], None]]:
    """Return what must not fail before the step `respond`, one call for each chat model."""
    models = {model.chat_model: model for model in recipe.response_model}
    return [partial(_require_chat_model, model) for model in models.values()]


def _require_chat_model(model: ResponseModel) -> None:
    require = getattr(_chat_model(model), "require", None)
    if callable(require):
        require()


def _of_rewards(recipe: Recipe, *, fetch: bool) -> None:
    ensemble = ensemble_of(recipe)
    require = getattr(ensemble, "require", None)
    if callable(require):
        require(fetch=fetch)
    elif "embedder" in vars(ensemble):
        for package in ("onnxruntime", "tokenizers"):
            if find_spec(package) is None:
                raise MissingExtra(package, "local")
