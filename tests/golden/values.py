"""How golden values are stored and compared.

A group of values is a nested dict whose leaves are texts, numbers, None, short lists of them, and NumPy arrays:

- texts, integers and None must be equal;
- numbers must agree to 1e-9, which only leaves room for the order of a sum;
- arrays must be equal to the last bit: they are stored as a text, the numbers of short ones, a digest of longer ones.

Values of methods that go through BLAS depend on the processor. Their arrays are stored as numbers, and all their
numbers are compared with `BLAS_RTOL` and `BLAS_ATOL`. `BLAS` names the methods; a value belongs to a method if a part
of its path does, e.g. `user-bt[n_features=6] > per_user > regret`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

BLAS = {
    *("embedding-ranker", "matrix-factorisation", "nearest-users", "pooled-bt", "pooled-ranker", "rm-mixture"),
    *("user-bt", "best-linear", "hierarchical-bt", "calibrated-bayes", "lore", "pref"),
    # no BLAS, but einsum, log, exp and tanh in loops whose order or last bit depends on the processor
    *("longer", "population", "true-weights"),
}
BLAS_RTOL, BLAS_ATOL = 1e-4, 1e-6
RTOL, ATOL = 1e-9, 1e-12

_SEPARATOR = " > "
_MOST_NUMBERS = 10
_MOST_TOLERANT_NUMBERS = 24


def stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they are stored, as JSON."""
    return _stored_dict(values, ())


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return a line for each stored value that is missing, new or different."""
    old, new = dict(_leaves(expected)), dict(_leaves(found))
    lines = [f"{path}: missing, expected {old[path]!r}" for path in old if path not in new]
    lines += [f"{path}: not expected, got {new[path]!r}" for path in new if path not in old]
    for path, value in old.items():
        if path in new and not _agree(value, new[path], tolerant=_tolerant(path)):
            lines.append(f"{path}:\n    expected {value!r}\n    got      {new[path]!r}")
    return lines


def to_text(values: Any, indent: int = 0) -> str:
    """Return JSON with sorted keys, a line for each leaf."""
    if not isinstance(values, Mapping) or not values:
        return json.dumps(values)
    inner = " " * (indent + 1)
    lines = [f"{inner}{json.dumps(name)}: {to_text(values[name], indent + 1)}" for name in sorted(values)]
    return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"


def _stored_dict(values: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        here = (*path, str(name))
        nested = isinstance(value, Mapping)
        found[str(name)] = (
            _stored_dict(value, here) if nested else _stored(value, tolerant=_tolerant(_SEPARATOR.join(here)))
        )
    return found


def _leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        here = (*path, name)
        if isinstance(value, Mapping):
            yield from _leaves(value, here)
        else:
            yield _SEPARATOR.join(here), value


def _tolerant(path: str) -> bool:
    """Tell whether a value depends on the processor: a part of its path is, or compares, such a method."""
    sides = [side for part in path.split(_SEPARATOR) for side in part.split(" against ")]
    return any(side.partition("[")[0].partition(",")[0] in BLAS for side in sides)


def _stored(leaf: Any, *, tolerant: bool) -> Any:
    if isinstance(leaf, np.ndarray):
        return _stored_array(leaf, tolerant=tolerant)
    if isinstance(leaf, (list, tuple)):
        return [_stored(item, tolerant=tolerant) for item in leaf]
    if isinstance(leaf, (bool, np.bool_)):
        return bool(leaf)
    if isinstance(leaf, (float, np.floating)):
        number = float(leaf)
        return float(f"{number:.{7 if tolerant else 11}g}") if math.isfinite(number) else str(number)
    return int(leaf) if isinstance(leaf, np.integer) else leaf


def _stored_array(array: np.ndarray, *, tolerant: bool) -> Any:
    if tolerant and array.dtype.kind == "f":
        if array.size <= _MOST_TOLERANT_NUMBERS:
            return [_stored(x, tolerant=True) for x in array.ravel().tolist()]
        wide = array.astype(np.float64)
        return [_stored(float(x), tolerant=True) for x in (wide.mean(), wide.std(), wide.min(), wide.max())]
    kind = f"{array.dtype} {array.shape}"
    if array.size <= _MOST_NUMBERS:
        # the shortest decimals that give the same bits back
        return f"{kind}: {' '.join(str(x) for x in array.ravel())}"
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    total = f" sum {math.fsum(array.ravel().tolist()):.9g}" if array.dtype.kind == "f" else ""
    return f"{kind}{total} sha256 {hashlib.sha256(little.tobytes()).hexdigest()[:16]}"


def _agree(expected: Any, found: Any, *, tolerant: bool) -> bool:
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(
            _agree(one, other, tolerant=tolerant) for one, other in zip(expected, found, strict=True)
        )
    if isinstance(expected, float) and isinstance(found, float):
        rtol, atol = (BLAS_RTOL, BLAS_ATOL) if tolerant else (RTOL, ATOL)
        return abs(expected - found) <= atol + rtol * abs(expected)
    return type(expected) is type(found) and expected == found
