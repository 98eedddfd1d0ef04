"""Define the exception tree.

Two families under `PersonalLLMError`: `UserError`, which the person at the keyboard can fix (the command line
prints it with its remedy and exits with status 2), and `RunError`, which arose while work was under way.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "AxisMismatch",
    "DataError",
    "MissingExtra",
    "ModelFileError",
    "OfflineError",
    "ParameterError",
    "PersonalLLMError",
    "PluginError",
    "RunError",
    "UnknownName",
    "UserError",
]


class PersonalLLMError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        message: What was wrong and where.
        remedy: How to fix it; empty if there is nothing to add.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class UserError(PersonalLLMError):
    """Something the user gave cannot be used; the remedy says what to do."""


class RunError(PersonalLLMError):
    """Work that had begun could not be finished."""


class ParameterError(UserError):
    """A parameter is outside its range: names the parameter, the allowed range, and what was given."""

    def __init__(self, parameter: str, allowed: str, given: object) -> None:
        super().__init__(f"{parameter} must be {allowed}, got {given!r}.")
        self.parameter = parameter
        self.allowed = allowed
        self.given = given

    def __reduce__(self) -> tuple[type[ParameterError], tuple[str, str, object]]:
        return type(self), (self.parameter, self.allowed, self.given)


class AxisMismatch(UserError):
    """Two objects disagree on the names or the order of an axis (reward models, responses, prompts)."""


class DataError(UserError):
    """A benchmark file breaks the schema: says the file, the column, the row and the remedy."""


class UnknownName(UserError):
    """A name is not registered; the remedy lists the nearest names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = self.nearest(name, names)
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else f"Known: {', '.join(names)}."
        super().__init__(f"There is no {kind} named {name!r}.", hint)
        self.kind = kind
        self.name = name
        self.known = tuple(names)

    @staticmethod
    def nearest(name: str, known: Iterable[str]) -> list[str]:
        """Return the known names that are near a name, the nearest first, at most three.

        >>> UnknownName.nearest("n_user", ["alpha", "n_users", "split"])
        ['n_users']
        """
        return get_close_matches(name, sorted(known), n=3, cutoff=0.4)

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.kind, self.name, self.known)


class MissingExtra(UserError):
    """An optional dependency is not installed; the remedy is the install command."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"The package {package!r} is not installed.", f'Run: pip install "personalllm[{extra}]"')
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.package, self.extra)


class PluginError(UserError):
    """A plugin or a user's module could not be loaded; names it and says why."""


class ModelFileError(UserError):
    """A model file is absent, partial or not the file that the registry describes."""


class OfflineError(UserError):
    """Something needs the network while the offline switch is on or the network cannot be reached."""
