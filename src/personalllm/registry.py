"""Names that stand for things: listed without importing them, loaded when asked for.

A room registers `name -> "module:attribute"`. Outsiders add names through entry points of the group
`personalllm.<kind>`; a local file is reached as `module:attribute`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from personalllm.errors import PluginError, UnknownName

__all__ = ["Registry", "load_object"]


def load_object(reference: str) -> Any:
    """Import `module:attribute`; a module beside the user (in the working folder) is found too.

    Raises:
        PluginError: If the module cannot be imported or has no such attribute.
    """
    module_name, _, attribute = reference.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a stranger's module raises on import is reported under its name
        raise PluginError(
            f"Cannot import {module_name!r} for {reference!r}: {type(error).__name__}: {error}.",
            "The file must be importable from the folder you are in, or be an installed package.",
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UnknownName(f"attribute of {module_name!r}", attribute, (n for n in dir(module) if n[0] != "_")) from None


class Registry:
    """Maps names to objects, lazily.

    Args:
        kind: Singular, for messages and the entry-point group: `personalllm.<kind>`.
        builtin: `name -> "module:attribute"`.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self._builtin = dict(builtin)

    @property
    def _plugins(self) -> dict[str, EntryPoint]:
        group = f"personalllm.{self.kind.replace(' ', '_')}"
        return {point.name: point for point in entry_points(group=group)}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._builtin, *self._plugins}))

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._plugins

    def load(self, name: str) -> Any:
        """Return the object that a name, or a `module:attribute`, stands for.

        Raises:
            UnknownName: If nothing has that name; lists the nearest ones.
            PluginError: If a plugin or module does not load; names it.
        """
        if name in self._builtin:
            return load_object(self._builtin[name])
        if ":" in name:
            return load_object(name)
        plugins = self._plugins
        if name not in plugins:
            raise UnknownName(self.kind, name, self)
        point = plugins[name]
        try:
            return point.load()
        except Exception as error:  # a stranger's code: any failure is reported under its name
            raise PluginError(f"The {self.kind} plugin {name!r} ({point.value}) does not load: {error}.") from error
