"""Resolve registered names: listed without importing them, loaded on request.

A room registers `name -> "module:attribute"`. Outsiders add names through entry points of the group
`personalllm.<kind>` (docs/plugins.md); a local file is reached as `module:attribute`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from pathlib import Path
from typing import Any

from personalllm.core.errors import MissingExtra, PluginError, UnknownName

__all__ = ["Registered", "Registry", "import_extra", "load_object"]


def load_object(reference: str) -> Any:
    """Import `module:attribute`, dotted or not; a module beside the user (in the working folder) is found too.

    Raises:
        PluginError: If the module cannot be imported or has no such attribute.
    """
    module_name, _, attribute = reference.partition(":")
    if module_name.endswith(".py"):
        raise PluginError(f"{module_name!r} is the name of a file, not of a module.", f"Write {_as_module(reference)}")
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # third-party import: any failure is reported under its name
        raise PluginError(
            f"Cannot import {module_name!r} for {reference!r}: {type(error).__name__}: {error}.",
            _how_to_import(module_name, error),
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    try:
        return attrgetter(attribute)(module)
    except AttributeError:
        raise UnknownName(f"attribute of {module_name!r}", attribute, (n for n in dir(module) if n[0] != "_")) from None


def import_extra(module: str, extra: str, package: str = "") -> Any:
    """Import a module of an optional package.

    Args:
        module: Its name, dotted or not.
        extra: The extra that installs the package.
        package: Name of the package on the index; the first part of the module's name if empty.

    Raises:
        MissingExtra: If the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != top:
            raise  # the package is there, and what it needs is not
        raise MissingExtra(package or top, extra) from error


def _how_to_import(module_name: str, error: BaseException) -> str:
    """Return the remedy for a module that does not import: it is absent, what it needs is, or its code is wrong."""
    absent = str(error.name) if isinstance(error, ModuleNotFoundError) and error.name else ""
    if not module_name or (absent and f"{module_name}.".startswith(f"{absent}.")):
        return "The file must be importable from the folder you are in, or be an installed package."
    return f"It needs {absent}: install that." if absent else "The module is there, but its code fails: fix it."


def _as_module(reference: str) -> str:
    """Return `folder/file.py:Thing` as `folder.file:Thing`."""
    path, colon, attribute = reference.partition(":")
    return ".".join(Path(path.removeprefix("./")).with_suffix("").parts) + colon + attribute


@dataclass(frozen=True, slots=True)
class Registered:
    """A name and where it comes from; nothing is imported to know this.

    Attributes:
        kind: What it is, e.g. `embedder`.
        name: The name.
        reference: `module:attribute`.
        distribution: The installed distribution that registers it; empty if it is built in.
        version: Of the distribution; empty if it is built in.
    """

    kind: str
    name: str
    reference: str
    distribution: str = ""
    version: str = ""

    @property
    def origin(self) -> str:
        """`built in`, or the distribution and its version."""
        return f"{self.distribution} {self.version}".strip() if self.distribution else "built in"


class Registry:
    """Maps names to objects, lazily.

    A built-in name cannot be taken over by a plugin, and two plugins cannot share a name: either is an error when
    the name is loaded, and does not touch the other names.

    Args:
        kind: Singular, for messages and the entry-point group: `personalllm.<kind>`.
        builtin: `name -> "module:attribute"`.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self._builtin = dict(builtin)

    @property
    def builtin(self) -> tuple[str, ...]:
        """The names that no plugin brought, in the order of their registration; iteration is alphabetical."""
        return tuple(self._builtin)

    def add(self, name: str, reference: str) -> None:
        """Register a name for this process, e.g. in a notebook; packages use entry points instead.

        Args:
            name: Not yet registered.
            reference: `module:attribute`.

        Raises:
            PluginError: If the name is taken.
        """
        if name in self:
            raise PluginError(f"There is a {self.kind} {name!r} already.", "Register it under another name.")
        self._builtin[name] = reference

    @property
    def group(self) -> str:
        """The entry-point group through which plug-ins add names."""
        return f"personalllm.{self.kind.replace(' ', '_')}"

    @property
    def _plugins(self) -> dict[str, list[EntryPoint]]:
        points: dict[str, list[EntryPoint]] = {}
        for point in _entry_points().select(group=self.group):
            points.setdefault(point.name, []).append(point)
        return points

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._builtin, *self._plugins}))

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._plugins

    def is_plugin(self, name: str) -> bool:
        """Return whether a name is that of a plugin."""
        return name not in self._builtin and name in self._plugins

    def entries(self) -> tuple[Registered, ...]:
        """Return every registration, by name; a plugin that takes a name which is taken is there too."""
        listed = [Registered(self.kind, name, reference) for name, reference in self._builtin.items()]
        for name, points in self._plugins.items():
            listed += [Registered(self.kind, name, point.value, *_distribution(point)) for point in points]
        return tuple(sorted(listed, key=lambda entry: (entry.name, bool(entry.distribution), entry.distribution)))

    def load(self, name: str) -> Any:
        """Return the object of a registered name or of a `module:attribute`.

        Raises:
            UnknownName: If nothing has that name; lists the nearest ones.
            PluginError: If a plugin or module does not load, or two plugins share the name; names it and the
                distribution that it comes from.
        """
        if name in self._builtin:
            return load_object(self._builtin[name])
        if ":" in name:
            return load_object(name)
        points = self._plugins.get(name, [])
        if not points:
            raise UnknownName(self.kind, name, self)
        if len(points) > 1:
            rivals = " and ".join(sorted(Registered("", "", "", *_distribution(point)).origin for point in points))
            raise PluginError(f"The {self.kind} {name!r} is registered by {rivals}.", "Uninstall all but one of them.")
        return self._load_plugin(points[0])

    def load_entry(self, entry: Registered) -> Any:
        """Return the object of one registration.

        Raises:
            PluginError: If it does not load, or its name is taken; names it and its distribution.
        """
        if entry.distribution and entry.name in self._builtin:
            raise PluginError(
                f"The {self.kind} {entry.name!r} of {entry.origin} has the name of a built-in one and is not used.",
                "Register it under another name.",
            )
        return self.load(entry.name)

    def _load_plugin(self, point: EntryPoint) -> Any:
        origin = Registered("", "", "", *_distribution(point)).origin
        where = f"The {self.kind} {point.name!r} of {origin} ({point.value})"
        module, _, attribute = point.value.partition(":")
        if not module.strip() or not attribute.strip():
            raise PluginError(
                f"{where} does not load: its entry point names no object in a module.",
                f'Under [project.entry-points."{self.group}"] write: {point.name} = "module:attribute"',
            )
        try:
            return point.load()
        except (Exception, SystemExit) as error:  # third-party code: any failure is reported under its name
            raise PluginError(
                f"{where} does not load: {type(error).__name__}: {error}.",
                f"Fix, update or uninstall {origin.partition(' ')[0]}; everything else works without it.",
            ) from error


def _entry_points() -> Any:
    """Return the entry points of everything installed.

    Reading them opens a file for each distribution, 50 ms of a run that asks for names ten times; so they are read
    again only if a folder of the import path is another one, or got or lost an entry, as it does on every installation.
    """
    return _read_entry_points(tuple((path, _changed(path)) for path in (Path(name).absolute() for name in sys.path)))


@lru_cache(maxsize=4)
def _read_entry_points(_: tuple[tuple[Path, int], ...]) -> Any:
    return entry_points()


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:  # absent, or a file in an archive
        return 0


def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Return the name and the version of the distribution that an entry point comes from."""
    if point.dist is None:
        return "an unknown distribution", ""
    return str(point.dist.metadata["Name"] or "an unnamed distribution"), str(point.dist.version or "")
