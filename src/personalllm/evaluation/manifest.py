"""What a run says of itself: protocol, versions, seeds, presets, the order of its methods."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from personalllm.core.errors import DataError, UserError
from personalllm.core.storage import write_json
from personalllm.core.types import JSON
from personalllm.data import Benchmark
from personalllm.evaluation.presets import get_preset
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.resolve import resolve
from personalllm.evaluation.store import DiskStore, Store, read_json
from personalllm.evaluation.tracks import Backends

__all__ = ["write_manifest", "write_order"]

_PACKAGES = ("personalllm", "numpy", "pyarrow", "scipy")


def write_manifest(store: Store, protocol: Protocol, benchmark: Benchmark, task: JSON, backends: Backends) -> JSON:
    """Describe the run; the versions of every session are kept, oldest first.

    Args:
        store: Where the run is kept.
        protocol: Bound to its backends.
        benchmark: What is evaluated.
        task: What the protocol drew, as JSON.
        backends: What the edge handed over.
    """
    named = {"embedder": backends.embedder, "llm": backends.llm}
    rewards = backends.rewards
    manifest: JSON = {
        "protocol": protocol.spec(),
        "fingerprint": protocol.fingerprint,
        "benchmark": {
            "name": benchmark.name,
            "fingerprint": benchmark.fingerprint,
            "n_prompts": benchmark.n_prompts,
            "n_responses": benchmark.n_responses,
            "reward_models": list(benchmark.reward_models),
            "response_models": list(benchmark.response_models),
        },
        "task": task,
        "backends": {name: backend.name for name, backend in named.items() if backend is not None},
        "reward_ensemble": list(rewards.reward_models) if rewards is not None else None,
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


def write_order(store: Store, keys: list[str]) -> None:
    """Note the order in which methods were asked for; those of earlier calls stay, after the new ones.

    Noted before the work too: of two versions of a method the first in this order is the newer one.
    """
    if not isinstance(store, DiskStore):
        return
    path = store.directory / "leaderboard.json"
    earlier: list[str] = []
    if path.exists():
        try:
            earlier = list(read_json(path).get("order", []))
        except DataError:
            earlier = []
    write_json(path, {"order": [*keys, *(key for key in earlier if key not in keys)]})


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return found | {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}


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
    """Say which preset the protocol was made from, what it changes, and which methods the preset names."""
    if protocol.preset is None:
        return []
    preset = get_preset(protocol.preset)
    entries, _ = resolve(preset.methods, preset.protocol["track"])
    changes = [[name, *values] for name, values in preset.changes(protocol).items()]
    return [{"id": preset.id, "changes": changes, "methods": [entry.label for entry in entries]}]


def _make_run_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot make the run directory {directory}: {error.strerror or error}.", "Choose another --out."
        ) from None
