"""Model files: what there is, how it comes into the cache, whether it is the right file."""

from __future__ import annotations

from personalllm.backends.models.extra import config_file, find_entry, load_entries
from personalllm.backends.models.fetch import PullProgress
from personalllm.backends.models.pull import pull
from personalllm.backends.models.registry import (
    DEFAULT_NAMES,
    REGISTRY,
    HubFile,
    ModelEntry,
    StoredFile,
    Wheel,
    WheelMember,
)
from personalllm.backends.models.store import ModelState, model_folder, model_path, model_state, verify

__all__ = [
    "DEFAULT_NAMES",
    "REGISTRY",
    "HubFile",
    "ModelEntry",
    "ModelState",
    "PullProgress",
    "StoredFile",
    "Wheel",
    "WheelMember",
    "config_file",
    "find_entry",
    "load_entries",
    "model_folder",
    "model_path",
    "model_state",
    "pull",
    "verify",
]
