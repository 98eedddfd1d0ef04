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
from personalllm.evaluation.settings import NOT_SET, flatten, merge, shown

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["PRESETS", "Preset", "get_preset", "list_presets"]

_LIMITED = (
    ("pool.pairs_per_user", "history_split"),
    ("history.pairs", "history_split"),
    ("history.nearest", "history_split"),
    ("prompts_per_user", "split"),
    ("prediction.shots", "history_split"),
    ("prediction.test_pairs", "split"),
)
"""What no benchmark can have more of than prompts in a split."""


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

        A response model that the benchmark does not have is replaced by the benchmark's own reference, which counts
        as a change like every override: see `changes`.

        Args:
            benchmark: What to evaluate on.
            **overrides: As for `Protocol.for_benchmark`.

        Raises:
            UserError: If the benchmark is too small for a value of the preset; names the override that helps. If
                the preset is of the predict track and another one is asked for, or the other way round.
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
        given = merge({}, overrides)
        self._check_size(benchmark, settings, flatten(given))
        return Protocol.for_benchmark(benchmark, preset=self.id, **settings)

    def _check_size(self, benchmark: Benchmark, settings: JSON, given: JSON) -> None:
        """Raise if a value that nobody gave is larger than the benchmark allows."""
        flat = flatten(settings)
        for name, split in _LIMITED:
            rows = len(benchmark.splits.get(flat[split], ()))
            value, fitting = flat.get(name), _fitting(flat.get(name), rows)
            if rows and name not in given and value != fitting:
                raise UserError(
                    f"The preset {self.id} has {name} = {shown(value)}, but the {flat[split]} split of the benchmark "
                    f"{benchmark.name!r} has {rows} prompts.",
                    f"Override it: --set {name}={shown(fitting)} (in Python: {_in_python(name, fitting)}), or less. "
                    "The result says that it was changed.",
                )

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


def _fitting(value: Any, rows: int) -> Any:
    """Return a number, or a list of numbers, without what is larger than a split."""
    if isinstance(value, (tuple, list)):
        fits = [each for each in value if not isinstance(each, int) or each <= rows]
        return value if len(fits) == len(value) else fits or [rows]
    return rows if isinstance(value, int) and value > rows else value


def _in_python(name: str, value: Any) -> str:
    part, dot, field = name.partition(".")
    return f"{part}={{'{field}': {value}}}" if dot else f"{name}={value}"


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
    ('copl-v1', 'dong8-v1', 'lore-v1', 'paper-icl-v1')
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
