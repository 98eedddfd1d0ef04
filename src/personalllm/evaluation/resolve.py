"""From what people write to a method: `icl`, `icl[n_shots=3]`, `my_module:MyMethod`, or an object."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from personalllm.core.errors import UserError
from personalllm.core.storage import digest, file_sha256
from personalllm.core.types import JSON
from personalllm.evaluation.protocol import TrackName
from personalllm.evaluation.references import PREDICTORS, REFERENCES
from personalllm.evaluation.settings import read_value
from personalllm.methods.base import Method
from personalllm.methods.registry import get_method, list_methods, method_class

__all__ = ["Entry", "check_references", "left_out", "parse_method", "resolve", "split_list"]

_FORM = re.compile(r"(?P<name>[^\[\]]+?)\s*(?:\[(?P<params>.*)\])?", re.DOTALL)
_SYNTAX = "Write NAME, NAME[parameter=value,...] or module:Class, e.g. icl[n_shots=3]."
_OURS = "personalllm."


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A method that takes part in a run.

    Attributes:
        method: Unfitted.
        label: Unique name: the id with the parameters that differ from the defaults.
        key: Folder name: the id and a digest of the spec; for a method from outside this package the digest
            covers the source files of its class and of the bases outside this package too, so that an edited
            method is not taken for its former self.
    """

    method: Method
    label: str
    key: str

    def spec(self) -> JSON:
        """Return what is needed to make the method again; of one from outside this package, its class too."""
        kind, spec = type(self.method), self.method.spec()
        return spec if kind.__module__.startswith(_OURS) else spec | {"class": f"{kind.__module__}:{kind.__qualname__}"}

    @classmethod
    def of(cls, method: Method) -> Entry:
        """Name a method.

        Raises:
            UserError: If it has no id or a parameter that is not JSON.
        """
        kind = type(method)
        if not method.id:
            raise UserError(
                f"The method {kind.__module__}:{kind.__qualname__} has no id.",
                f'Add to the class: id: ClassVar[str] = "{kind.__qualname__.lower()}"',
            )
        identity: JSON = {"spec": method.spec()}
        if not kind.__module__.startswith(_OURS):
            identity |= {"class": f"{kind.__module__}:{kind.__qualname__}", "source": _sources(kind)}
        try:
            suffix = digest(identity, 12)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"The parameters of {method.id!r} cannot be written as JSON: {error}.",
                "Use numbers, strings, booleans, None, lists and dicts.",
            ) from None
        return cls(method, _label(method), f"{slug(method.id)}-{suffix}")


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


def _sources(kind: type) -> list[str]:
    """Return the digests of a class and of its bases outside this package."""
    return [_source(base) for base in kind.__mro__ if base is not object and not base.__module__.startswith(_OURS)]


def _source(kind: type) -> str:
    """Return a digest of the file that defines a class, or of the class's own text, or nothing."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if file and Path(file).is_file():
        return file_sha256(Path(file))
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
    methods: Iterable[Method | str], track: TrackName, *, signals: bool = False
) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Turn names and objects into entries, each once, in the order given.

    Args:
        methods: Objects, or texts: a registered name, a name with parameters, `module:Class`, `all` (every
            registered method of the track that can be run here, see `left_out`), or the name of a reference
            policy, in the predict track of a null or an oracle (always computed).
        track: The track that they must take part in.
        signals: Whether the protocol hands over the scores of the RMs.

    Returns:
        The entries, and the names of the reference policies that were asked for.

    Raises:
        UserError: If a text cannot be read, a parameter is unknown, a method is not of the track, or two different
            methods have the same label.
    """
    entries: dict[str, Entry] = {}
    references: list[str] = []
    for item in methods:
        for found in _expand(item, track, signals=signals):
            if isinstance(found, str):
                references.append(found)
                continue
            entry = Entry.of(found)
            _check_track(entry, track)
            entries.setdefault(entry.key, entry)
    labels = [entry.label for entry in entries.values()]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"Two different methods are called {label!r}.", "Give one of them another id.")
        if _is_reference(label, track):
            what = "a null or an oracle" if track == "predict" else "a reference policy"
            raise UserError(f"The name {label!r} belongs to {what}.", "Give the method another id.")
    return tuple(entries.values()), tuple(references)


def check_references(references: Iterable[str], response_model: str) -> None:
    """Raise unless every reference policy that was asked for is one that the run computes.

    Args:
        references: From `resolve`.
        response_model: The protocol's reference response model.

    Raises:
        UserError: If `model:NAME` is not the reference response model; says how to make it so.
    """
    for reference in references:
        name = reference.removeprefix("model:")
        if reference not in REFERENCES and name != response_model:
            raise UserError(
                f"{reference!r} is not the reference response model of this run, which is {response_model!r}.",
                f"Pass --reference-model {name} (in Python: reference_response_model={name!r}).",
            )


def _is_reference(name: str, track: TrackName) -> bool:
    return name in PREDICTORS if track == "predict" else name in REFERENCES or name.startswith("model:")


def left_out(track: TrackName, *, signals: bool = False) -> dict[str, str]:
    """Return what `all` leaves out of a track, and why.

    Args:
        track: The track.
        signals: Whether the protocol hands over the scores of the RMs.

    Returns:
        Name -> reason, of registered methods of the track: an extra that is not installed, scores of the RMs that
        the protocol does not allow, or, in the rank track with its large pool, that it takes long to fit.
    """
    found = {}
    for name in list_methods():
        kind = method_class(name)
        if track not in kind.tracks() or _is_reference(name, track):
            continue
        if "signals" in kind.needs and not signals:
            found[name] = "it uses the scores of the reward models, see --set prediction.reward_signals=true"
        elif kind.extra and find_spec(kind.extra) is None:
            found[name] = f'it needs: pip install "personalllm[{kind.extra}]"'
        elif kind.extra and track == "rank":
            found[name] = "it takes long to learn from a large pool; name it to have it"
    return found


def _expand(item: Method | str, track: TrackName, *, signals: bool) -> Sequence[Method | str]:
    if isinstance(item, Method):
        return (item,)
    if not isinstance(item, str):
        raise UserError(
            f"A method must be an object or a name, got {type(item).__name__}.",
            "Pass e.g. MetaICL() or 'meta-icl'.",
        )
    if _is_reference(item, track):
        return (item,)
    if track == "predict" and _is_reference(item, "rank"):
        raise UserError(
            f"{item!r} is a reference policy of the rank and the generate track.",
            f"Leave it out: the predict track has the nulls and oracles {', '.join(PREDICTORS)}.",
        )
    if item == "all":
        without = left_out(track, signals=signals)
        return tuple(
            get_method(name)
            for name in list_methods()
            if track in method_class(name).tracks() and name not in without and not _is_reference(name, track)
        )
    name, params = parse_method(item)
    try:
        return (get_method(name, **params),)
    except TypeError as error:
        raise UserError(f"Cannot build the method {item!r}: {error}.", _SYNTAX) from None


def _check_track(entry: Entry, track: TrackName) -> None:
    kind = type(entry.method)
    if track not in kind.tracks():
        method = "messages" if track == "generate" else "utilities"
        others = kind.tracks()
        remedy = (
            f"It takes part in the {others[0]} track: use --track {others[0]}." if others else "It takes part in none."
        )
        if not kind.__module__.startswith(_OURS):
            remedy += f" Or implement `{method}`."
        raise UserError(f"The method {entry.label!r} does not take part in the {track} track.", remedy)
