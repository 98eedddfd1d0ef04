"""Named protocols: the settings of the paper's and of others' experiments, as data, and what a protocol changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from personalllm.core.errors import UnknownName, UserError
from personalllm.core.storage import shipped_tables
from personalllm.core.types import JSON
from personalllm.evaluation.parts import load_track
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.settings import NOT_SET, flatten, merge, nest
from personalllm.evaluation.sizes import check_data

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["PRESETS", "Preset", "as_protocol", "get_preset", "list_presets"]

_LIMITED = (
    ("prediction.survey", "history_split"),
    ("pool.pairs_per_user", "history_split"),
    ("history.pairs", "history_split"),
    ("history.nearest", "history_split"),
    ("prompts_per_user", "split"),
    ("prediction.shots", "history_split"),
    ("prediction.test_pairs", "split"),
    ("prediction.seen_test_pairs", "split"),
)
"""What no benchmark can have more of than pairs to compare, or prompts, in a split."""


@dataclass(frozen=True, eq=False)
class Preset:
    """A protocol with a name and a version, and the methods that it was made for.

    Attributes:
        id: Name and version, e.g. `paper-icl-v1`; a change of any value needs a new version.
        title: A few words.
        description: What it is and what one has to know.
        source: Where the settings come from.
        protocol: Every field of the protocol but the benchmark's and the backends' (and, in the predict track, the
            reference response model).
        methods: What takes part, as `evaluate` reads it.
    """

    id: str
    title: str
    description: str
    source: str
    protocol: Mapping[str, Any]
    methods: tuple[str, ...]

    def protocol_for(self, benchmark: Benchmark, /, **overrides: Any) -> Protocol:
        """Return the preset's protocol for a benchmark.

        What the benchmark does not have is replaced: a response model by the benchmark's own reference, RMs by as many
        of its own, numbers of prompts and pairs by the largest that fits. Each counts as a change like an override: see
        `changes`.

        Args:
            benchmark: What to evaluate on.
            **overrides: As for `Protocol.for_benchmark`.

        Raises:
            UserError: If the preset is of the predict track and another one is asked for, or the other way round, or
                the data are people's.
            ParameterError: If an override is unknown or out of range.
        """
        if not hasattr(benchmark, "splits"):
            raise UserError(f"The preset {self.id} sets simulated users, not people.", "Leave the preset out.")
        preset_track = self.protocol["track"]
        track = overrides.get("track", preset_track)
        derived = [options.derived for name in (track, preset_track) if (options := load_track(name).options)]
        if track != preset_track and any(derived):
            raise UserError(
                f"The preset {self.id} is of the {preset_track} track, whose settings mean nothing in the {track} "
                "track.",
                f"Leave the track out, or take the defaults of the {track} track without a preset.",
            )
        settings = merge(self.protocol, overrides)
        reference = self.protocol.get("reference_response_model")
        if reference and "reference_response_model" not in overrides and reference not in benchmark.response_models:
            del settings["reference_response_model"]
        self._fit(benchmark, settings, flatten(merge({}, overrides)))
        return Protocol.for_benchmark(benchmark, preset=self.id, **settings)

    def _fit(self, benchmark: Benchmark, settings: JSON, given: JSON) -> None:
        """Replace, in place, defaults that the benchmark is too small for."""
        flat = flatten(settings)
        per_prompt = flat.get("feedback.pairs_per_prompt") or 1
        reserved = 0
        for name, split in _LIMITED:
            rows = len(benchmark.splits.get(flat[split], ()))
            if not rows or flat.get(name) is None:
                continue
            maximum = rows if name in {"history.nearest", "prompts_per_user"} else rows * per_prompt
            if name == "prediction.survey":
                # half, so that something is left to fit on
                maximum, reserved = maximum // 2, min(flat[name], maximum // 2) if name not in given else flat[name]
            elif name == "pool.pairs_per_user":
                maximum -= reserved * per_prompt
            if name not in given:
                _set(settings, name, _at_most(flat[name], maximum))
        chosen = flat.get("population.reward_models") or ()
        if "population.reward_models" not in given and not {*chosen} <= {*benchmark.reward_models}:
            own = [name for name in benchmark.reward_models if name not in chosen]
            there = [name for name in chosen if name in benchmark.reward_models]
            _set(settings, "population.reward_models", [*there, *own][: len(chosen)])

    def changes(self, protocol: Protocol) -> dict[str, tuple[Any, Any]]:
        """Return what a protocol changes of the preset: name -> (the preset's value, the protocol's value).

        The benchmark and the backends are no part of a preset.
        """
        # without a reference model of the preset's own, no metric of its track has one
        left_out = {*NOT_SET, *({"reference_response_model"} - set(self.protocol))}
        current = flatten({name: value for name, value in protocol.spec().items() if name not in left_out})
        preset = flatten(json.loads(json.dumps(dict(self.protocol))))
        return {
            name: (preset.get(name), current.get(name))
            for name in [*preset, *(extra for extra in current if extra not in preset)]
            if preset.get(name) != current.get(name)
        }


def _at_most(value: Any, maximum: int) -> Any:
    """Return a number, or a list of numbers, with those above the maximum replaced by it."""
    if isinstance(value, (tuple, list)):
        return sorted({min(each, maximum) for each in value})
    return min(value, maximum)


def _set(settings: JSON, name: str, value: Any) -> None:
    """Set a setting, given by its dotted name, in place."""
    part, dot, field = name.partition(".")
    if dot:
        settings[part] = {**settings[part], field: value}
    else:
        settings[name] = value


def _read() -> dict[str, Preset]:
    """Return the presets in `presets.toml`."""
    tables = shipped_tables("personalllm.evaluation", "presets.toml")
    return {
        name: Preset(name, **_with_none(table) | {"methods": tuple(table["methods"])}) for name, table in tables.items()
    }


def _with_none(value: Any) -> Any:
    """Return a value of the file; TOML has no null, so it is written as a text."""
    if isinstance(value, dict):
        return {name: _with_none(inner) for name, inner in value.items()}
    return None if value == "null" else value


PRESETS: dict[str, Preset] = _read()
"""The presets by id; a bare name such as `paper-icl` stands for the newest version."""


def list_presets() -> tuple[str, ...]:
    """Return the ids of the presets, versions included.

    >>> list_presets()[:4]
    ('copl-v2', 'dong8-v2', 'lore-v1', 'online-v1')
    """
    return tuple(sorted(PRESETS))


def get_preset(name: str) -> Preset:
    """Return a preset by its id, or the newest version of a bare name.

    Raises:
        UnknownName: If there is none of that name; lists the nearest.

    >>> get_preset("paper-icl").id
    'paper-icl-v1'
    """
    if name in PRESETS:
        return PRESETS[name]
    versions = {_version(preset): preset for preset in PRESETS if preset.rpartition("-v")[0] == name}
    if not versions:
        raise UnknownName("preset", name, {*PRESETS, *(preset.rpartition("-v")[0] for preset in PRESETS)})
    return PRESETS[versions[max(versions)]]


def _version(preset: str) -> int:
    return int(preset.rpartition("-v")[2])


def as_protocol(protocol: Protocol | str | Mapping[str, Any] | None, data: Any, track: str | None = None) -> Protocol:
    """Return the protocol of a run.

    Args:
        protocol: As for `evaluate`.
        data: A benchmark or the preferences of people.
        track: Name of the track; None: that of the protocol.

    Raises:
        UserError: If the data are neither, or the protocol is of another track, or was made for other data.
        ParameterError: If a setting is unknown or out of range.
    """
    check_data(data)
    chosen: Mapping[str, Any] = {} if track is None else {"track": track}
    if isinstance(protocol, Protocol):
        if track not in (None, protocol.track):
            raise UserError(
                f"The protocol is of the {protocol.track} track, but track={track!r} was given.",
                "Leave the track out, or make a protocol with Protocol.for_data(..., track=...).",
            )
        protocol.check(data)
        return protocol
    if isinstance(protocol, str):
        return get_preset(protocol).protocol_for(data, **chosen)
    return Protocol.for_data(data, **{**nest(protocol or {}), **chosen})
