"""The methods by name: listed without importing them; plug-ins add theirs through entry points."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from personalllm.core.errors import PluginError, UnknownName, UserError
from personalllm.core.registry import Registry
from personalllm.core.storage import shipped_tables
from personalllm.core.types import JSON
from personalllm.methods.base import Method

__all__ = ["BUILT_IN", "METHODS", "get_method", "list_methods", "method_class", "method_from_spec", "recorded_class"]

_OURS = "personalllm."

BUILT_IN: dict[str, JSON] = shipped_tables("personalllm.methods", "methods.toml")
"""Name -> `class` (`module:Class` below `personalllm.methods`), `title`, what it `implements` and `needs`."""

METHODS = Registry("method", {name: f"personalllm.methods.{table['class']}" for name, table in BUILT_IN.items()})


def list_methods() -> tuple[str, ...]:
    """Return the registered names, plugins included, in alphabetical order; imports no method.

    >>> "meta-icl" in list_methods()
    True
    """
    return tuple(METHODS)


def method_class(name: str) -> type[Method]:
    """Return the class of a registered name or of `module:Class` (a file in the working folder is found too).

    Raises:
        UnknownName: If nothing is registered under the name; lists the nearest names.
        UserError: If it is the name of a file; says how to name the class in it.
        PluginError: If the module does not load, or what it holds is not a subclass of `Method`.
    """
    if name.endswith(".py"):
        raise _file_named(Path(name))
    loaded = METHODS.load(name)
    if not (inspect.isclass(loaded) and issubclass(loaded, Method)):
        raise PluginError(
            f"{name!r} is a {type(loaded).__name__}, not a subclass of personalllm.methods.Method.",
            "Name a class, as in: module:MyMethod",
        )
    return loaded


def _file_named(path: Path) -> UserError:
    """Return the error of a file that was named in the place of a method, with the classes that it seems to hold."""
    if not path.is_file():
        return UserError(f"There is no file {str(path)!r}, and a method is named by its class.", "Write module:Class.")
    classes = [
        line.split("(")[0].removeprefix("class ").strip()
        for line in path.read_text("utf-8", "replace").splitlines()
        if line.startswith("class ") and "Method" in line
    ]
    names = " or ".join(f"{path.stem}:{name}" for name in classes or ["MyMethod"])
    where = "" if path.parent == Path() else f" in the folder {path.parent}"
    return UserError(f"{str(path)!r} is a file, not a method.", f"Name the class in it{where}: {names}")


def recorded_class(name: str, reference: str) -> type[Method]:
    """Return the class that a file names by its id, if one is registered; `reference` is never imported.

    A file may come from anybody, so it chooses among built-in methods and installed plugins and nothing else.

    Args:
        name: The recorded id.
        reference: The recorded `module:Class`; empty for a built-in method.

    Raises:
        UserError: If no such method is registered, or its class is not the recorded one.
        PluginError: If a plugin does not load.
    """
    if ":" in name or name not in METHODS:
        raise UserError(f"The method {name!r} ({reference or 'no class'}) is neither built in nor an installed plugin.")
    cls = method_class(name)
    # the module may have moved since, but a user's class of the same id is another method
    ours = not reference or reference.startswith(_OURS)
    if cls.id != name or cls.__module__.startswith(_OURS) != ours:
        raise UserError(f"The registered method {name!r} is {cls.__module__}:{cls.__qualname__}, not {reference}.")
    return cls


def get_method(name: str, /, **params: Any) -> Method:
    """Return an unfitted method by its registered name, or by `module:Class`, with these parameters.

    Raises:
        UnknownName: If there is no such method, or it has no such parameter; lists the nearest names.
        PluginError: If the module does not load, or what it holds is not a method.
        ParameterError: If a value is outside its range.

    >>> get_method("embedding-ranker", shrinkage=5.0)
    EmbeddingRanker(shrinkage=5.0)
    """
    cls = method_class(name)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in params:
        if key not in names:
            if not names:
                raise UserError(f"The method {name!r} has no parameters, got {key!r}.", f"Leave {key!r} out.")
            raise UnknownName(f"parameter of the method {name!r}", key, names)
    return cls(**params)


def method_from_spec(spec: JSON, *, name: str | None = None) -> Method:
    """Return the method that `Method.spec()` described.

    Args:
        spec: `{"id": ..., "params": {...}}`.
        name: Where to find the class if its id is not registered: `module:Class`.

    Raises:
        UserError: As `get_method`, or if the spec has other keys.

    >>> spec = get_method("longest").spec()
    >>> method_from_spec(spec) == get_method("longest")
    True
    """
    if set(spec) != {"id", "params"}:
        raise UserError(f"A method's spec has the keys 'id' and 'params', got {sorted(spec)}.")
    return get_method(name or spec["id"], **spec["params"])
