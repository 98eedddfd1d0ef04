"""Describe a run: protocol, versions, seeds, presets, the order of its methods."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

from personalllm.core.errors import DataError, UserError
from personalllm.core.storage import write_json
from personalllm.core.types import JSON
from personalllm.evaluation.contract import Track
from personalllm.evaluation.parts import load_track
from personalllm.evaluation.presets import get_preset
from personalllm.evaluation.protocol import RUN_FORMAT, Protocol
from personalllm.evaluation.resolve import resolve
from personalllm.evaluation.store import DiskStore, Store, read_json

__all__ = ["read_order", "write_found", "write_manifest", "write_order"]

_AGAIN = "Run the same evaluation again: it notes the order anew."
_PACKAGES = ("personalllm", "numpy", "pyarrow", "scipy")


def write_manifest(store: Store, track: Track) -> JSON:
    """Describe the run; the versions of every session are kept, oldest first.

    Args:
        store: Where the run is kept.
        track: Its protocol is bound to its backends.
    """
    protocol, backends = track.protocol, track.backends
    named = {"embedder": backends.embedder, "llm": backends.llm}
    manifest: JSON = {
        "format": RUN_FORMAT,
        "protocol": protocol.spec(),
        "fingerprint": protocol.fingerprint,
        "conditions": [condition.spec() for condition in track.conditions],
        "source": track.source.about(),
        "drawn": track.describe(),
        "backends": {name: backend.name for name, backend in named.items() if backend is not None},
        "reward_ensemble": list(backends.rewards.reward_models) if backends.rewards is not None else None,
        "versions": [_versions()],
        "presets": _presets(protocol),
    }
    if not isinstance(store, DiskStore):
        return manifest
    path = store.directory / "manifest.json"
    if path.exists():
        _keep_earlier(path, manifest)
    _make_run_directory(store.directory)
    write_json(path, manifest)
    return manifest


def write_found(store: Store, manifest: JSON, found: JSON) -> None:
    """Record what the ends of the personalisation share are, e.g. which method is `text-only`."""
    manifest["anchors"] = found
    if isinstance(store, DiskStore):
        write_json(store.directory / "manifest.json", manifest)


def write_order(store: Store, keys: Sequence[str]) -> None:
    """Record the order in which methods were given; those of earlier calls follow the new ones.

    Noted before the work too: of two versions of a method the first in this order is the newer one.
    """
    if not isinstance(store, DiskStore):
        return
    path = store.directory / "leaderboard.json"
    try:
        earlier = read_order(path, store.fingerprint)
    except DataError:
        earlier = []  # the folder's own records say what is complete; the order is written anew
    order = [*keys, *(key for key in earlier if key not in keys)]
    write_json(path, {"format": RUN_FORMAT, "fingerprint": store.fingerprint, "order": order})


def read_order(path: Path, fingerprint: str) -> list[str]:
    """Return the keys of a run in the order in which methods were given; none if no order was noted.

    Raises:
        DataError: If the file is cut off, of another format or run, or holds no list of keys; names it.
    """
    if not path.exists():
        return []
    note = read_json(path)
    order = note.get("order")
    bound = {"format": RUN_FORMAT, "fingerprint": fingerprint}
    if {name: note.get(name) for name in bound} != bound:
        raise DataError(f"{path} is of another run or another format.", _AGAIN)
    if not isinstance(order, list) or not all(isinstance(key, str) for key in order):
        raise DataError(f"{path} has no list of keys as its order.", _AGAIN)
    return order


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return versions | {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}


def _keep_earlier(path: Path, manifest: JSON) -> None:
    """Keep what earlier sessions of this run noted: their versions and their presets."""
    try:
        earlier = read_json(path)
    except DataError:
        return
    versions = earlier.get("versions", [])
    manifest["versions"] = versions if manifest["versions"][0] in versions else [*versions, *manifest["versions"]]
    now = [preset["id"] for preset in manifest["presets"]]
    manifest["presets"] += [preset for preset in earlier.get("presets", []) if preset["id"] not in now]
    if manifest["presets"]:
        manifest["protocol"]["preset"] = manifest["presets"][0]["id"]


def _presets(protocol: Protocol) -> list[JSON]:
    """Return the preset that the protocol was made from, what it changes, and which methods the preset names."""
    if protocol.preset is None:
        return []
    preset = get_preset(protocol.preset)
    entries, _ = resolve(preset.methods, load_track(preset.protocol["track"]))
    changes = [[name, *values] for name, values in preset.changes(protocol).items()]
    return [{"id": preset.id, "changes": changes, "methods": [entry.label for entry in entries]}]


def _make_run_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot make the run directory {directory}: {error.strerror or error}.", "Choose another --out."
        ) from None
