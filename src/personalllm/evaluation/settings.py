"""Settings of a protocol by name: short forms, dotted paths, differences between two protocols."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.types import JSON

__all__ = [
    "NOT_SET",
    "PARTS",
    "SHORT",
    "describe_changes",
    "expand",
    "flatten",
    "merge",
    "nest",
    "parse_setting",
    "read_value",
    "shown",
]

SHORT: dict[str, tuple[tuple[str, str], ...]] = {
    "n_users": (("population", "n_users"),),
    "alpha": (("population", "alpha"),),
    "pairs": (("history", "pairs"),),
    "nearest": (("history", "nearest"),),
    "counterfactual": (("history", "counterfactual"),),
    "pool_users": (("pool", "n_users"),),
    "pool_pairs": (("pool", "pairs_per_user"),),
    "max_tokens": (("generation", "max_tokens"),),
    "temperature": (("generation", "temperature"),),
    "shots": (("prediction", "shots"),),
    "test_pairs": (("prediction", "test_pairs"),),
    "seen_users": (("prediction", "n_seen_users"),),
    "seed": (("", "seed"), ("population", "seed"), ("pool", "seed")),
}
"""Short forms: what each of them sets."""

PARTS = ("population", "pool", "history", "feedback", "generation", "prediction")
"""Fields of a protocol that have fields of their own."""


def expand(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Split overrides into top-level values and changes of the nested parts; a long form wins over a short one.

    >>> expand({"alpha": 0.1, "population": {"n_users": 3}, "limit": 2})[0]
    {'limit': 2}
    """
    values: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in overrides.items():
        if name in PARTS:
            nested[name].update(_fields(name, value))
        elif name not in SHORT:
            values[name] = value
    for name in SHORT.keys() & overrides.keys():
        for part, field in SHORT[name]:
            if part:
                nested[part].setdefault(field, overrides[name])
            else:
                values[field] = overrides[name]
    return values, nested


def _fields(part: str, value: Any) -> Mapping[str, Any]:
    """Return the fields of a part that were given.

    Raises:
        ParameterError: If it is neither a mapping nor such a part.
    """
    if isinstance(value, BaseModel):
        return value.model_dump()
    if value is not None and not isinstance(value, Mapping):
        raise ParameterError(part, "a mapping of its fields", value)
    return value or {}


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> JSON:
    """Return overrides for `Protocol.for_benchmark`: those of `base`, changed by `overrides` field by field.

    What of `base` belongs to another track is dropped if the track is changed; in the predict track the history follows
    from the shots, so that of `base` is dropped too.

    >>> merge({"track": "generate", "max_tokens": 512}, {"track": "rank", "alpha": 0.1})
    {'track': 'rank', 'population': {'alpha': 0.1}}
    """
    values, nested = expand(base)
    new_values, new_nested = expand(overrides)
    merged = values | new_values
    track = merged.get("track")
    if track != "generate":
        nested["generation"] = {}
    if track != "predict":
        nested["prediction"] = {}
    if "predict" in {track, values.get("track")}:
        nested["history"] = {}
    return merged | {part: nested[part] | new_nested[part] for part in PARTS if nested[part] or new_nested[part]}


def flatten(spec: Mapping[str, Any]) -> JSON:
    """Return a protocol's JSON with dotted names, e.g. `population.alpha`.

    >>> flatten({"population": {"alpha": 0.05}, "seed": 0})
    {'population.alpha': 0.05, 'seed': 0}
    """
    flat: JSON = {}
    for name, value in spec.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            flat[name] = value
    return flat


NOT_SET = ("metrics_version", "benchmark", "benchmark_fingerprint", "preset", "embedder", "llm", "rewards")
"""Fields of a protocol that follow from the benchmark, the preset and the backends."""


def nest(settings: Mapping[str, Any]) -> JSON:
    """Return dotted names as nested mappings, what `Protocol.for_benchmark` takes; the reverse of `flatten`.

    Raises:
        UserError: If a name has a dot behind something that has no fields, or is not a setting but follows from the
            benchmark, the preset and the backends.

    >>> nest({"population.alpha": 0.1, "limit": 5})
    {'population': {'alpha': 0.1}, 'limit': 5}
    """
    nested: JSON = {}
    for name, value in settings.items():
        if name in NOT_SET:
            raise UserError(
                f"{name!r} is no setting of the protocol: it follows from what is evaluated, and with what.",
                "Name another benchmark, preset or backend instead.",
            )
        part, dot, field = name.partition(".")
        if not dot:
            nested[name] = {**nested.get(name, {}), **value} if name in PARTS and isinstance(value, Mapping) else value
            continue
        if part not in PARTS or not field.isidentifier():
            raise UserError(
                f"There is no setting {name!r} in the protocol.",
                f"Before the dot stands one of {', '.join(PARTS)}; after it a field, as in population.alpha.",
            )
        nested[part] = {**nested.get(part, {}), field: value}
    return nested


def parse_setting(text: str) -> tuple[str, Any]:
    """Split `NAME=VALUE`; the value is JSON, else plain text.

    Raises:
        UserError: If there is no `=`.

    >>> parse_setting("population.alpha=0.1")
    ('population.alpha', 0.1)
    """
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise UserError(f"Cannot read the setting {text!r}.", "Write NAME=VALUE, e.g. population.alpha=0.1.")
    return name.strip(), read_value(value.strip())


def read_value(text: str) -> Any:
    """Return what a text stands for: JSON, a Python constant, else the text itself.

    >>> [read_value(text) for text in ("3", "None", "null", "winning")]
    [3, None, None, 'winning']
    """
    try:
        return json.loads(text, parse_constant=_no_number)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _no_number(constant: str) -> Any:
    """NaN and infinities are no JSON."""
    raise ValueError(constant)


def describe_changes(preset: str, changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Say in one line how a result relates to a preset.

    Args:
        preset: Id of the preset.
        changes: From `Preset.changes`.

    >>> describe_changes("paper-icl-v1", {})
    'paper-icl-v1'
    >>> describe_changes("paper-icl-v1", {"population.n_users": (1000, 20)})
    "paper-icl-v1, changed: population.n_users 1000 -> 20: not comparable with the preset's numbers"
    """
    if not changes:
        return preset
    listed = ", ".join(f"{name} {shown(before)} -> {shown(now)}" for name, (before, now) in changes.items())
    return f"{preset}, changed: {listed}: not comparable with the preset's numbers"


def shown(value: Any) -> str:
    """Return a value as it is written in a setting: text as it is, else JSON."""
    return value if isinstance(value, str) else json.dumps(value)
