"""Show the settings of runs beside each other, and the command that repeats a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from personalllm.evaluation import settings
from personalllm.evaluation.parts import TRACKS, options_of
from personalllm.evaluation.protocol import Protocol
from personalllm.report.numbers import ABSENT

if TYPE_CHECKING:
    from personalllm.core.types import JSON
    from personalllm.evaluation.results import MethodResult, Results

__all__ = ["Setting", "command", "flatten", "side_by_side"]


@dataclass(frozen=True, slots=True)
class Setting:
    """A line of a table of settings: its name, and its value in each run."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs disagree."""
        return len(set(self.values)) > 1


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) for every leaf of a JSON object; a list of plain values is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(inner, (Mapping, list, tuple)) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{prefix}[{index}]")
    else:
        yield prefix, value


def flatten(value: Any) -> dict[str, str]:
    """Return the leaves of a JSON object as text, by dotted name.

    >>> flatten({"a": {"b": True, "c": [1, 2]}, "d": None})
    {'a.b': 'yes', 'a.c': '1, 2', 'd': 'none'}
    """
    return {
        key: ", ".join(map(_leaf, leaf)) if isinstance(leaf, (list, tuple)) and leaf else _leaf(leaf)
        for key, leaf in _leaves(value)
    }


def _leaf(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def side_by_side(specs: Sequence[JSON]) -> tuple[Setting, ...]:
    """Return a line for each leaf of several JSON objects."""
    flat = [flatten(spec) for spec in specs]
    names = dict.fromkeys(name for leaves in flat for name in leaves)
    return tuple(Setting(name, tuple(leaves.get(name, ABSENT) for leaves in flat)) for name in names)


def command(results: Results) -> str:
    """Return the command that repeats a run: its methods, and every setting that is not a default.

    For a run on people the place of their file is held by `PEOPLE_FILE`, since a run keeps its name only.
    """
    protocol = results.protocol
    data = "PEOPLE_FILE" if protocol.get("folds") else results.data_name
    methods = [_typed(row) for row in results.methods if row.kind == "method"]
    words = ["personalllm", "evaluate", *methods, "--track", results.track, "--data", data]
    for name, value in _changed(protocol, results.track).items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    for name, backend in (results.manifest.get("backends") or {}).items():
        words += [f"--{name}", str(backend)]
    return shlex.join([*words, "--out", results.directory.parent.name if results.directory else "runs"])


def _changed(protocol: JSON, track: str) -> JSON:
    """Return the settings that differ from the defaults, and those whose default depends on the data."""
    flat = {name: value for name, value in settings.flatten(protocol).items() if name not in settings.NOT_SET}
    del flat["track"]
    if track not in TRACKS:
        return flat
    options = options_of(track, people=bool(protocol.get("folds")))
    derived, part = (tuple(options.derived), options.part) if options is not None else ((), "")
    named = {name: protocol[name] for name in ("track", "benchmark", "benchmark_fingerprint")}
    named |= {"folds": {}} if protocol.get("folds") else {}
    defaults = settings.flatten(Protocol.from_spec(named).spec())
    # a seed on the command line sets those of the users and the pool, unless they are given as well
    seeds = ("population.seed", "pool.seed") if flat.get("seed") != defaults["seed"] else ()
    return {
        name: value
        for name, value in flat.items()
        if name.partition(".")[0] not in derived
        and (name in seeds or name.partition(".")[0] == part or value != defaults.get(name))
    }


def _typed(row: MethodResult) -> str:
    """Return what to type for a method: its label, with `module:Class` for the id if it is the user's own."""
    own = row.spec.get("class")
    return f"{own}{row.label.removeprefix(str(row.spec['id']))}" if own else row.label
