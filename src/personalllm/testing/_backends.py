"""Share what the contracts of the backends need: texts, remedies, and clauses about names, arrays and copies."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from personalllm.testing._scenes import ODD_TEXTS

__all__ = ["COPY", "IDENTITY", "PLAIN", "TEXTS", "WHOLE", "check_array", "check_name", "pickled", "require"]

PLAIN = ("A short text.", "Another one, about rain in April.", "A recipe: two eggs, flour, and a pinch of salt.")
TEXTS = (*PLAIN, *ODD_TEXTS)
IDENTITY = "Return a text with all that decides the output: weights (a digest), versions, settings."
WHOLE = "Pad and pool so that the other texts of a batch do not show; mask padding."
COPY = "Define the class at the top of a module; load weights when first used and leave them out of __getstate__."


def require(subject: object, condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(f"{type(subject).__name__}: {message}.")


def check_name(subject: Any, name: str) -> None:
    value = getattr(subject, name)
    require(subject, isinstance(value, str) and value.strip(), f"{name} must be a non-empty text, got {value!r}")
    require(subject, getattr(subject, name) == value, f"{name} must not change from one look to the next")


def pickled(subject: Any) -> Any:
    try:
        data = pickle.dumps(subject)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise AssertionError(f"{type(subject).__name__}: it cannot be pickled: {error}.") from error
    return pickle.loads(data)  # noqa: S301


def check_array(subject: object, values: Any, what: str, shape: tuple[int, ...], axes: str) -> None:
    require(subject, isinstance(values, np.ndarray), f"{what} must return an array, got {type(values).__name__}")
    require(subject, values.dtype == np.float32, f"{what} must return float32, got {values.dtype}")
    require(subject, values.shape == shape, f"{what} must return {axes} = {shape}, got {values.shape}")
