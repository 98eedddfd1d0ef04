"""Settings of a protocol by name: short forms, dotted paths, differences between two protocols."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.types import JSON
from personalllm.evaluation.parts import TRACKS, load_track, options_of, track_options

__all__ = [
    "NOT_SET",
    "describe_changes",
    "expand",
    "flatten",
    "merge",
    "nest",
    "not_of_track",
    "parse_setting",
    "parts",
    "read_value",
    "short_forms",
    "shown",
]

_PARTS = ("population", "folds", "pool", "history", "feedback")

_SHORT: dict[str, tuple[tuple[str, str], ...]] = {
    "n_users": (("population", "n_users"),),
    "alpha": (("population", "alpha"),),
    "pairs": (("history", "pairs"),),
    "nearest": (("history", "nearest"),),
    "counterfactual": (("history", "counterfactual"),),
    "pool_users": (("pool", "n_users"),),
    "pool_pairs": (("pool", "pairs_per_user"),),
    "user_folds": (("folds", "user_folds"),),
    "prompt_folds": (("folds", "prompt_folds"),),
    "seed": (("", "seed"), ("population", "seed"), ("pool", "seed")),
}


def parts() -> tuple[str, ...]:
    """Return the settings of a protocol that have fields of their own, those of the tracks last."""
    return (*_PARTS, *track_options())


def short_forms() -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the short forms of settings: name -> (part, field) of each setting that it stands for."""
    of_tracks = {
        name: ((part, field),) for part, options in track_options().items() for name, field in options.short.items()
    }
    return _SHORT | of_tracks


def expand(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Split overrides into top-level values and changes of the nested parts; a long form wins over a short one.

    >>> expand({"alpha": 0.1, "population": {"n_users": 3}, "limit": 2})[0]
    {'limit': 2}
    """
    values: dict[str, Any] = {}
    short = short_forms()
    nested: dict[str, dict[str, Any]] = {part: {} for part in parts()}
    for name, value in overrides.items():
        if name in nested:
            nested[name].update(_fields(name, value))
        elif name not in short:
            values[name] = value
    for name in short.keys() & overrides.keys():
        for part, field in short[name]:
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


def not_of_track(part: str, track: str, value: Any) -> ParameterError:
    """Return the error for options that another track has."""
    owners = [name for name in TRACKS if (options := load_track(name).options) is not None and options.part == part]
    hint = f" (it is of the {owners[0]} track: --track {owners[0]})" if owners else ""
    return ParameterError(part, f"left out in the {track} track{hint}", value)


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> JSON:
    """Return overrides for `Protocol.for_data`: those of `base`, changed by `overrides` field by field.

    Settings of `base` that belong to another track are dropped if the track is changed, and so are those that follow
    from the options of either track.

    >>> merge({"track": "generate", "max_tokens": 512}, {"track": "rank", "alpha": 0.1})
    {'track': 'rank', 'population': {'alpha': 0.1}}
    """
    values, nested = expand(base)
    new_values, new_nested = expand(overrides)
    merged = values | new_values
    people = bool(nested["folds"] or new_nested["folds"])
    tracks = (values.get("track"), merged.get("track"))
    owners = {track: options_of(track, people=people) for track in tracks if track}
    options = owners.get(merged.get("track"))
    for part in track_options():
        if options is None or part != options.part:
            nested[part] = {}
    for owner in owners.values():
        for part in owner.derived if owner else ():
            nested[part] = {}
    return merged | {part: nested[part] | new_nested[part] for part in parts() if nested[part] or new_nested[part]}


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
    """Return dotted names as nested mappings, what `Protocol.for_data` takes; the reverse of `flatten`.

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
            nested[name] = (
                {**nested.get(name, {}), **value} if name in parts() and isinstance(value, Mapping) else value
            )
            continue
        if part not in parts() or not field.isidentifier():
            raise UserError(
                f"There is no setting {name!r} in the protocol.",
                f"Before the dot stands one of {', '.join(parts())}; after it a field, as in population.alpha.",
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
    """Return a line about how a result relates to a preset.

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
