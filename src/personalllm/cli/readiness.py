"""Whether a recipe can run here: names that stand for nothing are refused, what is missing on this machine is told."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from personalllm.core.errors import MissingExtra, PersonalLLMError, PluginError, UnknownName, UserError

if TYPE_CHECKING:
    from personalllm.build import Recipe
    from personalllm.core.protocols import RewardEnsemble

__all__ = ["check_names", "ensemble_of", "missing", "refuse_missing"]


def check_names(recipe: Recipe, executor: str = "serial") -> None:
    """Raise if the recipe can run nowhere: a name that stands for nothing, a server without an address.

    Nothing is loaded, imported or asked.

    Raises:
        UserError: If a chat model, an embedder, a reward ensemble or an executor is not known, a server has no address,
            or a setting has no effect.
    """
    from personalllm.backends.executor import build_executor
    from personalllm.cli.building import check_chat_model

    for model in recipe.response_model:
        try:
            check_chat_model(model)
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

    wanted = recipe.reward_ensemble
    if not isinstance(wanted, str) or is_published(wanted):
        load_rewards(wanted)
    elif not (":" in wanted or wanted in REWARD_ENSEMBLES or Path(wanted).is_file()):
        raise UnknownName("reward ensemble", wanted, {*REWARD_ENSEMBLES, *REWARD_MODELS})


def _check_embedder_name(recipe: Recipe) -> None:
    from personalllm.backends.registry import EMBEDDERS

    rule = recipe.prompts.near_duplicates
    if rule is not None and rule.method == "embedding" and ":" not in rule.embedder and rule.embedder not in EMBEDDERS:
        raise UnknownName("embedder", rule.embedder, EMBEDDERS)


def missing(recipe: Recipe, steps: tuple[str, ...], *, fetch: bool = False) -> list[tuple[str, PersonalLLMError]]:
    """Return what steps need and this machine lacks: keys, weights, packages; (step, what is wrong).

    Args:
        recipe: What is to be built.
        steps: Of `respond` and `score`.
        fetch: Whether files of reward models that are not here are fetched now.

    Raises:
        PluginError: If a plug-in or a factory of your own does not load.
    """
    found: dict[str, tuple[str, PersonalLLMError]] = {}
    for step in steps:
        for error in _of_chat_models(recipe) if step == "respond" else _of_rewards(recipe, fetch=fetch):
            found.setdefault(error.message, (step, error))
    return list(found.values())


def refuse_missing(recipe: Recipe, steps: tuple[str, ...]) -> None:
    """Raise the first thing that steps need and this machine lacks; the others are notes to it."""
    lacking = [error for _, error in missing(recipe, steps, fetch=True)]
    if lacking:
        first, *others = lacking
        for other in others:
            first.add_note(f"And: {other}")
        raise first


def _of_chat_models(recipe: Recipe) -> list[PersonalLLMError]:
    from personalllm.cli.building import chat_model_of

    found: list[PersonalLLMError] = []
    for model in {model.chat_model: model for model in recipe.response_model}.values():
        try:
            require = getattr(chat_model_of(model), "require", None)
            if callable(require):
                require()
        except (PluginError, UnknownName):
            raise
        except PersonalLLMError as error:
            found.append(error)
    return found


def _of_rewards(recipe: Recipe, *, fetch: bool) -> list[PersonalLLMError]:
    try:
        ensemble = ensemble_of(recipe)
        require = getattr(ensemble, "require", None)
        if callable(require):
            require(fetch=fetch)
        elif "embedder" in vars(ensemble):
            for package in ("onnxruntime", "tokenizers"):
                if find_spec(package) is None:
                    raise MissingExtra(package, "local")
    except (PluginError, UnknownName):
        raise
    except PersonalLLMError as error:
        return [error]
    return []


def ensemble_of(recipe: Recipe) -> RewardEnsemble:
    """Return the reward models that a recipe names."""
    from personalllm.backends.names import build_rewards

    return build_rewards({"reward_ensemble": recipe.reward_ensemble})
