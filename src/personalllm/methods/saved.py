"""Read a saved method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from personalllm.core.backends import backend
from personalllm.core.errors import ParameterError, PersonalLLMError, UserError
from personalllm.core.protocols import RewardSignals
from personalllm.core.types import JSON
from personalllm.methods.base import Method
from personalllm.methods.registry import recorded_class
from personalllm.methods.state import damaged_note, read_note, read_state

__all__ = ["load_method"]


def load_method(
    path: str | Path,
    *,
    embedder: object = None,
    llm: object = None,
    signals: RewardSignals | None = None,
    cls: type[Method] | None = None,
) -> Method:
    """Return the method that `Method.save` wrote, fitted and ready for `user` and `adapt`.

    A folder runs no code of its author's: it can name built-in methods and backends and those of installed plugins;
    everything else must be passed.

    Args:
        path: The folder.
        embedder: A name or an object; by default the one that the method was fitted with, if its name is registered.
            It must be the same model, since what was learned is of its vectors.
        llm: A name or an object; by default the one that the method was fitted with, if its name is registered.
        signals: Scores of the reward models, for a method that needs them.
        cls: The class of the method; required if it is neither built in nor an installed plugin.

    Raises:
        UserError: If a file is missing, damaged or of another format, the class or a backend must be passed, or the
            one that was passed is not the one that was saved.

    >>> import tempfile
    >>> from personalllm.core.types import Corpus, Histories
    >>> from personalllm.methods import EmbeddingRanker
    >>> from personalllm.testing import HashEmbedder
    >>> pool = Histories(Corpus(["Hi"], [["Hello there.", "What?"]]), 1, [0], [0], [0], [1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = EmbeddingRanker().fit(pool, embedder=HashEmbedder()).save(f"{folder}/taste")
    ...     load_method(f"{folder}/taste", embedder=HashEmbedder())
    EmbeddingRanker(shrinkage=0.0)
    """
    folder = Path(path).expanduser()
    note = read_note(folder)
    _check_layout(folder, note)
    kind = _class_of(note) if cls is None else _given_class(cls, note)
    _check_embedder_recorded(folder, note, kind)
    try:
        method = kind(**note["method"]["params"])
    except TypeError as error:
        raise UserError(
            f"{folder} has other parameters than {kind.__name__}: {error}.", "Fit the method again and save it."
        ) from error
    recorded = {need: note["backends"].get(need) for need in kind.needs}
    backends: dict[str, Any] = {
        "embedder": _backend("embedder", "embedder", embedder, recorded.get("embedder")),
        "llm": _backend("llm", "chat model", llm, recorded.get("llm")),
    }
    if "embedder" in kind.needs and backends["embedder"].identity != note["backends"]["embedder"]["identity"]:
        fitted, given = note["backends"]["embedder"], backends["embedder"]
        raise UserError(
            f"{folder} was fitted with the embedder {fitted['name']!r} ({fitted['identity']}), not with "
            f"{given.name!r} ({given.identity}).",
            "Pass the embedder that it was fitted with, or fit the method again.",
        )
    method.bind(**backends, signals=signals, seed=note["seed"])
    return method.restore(read_state(folder, note, kind.__module__))


def _check_layout(folder: Path, note: JSON) -> None:
    """Raise unless a note has what `Method.save` writes; its digest is no proof, since anybody can compute it."""
    expected = {"method": dict, "class": str, "seed": int, "backends": dict}
    wrong = [key for key, kind in expected.items() if not isinstance(note.get(key), kind)]
    if not wrong:
        method = note["method"]
        if not (isinstance(method.get("id"), str) and isinstance(method.get("params"), dict)):
            wrong.append("method")
        for need, recorded in note["backends"].items():
            texts = [recorded.get(key) for key in ("name", "identity")] if isinstance(recorded, dict) else [None]
            wrong += [] if all(isinstance(text, str) for text in texts) else [f"backends.{need}"]
    if wrong:
        raise damaged_note(folder, f"{', '.join(map(repr, wrong))} is missing or of another type")


def _check_embedder_recorded(folder: Path, note: JSON, kind: type[Method]) -> None:
    """Raise if a method needs an embedder and the note does not say which one it was fitted with."""
    if "embedder" in kind.needs and "embedder" not in note["backends"]:
        raise damaged_note(folder, f"it names no embedder, which {kind.__name__} needs")


def _class_of(note: JSON) -> type[Method]:
    """Return the registered class of the recorded id."""
    try:
        return recorded_class(note["method"]["id"], note["class"])
    except PersonalLLMError as error:
        raise UserError(
            f"The class {note['class']!r} of the saved method is not imported, since a folder may come from anybody: "
            f"{error.message}",
            "Import it yourself and pass it: load_method(path, cls=MyMethod).",
        ) from error


def _given_class(cls: object, note: JSON) -> type[Method]:
    """Return the class that was passed, if it can be that of the saved method."""
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise ParameterError("cls", "a subclass of personalllm.Method", cls)
    saved = note["method"]["id"]
    if cls.id != saved:
        raise UserError(
            f"The folder holds the method {saved!r}, but cls={cls.__name__} has the id {cls.id!r}.",
            f"Pass the class that was saved, {note['class']}.",
        )
    return cls


def _backend(need: str, kind: Any, given: object, recorded: JSON | None) -> Any:
    """Return the backend that was given, or the one of the recorded name."""
    if given is not None or recorded is None:
        return backend(kind, given)
    name, remedy = recorded["name"], f"Pass it: load_method(path, {need}=...)."
    if ":" in name:  # module:factory would run code that the folder chooses, openai:MODEL would send texts away
        raise UserError(
            f"The saved method needs its {kind} {name!r}, which is not a registered name, so it is not built from what "
            "the folder says.",
            remedy,
        )
    try:
        return backend(kind, name)
    except PersonalLLMError as error:
        raise UserError(
            f"The saved method needs its {kind} {name!r}, which is not found by that name: {error.message}", remedy
        ) from error
