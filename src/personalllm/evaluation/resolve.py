"""Turn texts and objects into methods: `icl`, `icl[n_shots=3]`, `my_module:MyMethod`, or an object."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from personalllm.core.errors import UserError
from personalllm.core.storage import digest, file_sha256
from personalllm.core.types import JSON
from personalllm.evaluation.contract import NamedMethod, Track
from personalllm.evaluation.parts import TRACKS, load_track
from personalllm.evaluation.settings import read_value
from personalllm.methods.base import Method
from personalllm.methods.registry import get_method, list_methods, method_class

__all__ = [
    "left_out",
    "named",
    "only_track",
    "parse_method",
    "resolve",
    "slug",
    "split_list",
    "tracks_of",
    "without_source",
]

_FORM = re.compile(r"(?P<name>[^\[\]]+?)\s*(?:\[(?P<params>.*)\])?", re.DOTALL)
_SYNTAX = "Write NAME, NAME[parameter=value,...] or module:Class, e.g. icl[n_shots=3]."
_OURS = "personalllm."


def named(method: Method) -> NamedMethod:
    """Return a method with its label and key.

    Raises:
        UserError: If it has no id or a parameter that is not JSON.
    """
    kind, spec = type(method), method.spec()
    if not method.id:
        raise UserError(
            f"The method {kind.__module__}:{kind.__qualname__} has no id.",
            f'Add to the class: id: ClassVar[str] = "{kind.__qualname__.lower()}"',
        )
    identity: JSON = {"spec": method.identity()}
    if not kind.__module__.startswith(_OURS):
        spec = spec | {"class": f"{kind.__module__}:{kind.__qualname__}"}
        identity |= {"class": spec["class"], "source": _sources(kind)}
    try:
        suffix = digest(identity, 12)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The parameters of {method.id!r} cannot be written as JSON: {error}.",
            "Use numbers, strings, booleans, None, lists and dicts.",
        ) from None
    return NamedMethod(method, _label(method), f"{slug(method.id)}-{suffix}", spec)


def slug(name: str) -> str:
    """Return a name that any file system takes.

    >>> slug("model:smollm2 135m/plain")
    'model-smollm2-135m-plain'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


def _label(method: Method) -> str:
    """Return the id, with the parameters that differ from the defaults."""
    changed = []
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if field.default_factory is not dataclasses.MISSING:
            default: Any = field.default_factory()
        else:
            default = field.default
        if default is dataclasses.MISSING or value != default:
            changed.append(f"{field.name}={value if isinstance(value, str) else json.dumps(value, default=repr)}")
    return f"{method.id}[{','.join(changed)}]" if changed else method.id


def without_source(entries: Iterable[NamedMethod]) -> list[str]:
    """Return the labels of methods whose classes were typed into a session, so that no key tells an edited one."""
    return [entry.label for entry in entries if "" in _sources(type(entry.method))]


def _sources(kind: type) -> list[str]:
    """Return the digests of a class and its bases outside this package, then of the modules that they use."""
    outside = [base for base in kind.__mro__ if base is not object and not base.__module__.startswith(_OURS)]
    return [*map(_source, outside), *map(file_sha256, sorted({file for base in outside for file in _helpers(base)}))]


def _helpers(kind: type) -> set[Path]:
    """Return the files, in the class's own package or else folder, of the modules that its module names, and so on."""
    home = _file(kind.__module__)
    if home is None or home.parent.name == "site-packages":
        return set()
    depth = kind.__module__.count(".")
    root = home.parents[max(depth - 1, 0)]
    files: set[Path] = {home}
    waiting: list[Any] = [kind.__module__]
    while waiting:
        for value in list(vars(sys.modules[waiting.pop()]).values()):
            name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
            file = _file(name)
            if file is None or file in files or not file.is_relative_to(root) or (not depth and file.parent != root):
                continue
            files.add(file)
            waiting.append(name)
    return files - {home}


def _file(module: Any) -> Path | None:
    """Return the source file of an imported module, by its name."""
    file = getattr(sys.modules.get(module) if isinstance(module, str) else None, "__file__", None)
    return Path(file) if file and file.endswith(".py") and Path(file).is_file() else None


def _source(kind: type) -> str:
    """Return a digest of the file that defines a class, or of the class's own text, or nothing."""
    file = _file(kind.__module__)
    if file is not None:
        return file_sha256(file)
    try:
        return digest(inspect.getsource(kind), 64)
    except (OSError, TypeError):
        return ""


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Split `NAME[parameter=value,...]` into the name and the parameters; values are JSON, else plain strings.

    Raises:
        UserError: If the text has another form.

    >>> parse_method("icl[n_shots=3]")
    ('icl', {'n_shots': 3})
    >>> parse_method("my_module:Mine[mode=fast,weights=[1,2]]")
    ('my_module:Mine', {'mode': 'fast', 'weights': [1, 2]})
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UserError(f"Cannot read the method {text!r}.", _SYNTAX)
    params: dict[str, Any] = {}
    for item in split_list(match["params"] or ""):
        name, sign, value = item.partition("=")
        name = name.strip()
        if not sign or not name.isidentifier():
            raise UserError(f"Cannot read the parameter {item.strip()!r} of the method {text!r}.", _SYNTAX)
        if name in params:
            raise UserError(f"The parameter {name!r} stands twice in {text!r}.", "Give it once.")
        params[name] = read_value(value.strip())
    return match["name"].strip(), params


def split_list(text: str) -> list[str]:
    """Split at the commas that stand outside brackets, braces and quotes.

    >>> split_list("1,[2,3],x")
    ['1', '[2,3]', 'x']
    """
    items, depth, quoted, current = [], 0, False, ""
    for character in text:
        if character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character in "[{") - (character in "]}")
        if character == "," and not depth and not quoted:
            items.append(current)
            current = ""
        else:
            current += character
    return [*items, current] if current.strip() or items else []


def resolve(
    methods: Iterable[Method | str], track: type[Track], *, signals: bool = False
) -> tuple[tuple[NamedMethod, ...], tuple[str, ...]]:
    """Turn names and objects into named methods, each once, in the order given.

    Args:
        methods: Objects, or texts: a registered name, a name with parameters, `module:Class`, `all` (every
            registered method of the track that can be run here, see `left_out`), or the name of a baseline or an
            oracle of the track, which are always computed.
        track: The track that they must take part in.
        signals: Whether the protocol hands over the scores of the RMs.

    Returns:
        The methods, and the names of baselines and oracles that were given.

    Raises:
        UserError: If a text cannot be read, a parameter is unknown, a method is not of the track, or two different
            methods have the same label.
    """
    entries: dict[str, NamedMethod] = {}
    baselines: list[str] = []
    for item in methods:
        for resolved in _expand(item, track, signals=signals):
            if isinstance(resolved, str):
                baselines.append(resolved)
                continue
            entry = named(resolved)
            _check_track(entry, track)
            entries.setdefault(entry.key, entry)
    labels = [entry.label for entry in entries.values()]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"Two different methods are called {label!r}.", "Give one of them another id.")
        if track.is_baseline(label):
            raise UserError(f"The name {label!r} belongs to a baseline or an oracle.", "Give the method another id.")
    return tuple(entries.values()), tuple(baselines)


def left_out(track: type[Track], *, signals: bool = False) -> dict[str, str]:
    """Return what `all` leaves out of a track, and why.

    Args:
        track: The track.
        signals: Whether the protocol hands over the scores of the RMs.

    Returns:
        Name -> reason, of registered methods of the track: an extra that is not installed, scores of the RMs that
        the protocol does not allow, or, in a track with a large pool, that it takes long to fit.
    """
    reasons = {}
    for name, kind in _of_track(track):
        if "signals" in kind.needs and not signals:
            reasons[name] = "it uses the scores of the reward models, see --set prediction.reward_signals=true"
        elif kind.extra and find_spec(kind.extra) is None:
            reasons[name] = f'it needs: pip install "personalllm[{kind.extra}]"'
        elif kind.extra and track.large_pool:
            reasons[name] = "it takes long to learn from a large pool; name it to have it"
    return reasons


def tracks_of(method: type[Method]) -> tuple[str, ...]:
    """Return the names of the tracks that methods of a class can take part in."""
    return tuple(name for name in TRACKS if not load_track(name).accepts(method))


def only_track(methods: Iterable[str]) -> str | None:
    """Return the one track that all methods take part in; None if several do, or none.

    >>> only_track(["zero-shot", "icl[n_shots=3]"]), only_track(["random"])
    ('generate', None)
    """
    baselines = {name for track in TRACKS for name in load_track(track).names} - {*list_methods()}
    names = [text for text in methods if text not in {"all", *baselines} and not text.startswith("model:")]
    kinds = [method_class(parse_method(name)[0]) for name in names]
    common = set.intersection(*(set(tracks_of(kind)) for kind in kinds)) if kinds else set()
    return common.pop() if len(common) == 1 else None


def _of_track(track: type[Track]) -> Iterator[tuple[str, type[Method]]]:
    """Yield the registered methods of a track; a baseline's name belongs to the baseline."""
    for name in list_methods():
        kind = method_class(name)
        if not track.accepts(kind) and not track.is_baseline(name):
            yield name, kind


def _expand(item: object, track: type[Track], *, signals: bool) -> Sequence[Method | str]:
    if isinstance(item, Method):
        return (item,)
    if not isinstance(item, str):
        given = f"the class {item.__name__}" if isinstance(item, type) else type(item).__name__
        raise UserError(
            f"A method must be an object or a name, got {given}.",
            f"Pass {item.__name__}()." if isinstance(item, type) else "Pass e.g. MetaICL() or 'meta-icl'.",
        )
    if track.is_baseline(item):
        return (item,)
    if item == "all":
        without = left_out(track, signals=signals)
        return tuple(get_method(name) for name, _ in _of_track(track) if name not in without)
    name, params = parse_method(item)
    others = [other for other in TRACKS if name not in list_methods() and load_track(other).is_baseline(name)]
    if others:
        raise UserError(
            f"{item!r} is a baseline of another track: {', '.join(others)}.",
            f"Leave it out: the {track.id} track has {', '.join(track.names) or 'none'}.",
        )
    try:
        return (get_method(name, **params),)
    except TypeError as error:
        raise UserError(f"Cannot build the method {item!r}: {error}.", _SYNTAX) from None


def _check_track(entry: NamedMethod, track: type[Track]) -> None:
    kind = type(entry.method)
    reason = track.accepts(kind)
    if reason:
        others = tracks_of(kind)
        remedy = (
            f"It takes part in the {others[0]} track: use --track {others[0]}." if others else "It takes part in none."
        )
        if not kind.__module__.startswith(_OURS):
            remedy += f" Or implement `{track.hook}`."
        raise UserError(f"The method {entry.label!r} does not take part in the {track.id} track: {reason}.", remedy)
