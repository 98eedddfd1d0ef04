"""Model files that users and plugins add to the built-in ones."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from personalllm.backends.models.registry import REGISTRY, ModelEntry, read_entry
from personalllm.core.errors import ParameterError, PluginError, UnknownName, UserError
from personalllm.core.registry import Registry

__all__ = ["config_file", "find_entry", "load_entries"]


def config_file() -> Path:
    """Return the path of the user's `models.toml`, which need not exist.

    It stands in `$PERSONALLLM_CONFIG` if that is set, otherwise in the user's configuration folder.
    """
    override = os.environ.get("PERSONALLLM_CONFIG")
    if override:
        return Path(override).expanduser() / "models.toml"
    import platformdirs

    return Path(platformdirs.user_config_dir("personalllm", appauthor=False)) / "models.toml"


def load_entries() -> dict[str, ModelEntry]:
    """Return every known model by name: built-in ones, then plugins, then the user's `models.toml`.

    Raises:
        PluginError: If a plugin does not load or is not a `ModelEntry`.
        UserError: If `models.toml` cannot be read; says which entry and why.
    """
    entries = dict(REGISTRY)
    plugins = Registry("model_file", {})
    added = [(f"plugin {name!r}", plugins.load(name)) for name in plugins]
    added += [(str(config_file()), entry) for entry in _read_config(config_file())]
    for where, entry in added:
        if not isinstance(entry, ModelEntry):
            raise PluginError(f"The model_file {where} is a {type(entry).__name__}, not a ModelEntry.")
        if entry.name in entries:
            raise UserError(f"{where}: there is already a model named {entry.name!r}.", "Choose another name.")
        entries[entry.name] = entry
    return entries


def find_entry(name: str) -> ModelEntry:
    """Return the entry of a model.

    Raises:
        UnknownName: If no model has that name; lists the nearest ones.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    entries = load_entries()
    if name not in entries:
        raise UnknownName("model", name, entries)
    return entries[name]


def _read_config(path: Path) -> list[ModelEntry]:
    """Read the `[[model]]` tables of a TOML file; none if the file does not exist."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    try:
        tables = tomllib.loads(text).get("model", [])
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}.", "See docs/models.md for an example.") from error
    entries = []
    for number, table in enumerate(tables, start=1):
        try:
            entries.append(read_entry(table))
        except (KeyError, TypeError, AttributeError, ParameterError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{path}, model {number}: {reason}.".replace("..", "."), "See docs/models.md for an example."
            ) from error
    return entries
