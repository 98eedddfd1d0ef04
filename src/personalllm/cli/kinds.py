"""The kinds of things that have names, where they come from, and what an object is."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from personalllm.core.errors import PluginError, UnknownName, UserError
from personalllm.core.registry import Registered, Registry, load_object

__all__ = ["PREFIXES", "Kind", "Listing", "Subject", "all_names", "listings", "registry_of", "subject_of"]


class Kind(StrEnum):
    """What can be registered; the value is what the command line shows and takes."""

    METHOD = "methods"
    EMBEDDER = "embedders"
    CHAT_MODEL = "chat-models"
    REWARD_ENSEMBLE = "reward-ensembles"
    REWARD_MODEL = "reward-models"
    TEXT_CLASSIFIER = "text-classifiers"
    MODEL_FILE = "model-files"
    TRACK = "tracks"
    VIEW = "views"
    ANALYSIS = "analyses"


def registry_of(kind: Kind) -> Registry:
    """Return the registry of a kind; imports no file of a method or a backend."""
    if kind is Kind.METHOD:
        from personalllm.methods.registry import METHODS

        return METHODS
    if kind is Kind.TEXT_CLASSIFIER:
        from personalllm.backends.features.registry import CLASSIFIERS

        return CLASSIFIERS
    if kind is Kind.REWARD_MODEL:
        from personalllm.backends.reward.entries import REWARD_MODELS

        return REWARD_MODELS
    if kind is Kind.MODEL_FILE:
        from personalllm.backends.models.registry import REGISTRY

        return Registry("model file", dict.fromkeys(REGISTRY, "personalllm.backends.models.registry:REGISTRY"))
    if kind is Kind.TRACK:
        from personalllm.evaluation import TRACKS

        return TRACKS
    if kind is Kind.VIEW:
        from personalllm.report.views import views

        return views
    if kind is Kind.ANALYSIS:
        from personalllm.analysis import ANALYSES

        return ANALYSES
    from personalllm.backends import registry

    named = {
        Kind.EMBEDDER: registry.EMBEDDERS,
        Kind.CHAT_MODEL: registry.CHAT_MODELS,
        Kind.REWARD_ENSEMBLE: registry.REWARD_ENSEMBLES,
    }
    return named[kind]


def all_names() -> list[str]:
    """Return every name that `check` takes, in alphabetical order."""
    return sorted({name for kind in Kind if kind not in _WITHOUT_SUITE for name in registry_of(kind)})


_WITHOUT_SUITE = (Kind.TEXT_CLASSIFIER, Kind.MODEL_FILE, Kind.TRACK, Kind.VIEW, Kind.ANALYSIS)


@dataclass(frozen=True, slots=True)
class Listing:
    """One line of `personalllm list`.

    Attributes:
        entry: The name and where it comes from.
        title: A few words.
        tracks: Of a method.
        needs: Of a method.
        problem: Why it cannot be used; empty if it can, as far as loading shows.
    """

    entry: Registered
    title: str = ""
    tracks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    problem: str = ""


def listings(kind: Kind) -> list[Listing]:
    """Return everything of a kind by name; built-in files are read, not imported, plugins are imported."""
    registry = registry_of(kind)
    return [_plugin(kind, registry, e) if e.distribution else _builtin(kind, e) for e in registry.entries()]


def _builtin(kind: Kind, entry: Registered) -> Listing:
    if kind in (Kind.CHAT_MODEL, Kind.MODEL_FILE):
        return Listing(entry, _model_title(entry.name, kind))
    if kind is Kind.REWARD_MODEL:
        return Listing(entry, str(registry_of(kind).load(entry.name).model))
    if kind is not Kind.METHOD:
        return Listing(entry, _summary(registry_of(kind).load(entry.name)))
    from personalllm.methods.registry import BUILT_IN

    method = BUILT_IN[entry.name]
    return Listing(entry, method["title"], _tracks(method["implements"], method["needs"]), tuple(method["needs"]))


def _summary(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0].rstrip(".")


def _tracks(hooks: list[str], needs: list[str]) -> tuple[str, ...]:
    """Return the tracks of a method that implements and needs this."""
    from personalllm.evaluation.resolve import tracks_of
    from personalllm.methods.base import Method

    return tracks_of(type("Outline", (Method,), {"needs": frozenset(needs), **dict.fromkeys(hooks, len)}))


def _model_title(name: str, kind: Kind) -> str:
    from personalllm.backends.models.registry import REGISTRY

    return _model_entry_title(REGISTRY[name], with_kind=kind is Kind.MODEL_FILE)


def _model_entry_title(entry: Any, *, with_kind: bool) -> str:
    return f"{entry.kind + ', ' if with_kind else ''}{entry.size / 1e6:,.0f} MB, {entry.licence}"


def _plugin(kind: Kind, registry: Registry, entry: Registered) -> Listing:
    try:
        return _described(kind, registry, entry)
    except UserError as error:
        return Listing(entry, problem=error.message)
    except Exception as error:  # noqa: BLE001  (third-party class: may fail in any way)
        return Listing(entry, problem=f"{type(error).__name__}: {error}")


def _described(kind: Kind, registry: Registry, entry: Registered) -> Listing:
    """Load a plugin and return what it says about itself; nothing is called."""
    loaded = registry.load_entry(entry)
    where = f"The {registry.kind} {entry.name!r} of {entry.origin}"
    if kind is Kind.METHOD:
        from personalllm.evaluation.resolve import tracks_of
        from personalllm.methods import method_class

        method = method_class(entry.name)
        return Listing(entry, method.title, tracks_of(method), tuple(sorted(method.needs)))
    if kind is Kind.MODEL_FILE:
        from personalllm.backends.models.registry import ModelEntry

        if not isinstance(loaded, ModelEntry):
            raise PluginError(f"{where} is {_a(type(loaded).__name__)}, not a ModelEntry.")
        return Listing(entry, _model_entry_title(loaded, with_kind=True))
    if kind is Kind.REWARD_MODEL:
        from personalllm.backends.reward.entries import RewardEntry

        if not isinstance(loaded, RewardEntry):
            raise PluginError(f"{where} is {_a(type(loaded).__name__)}, not a RewardEntry.")
        return Listing(entry, str(loaded.model))
    if kind in (Kind.TRACK, Kind.VIEW, Kind.ANALYSIS) and not inspect.isclass(loaded):
        raise PluginError(f"{where} is {_a(type(loaded).__name__)}, not a class.")
    if not callable(loaded):
        raise PluginError(f"{where} is {_a(type(loaded).__name__)}, which cannot be called without arguments.")
    return Listing(entry, _summary(loaded))


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to be checked.

    Attributes:
        kind: What it is.
        name: Registered name or reference.
        origin: Where it comes from.
        built: A class (methods) or a backend.
        again: A second backend from the same factory; None if there is no factory.
        registered: Whether `name` is a registered one.
    """

    kind: Kind
    name: str
    origin: str
    built: Any
    again: Any = None
    registered: bool = False


def subject_of(target: str, kind: Kind | None = None) -> Subject:
    """Return what a registered name or `module:attribute` refers to, and its kind.

    Raises:
        UserError: If there is no such thing, it cannot be loaded or made, it is nothing of a kind that has a contract
            suite, or two kinds have the name.
    """
    if target.startswith(PREFIXES) or (target.partition("=")[0] in registry_of(Kind.REWARD_MODEL) and "=" in target):
        return _prefixed(target)
    if ":" in target:
        target_kind, built, again = _recognised(load_object(target), target)
        if kind not in (None, target_kind):
            raise PluginError(f"{target!r} is one of the {target_kind.value}, not of the {kind}.", "Leave --kind out.")
        return Subject(target_kind, target, f"the module {target.partition(':')[0]}", built, again)
    named = [k for k in Kind if target in registry_of(k) and kind in (None, k)]
    kinds = [k for k in named if k not in _WITHOUT_SUITE] or named
    if not kinds and kind is None and Path(f"{target.removesuffix('.py')}.py").is_file():
        module = target.removesuffix(".py").replace("/", ".")
        raise UserError(f"{target!r} is a file here, and it may hold several things.", f"Name one: {module}:Thing")
    if not kinds:
        raise UnknownName("method or backend" if kind is None else registry_of(kind).kind, target, all_names())
    if kinds[0] in _WITHOUT_SUITE:
        raise UserError(f"{target!r} is one of the {kinds[0].value}; there is no contract suite for these.")
    if len(kinds) > 1:
        names = " and of the ".join(k.value for k in kinds)
        raise UserError(f"{target!r} is one of the {names}.", f"Say which, e.g. --kind {kinds[0].value}")
    registry = registry_of(kinds[0])
    entry = next(e for e in registry.entries() if e.name == target)
    if kinds[0] is Kind.REWARD_MODEL:
        return _transformers(target, entry.origin)
    if not entry.distribution:
        return Subject(kinds[0], target, entry.origin, *_builtin_backend(kinds[0], target), registered=True)
    actual, built, again = _recognised(registry.load(target), target)
    if actual is not kinds[0]:
        raise PluginError(
            f"{target!r} of {entry.origin} is registered as one of the {kinds[0].value}, but is one of the {actual}.",
            f'Register it in [project.entry-points."{registry_of(actual).group}"].',
        )
    return Subject(actual, target, entry.origin, built, again, registered=True)


PREFIXES = ("openai:", "transformers:")


def _prefixed(target: str) -> Subject:
    """Return what `openai:MODEL` or `transformers:MODEL` refers to; the former's address is `$OPENAI_BASE_URL`."""
    from personalllm.backends.names import build_llm

    if target.startswith("openai:"):
        if not os.environ.get("OPENAI_BASE_URL"):
            raise UserError(
                f"The address of the server of {target!r} is unknown.",
                "Set the environment variable OPENAI_BASE_URL, e.g. to http://127.0.0.1:8000/v1",
            )
        return Subject(Kind.CHAT_MODEL, target, "a server", build_llm(target, cache=False))
    return _transformers(target, "a folder or the hub")


def _transformers(name: str, origin: str) -> Subject:
    """Return a single reward model as an ensemble of one."""
    from personalllm.backends.reward import load_rewards

    return Subject(Kind.REWARD_ENSEMBLE, name, origin, load_rewards(name), load_rewards(name), registered=True)


def _builtin_backend(kind: Kind, name: str) -> tuple[Any, Any]:
    """Return a built-in method or backend, and a second one to compare identities with, without a reply cache."""
    from personalllm.backends.names import build_llm

    registry = registry_of(kind)
    if kind is Kind.METHOD:
        return registry.load(name), None
    if kind is Kind.CHAT_MODEL:
        return build_llm(name, cache=False), None
    return registry.load(name)(), registry.load(name)()


def _recognised(loaded: Any, reference: str) -> tuple[Kind, Any, Any]:
    """Return the kind of an object, or of what it makes when it is called without arguments, and the thing itself."""
    from personalllm.backends.names import called
    from personalllm.methods.base import Method

    if isinstance(loaded, Method):
        raise PluginError(f"{reference!r} is a method that was already made.", "Name its class instead.")
    if inspect.isclass(loaded) and issubclass(loaded, Method):
        if loaded is Method:
            raise PluginError(f"{reference!r} is the base class itself.", "Name a subclass of it.")
        return Kind.METHOD, loaded, None
    if not inspect.isclass(loaded) and (kind := _protocol_kind(loaded)):
        return kind, loaded, None
    if not callable(loaded):
        raise _nothing(loaded, reference, f"is {_a(type(loaded).__name__)}")
    built = called(loaded, reference)
    kind = _protocol_kind(built)
    if kind is None:
        raise _nothing(built, reference, f"makes {_a(type(built).__name__)}")
    return kind, built, called(loaded, reference)


def _protocols() -> dict[Kind, Any]:
    from personalllm.core.protocols import ChatModel, RewardEnsemble, TextEmbedder

    return {Kind.EMBEDDER: TextEmbedder, Kind.CHAT_MODEL: ChatModel, Kind.REWARD_ENSEMBLE: RewardEnsemble}


def _members(protocol: Any) -> list[str]:
    return sorted(name for name in vars(protocol) if not name.startswith("_"))


def _protocol_kind(thing: Any) -> Kind | None:
    """Return the kind of a backend, or None; attributes are looked up, not read."""
    present = set(dir(thing))
    return next((kind for kind, protocol in _protocols().items() if present.issuperset(_members(protocol))), None)


_OWN_METHOD = {Kind.EMBEDDER: "embed", Kind.CHAT_MODEL: "chat", Kind.REWARD_ENSEMBLE: "score"}


def _nothing(thing: Any, reference: str, what: str) -> PluginError:
    """Return the error for a thing that is of no kind; names what the nearest kind would need."""
    present = set(dir(thing))
    for kind, protocol in _protocols().items():
        if _OWN_METHOD[kind] in present:
            missing: Sequence[str] = [name for name in _members(protocol) if name not in present]
            return PluginError(
                f"{reference!r} {what}, which has {_OWN_METHOD[kind]}() but is not one of the {kind.value}.",
                f"It lacks: {', '.join(missing)} (see personalllm.core.protocols.{protocol.__name__}).",
            )
    return PluginError(
        f"{reference!r} {what}, which is neither a method nor an embedder, a chat model or a reward ensemble.",
        "Name a subclass of personalllm.methods.Method, or a class or function without arguments that makes an "
        "object with the methods of personalllm.core.protocols.TextEmbedder, ChatModel or RewardEnsemble.",
    )


def _a(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"
