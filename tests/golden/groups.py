"""The groups of golden values, and where they are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import adapter
import values

__all__ = ["GROUPS", "INTERRUPTED", "PROCESSES", "read", "record"]

FILE = Path(__file__).with_name("golden.json")

GROUPS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "method keys": adapter.method_keys,
    "unit seeds": adapter.unit_seeds,
    "track seeds": adapter.track_seeds,
    "draws": adapter.draws,
    "predict draws": adapter.predict_draws,
    "people draws": adapter.people_draws,
    "rank": adapter.rank_run,
    "rank, limit": partial(adapter.rank_run, "limit"),
    "rank, two prompts": partial(adapter.rank_run, "two prompts"),
    "rank, flipped": partial(adapter.rank_run, "flipped"),
    "rank, noisy": partial(adapter.rank_run, "noisy"),
    "rank, raw": partial(adapter.rank_run, "raw"),
    "rank, mini": adapter.mini_run,
    "generate": adapter.generate_run,
    "generate, greedy": partial(adapter.generate_run, "greedy"),
    "predict": adapter.predict_run,
    "predict, signals": partial(adapter.predict_run, "signals"),
    "people, 6": partial(adapter.people_run, 6),
    "people, 22": partial(adapter.people_run, 22),
    "sweep, rank": partial(adapter.sweep_run, "rank"),
    "sweep, many": partial(adapter.sweep_run, "many"),
    "sweep, predict": partial(adapter.sweep_run, "predict"),
    "reproduce": adapter.reproduce_run,
    "analysis": adapter.analysis_run,
    "bytes": adapter.packed_bytes,
}
"""Name of a group -> what gives its values."""

INTERRUPTED: Mapping[str, Callable[[], dict[str, Any]]] = {
    "rank": partial(adapter.rank_run, interrupted=True),
    "generate": partial(adapter.generate_run, interrupted=True),
    "predict": partial(adapter.predict_run, interrupted=True),
    "people, 6": partial(adapter.people_run, 6, interrupted=True),
}
"""Values of some of the group's methods, from runs that were stopped after the first unit and resumed."""

PROCESSES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "rank": partial(adapter.rank_run, processes=2),
}
"""Values of some of the group's methods, from runs in two processes."""


def read() -> dict[str, Any]:
    """Return the golden values."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def record() -> None:
    """Write the golden values of the present code."""
    made = {name: values.stored(group()) for name, group in GROUPS.items()}
    FILE.write_text(values.to_text(made) + "\n", encoding="utf-8")
