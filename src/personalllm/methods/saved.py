"""Read a saved method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from personalllm.core.backends import backend
from personalllm.core.errors import PersonalLLMError, UserError
from personalllm.core.protocols import RewardSignals
from personalllm.core.types import JSON
from personalllm.methods.base import Method
from personalllm.methods.registry import method_class
from personalllm.methods.state import read_note, read_state

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

    Args:
        path: The folder.
        embedder: A name or an object; by default the one that the method was fitted with, by its name. It must be the
            same model, since what was learned is of its vectors.
        llm: A name or an object; by default the one that the method was fitted with, by its name.
        signals: Scores of the reward models, for a method that needs them.
        cls: The class of the method, if it can be found neither by its id nor by its module.

    Raises:
        UserError: If a file is missing, damaged or of another format, the class cannot be found, or the embedder is
            another one.

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
    kind = cls or _class_of(note)
    try:
        method = kind(**note["method"]["params"])
    except TypeError as error:
        raise UserError(
            f"{folder} has other parameters than {kind.__name__}: {error}.", "Fit the method again and save it."
        ) from error
    backends: dict[str, Any] = {
        "embedder": _backend("embedder", "embedder", embedder, note),
        "llm": _backend("llm", "chat model", llm, note),
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


def _class_of(note: JSON) -> type[Method]:
    """Return the class: a built-in one by its id, which outlives a move of its file, any other by module and name."""
    built_in = note["class"].startswith("personalllm.")
    try:
        return method_class(note["method"]["id"] if built_in else note["class"])
    except PersonalLLMError as error:
        raise UserError(
            f"The class {note['class']!r} of the saved method cannot be found: {error.message}",
            "Pass it: load_method(path, cls=MyMethod).",
        ) from error


def _backend(need: str, kind: Any, given: object, note: JSON) -> Any:
    """Return the backend that was given, or the one of the recorded name."""
    recorded = note["backends"].get(need)
    if given is not None or recorded is None:
        return backend(kind, given)
    try:
        return backend(kind, recorded["name"])
    except PersonalLLMError as error:
        raise UserError(
            f"The saved method needs its {kind} {recorded['name']!r}, which is not found by that name: {error.message}",
            f"Pass it: load_method(path, {need}=...).",
        ) from error
