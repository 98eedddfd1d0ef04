"""Write what a method learned to a folder, and read it back: arrays as safetensors, everything else as JSON.

Nothing is pickled, so reading a folder from somewhere else builds numbers, texts and the dataclasses of this package,
and runs no code of its author's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import UserError
from personalllm.core.registry import load_object
from personalllm.core.storage import digest, file_sha256, write_json
from personalllm.core.types import JSON

__all__ = ["FORMAT", "NOTE", "damaged_note", "read_note", "read_state", "write_state"]

FORMAT = 1
"""Version of the layout; a reader refuses every other."""

NOTE, ARRAYS = "method.json", "arrays.safetensors"

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
_KINDS = "biuf"
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of a character, which UTF-8 cannot write
_AGAIN = "Save the method again, or copy the whole folder again."
_PACKAGE = "personalllm."


def write_state(folder: Path, note: JSON, state: Mapping[str, Any], module: str) -> None:
    """Write a note and named values, as a whole or not at all.

    Args:
        folder: Made if it is absent, replaced if it holds a saved method and nothing else.
        note: JSON that describes the values.
        state: Arrays, numbers, texts, and lists, tuples, dicts and dataclasses of these.
        module: Module of the method: its dataclasses may be among the values, beside those of this package.

    Raises:
        UserError: If a value cannot be written, or the folder holds something else.
    """
    from safetensors.numpy import save_file

    folder = folder.resolve()  # "." and "x/.." have no name to rename
    _check_replaceable(folder)
    arrays: Arrays = {}
    values = {name: _packed(value, name, arrays, module) for name, value in state.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        save_file(arrays, new / ARRAYS)
        note = {**note, "format": FORMAT, "state": values, "arrays": file_sha256(new / ARRAYS)}
        write_json(new / NOTE, {**note, "digest": digest(note, 64)})
        if folder.exists():  # a folder with files cannot be replaced in one step: it is moved away first
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                shutil.move(old, folder)
            raise


def _check_replaceable(folder: Path) -> None:
    """Raise if replacing a folder would lose anything but a saved method."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not folder.is_dir() or (names and NOTE not in names):
        raise UserError(f"{folder} exists and holds no saved method.", "Name a new folder, or an empty one.")
    if others := sorted(names - {NOTE, ARRAYS}):
        listed = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise UserError(
            f"{folder} holds more than a saved method, and saving would delete it: {listed}.",
            "Name a new folder, or move these files away.",
        )
    if folder == Path.cwd():
        raise UserError(f"{folder} is the working folder, which cannot be replaced.", "Name a folder inside it.")


def damaged_note(folder: Path, reason: str) -> UserError:
    """Return the error for a note that cannot be used."""
    return UserError(f"{folder / NOTE} is damaged: {reason}.", _AGAIN)


def read_note(folder: Path) -> JSON:
    """Return the note of a saved method.

    Raises:
        UserError: If it is missing or damaged, or of another format.
    """
    if not (folder / NOTE).is_file():
        raise UserError(f"There is no saved method in {folder}: {NOTE} is missing.", "Write one: method.save(folder).")
    try:
        note: JSON = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        version = note["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged_note(folder, f"{type(error).__name__}: {error}") from error
    if version != FORMAT:
        remedy = f"Read it with the personalllm that wrote it ({note.get('personalllm', 'unknown')}), or fit again."
        raise UserError(f"{folder} has format {version}; this version of personalllm reads format {FORMAT}.", remedy)
    if note.pop("digest", None) != digest(note, 64):
        raise UserError(f"{folder / NOTE} is damaged or was edited: its digest does not match its content.", _AGAIN)
    return note


def read_state(folder: Path, note: JSON, module: str) -> dict[str, Any]:
    """Return the values that `write_state` wrote beside a note.

    Raises:
        UserError: If the file of the arrays is missing or is not the one that was written, or the note does not
            describe values.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not (folder / ARRAYS).is_file():
        raise UserError(f"{folder / ARRAYS} is missing.", _AGAIN)
    data = (folder / ARRAYS).read_bytes()
    if sha256(data).hexdigest() != note.get("arrays"):
        raise UserError(f"{folder / ARRAYS} is damaged: its SHA-256 is not the one in {NOTE}.", _AGAIN)
    try:
        arrays = load(data)
        return {name: _unpacked(value, arrays, module) for name, value in note["state"].items()}
    except UserError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged_note(folder, f"its values cannot be read: {type(error).__name__}: {error}") from error


def _packed(value: Any, name: str, arrays: Arrays, module: str) -> Any:
    """Return a value as JSON; arrays go into `arrays` and are referred to by `name`."""
    if value is None or isinstance(value, bool | int | str):
        return {"escaped": json.dumps(value)} if isinstance(value, str) and _SURROGATES.search(value) else value
    if isinstance(value, float) and not isinstance(value, np.generic):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _KINDS and value.dtype.itemsize <= 8:
        # a copy in C order: safetensors writes the memory of a transposed array as it lies
        key = f"{len(arrays)} {name}"
        arrays[key] = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        return {"scalar" if isinstance(value, np.generic) else "array": key}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": [[key, _packed(item, f"{name}.{key}", arrays, module)] for key, item in value.items()]}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        items = [_packed(item, f"{name}.{i}", arrays, module) for i, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    kind = type(value)
    if dataclasses.is_dataclass(kind) and _may_build(kind.__module__, module) and "." not in kind.__qualname__:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(kind) if f.init}
        packed = {key: _packed(item, f"{name}.{key}", arrays, module) for key, item in fields.items()}
        return {"dataclass": f"{kind.__module__}:{kind.__qualname__}", "fields": packed}
    raise UserError(
        f"The attribute {name!r} cannot be saved: it is of type {kind.__module__}.{kind.__qualname__}.",
        "Learn arrays, numbers, texts, and lists, tuples, dicts with text keys or dataclasses of these "
        "(a tensor as tensor.numpy()); what can be made again belongs in an attribute that starts with an underscore.",
    )


def _unpacked(node: Any, arrays: Arrays, module: str) -> Any:
    """Return the value that `_packed` described."""
    if not isinstance(node, dict):
        return node
    if "dataclass" in node:
        reference = node["dataclass"]
        if not _may_build(reference.partition(":")[0], module):
            raise UserError(f"The saved method holds a {reference}, which is not of its module or this package.")
        kind = load_object(reference)
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise UserError(f"The saved method holds a {reference}, which is no dataclass.")
        return kind(**{name: _unpacked(value, arrays, module) for name, value in node["fields"].items()})
    ((form, value),) = node.items()
    if form in ("float", "escaped"):
        return float(value) if form == "float" else json.loads(value)
    if form == "array":
        return arrays[value]
    if form == "scalar":
        return arrays[value][()]
    if form == "dict":
        return {name: _unpacked(item, arrays, module) for name, item in value}
    items = [_unpacked(item, arrays, module) for item in value]
    return tuple(items) if form == "tuple" else items


def _may_build(origin: str, module: str) -> bool:
    """Tell whether dataclasses of a module may be saved and built: those of this package and of the method's module."""
    return origin == module or origin.startswith(_PACKAGE)
