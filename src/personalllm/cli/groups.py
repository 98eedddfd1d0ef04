"""Option groups: frozen dataclasses whose fields become the options of every command that takes one.

A command is a function. A parameter that is annotated with a dataclass is replaced by the fields of that dataclass,
each a typer option with the field's annotation and default; the function receives the finished object.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperGroup
from typer.main import get_command
from typer.models import OptionInfo

__all__ = ["LazyCommands", "command", "command_group", "with_groups"]


def with_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function with the fields of its option groups as parameters.

    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class Size:
    ...     users: Annotated[int, typer.Option(help="Users.")] = 3
    >>> def show(name: str, size: Size) -> None: print(name, size)
    >>> with_groups(show)(name="a", users=2)
    a Size(users=2)
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in groups:
            parameters += _options(groups[name])
        else:
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(name, keyword, default=parameter.default, annotation=hints[name]))

    @functools.wraps(function)
    def expanded(**values: Any) -> None:
        objects = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        function(**values, **objects)

    expanded.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(function) or "")  # typer keeps line breaks
    vars(expanded)["__signature__"] = inspect.Signature(parameters)
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _options(group: Any) -> Iterator[inspect.Parameter]:
    """Yield a parameter for each field, those that a group inherits last.

    Options stand in the help under the `title` of their group, if it has one.
    """
    hints, own = get_type_hints(group, include_extras=True), group.__annotations__
    for field in sorted(fields(group), key=lambda field: field.name not in own):
        annotation, *information = get_args(hints[field.name])
        option = copy(information[0])
        if isinstance(option, OptionInfo):
            option.rich_help_panel = getattr(group, "title", None)
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        kind = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(field.name, kind, default=default, annotation=Annotated[annotation, option])


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a function with option groups to a group of commands."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name=name)(with_groups(function))
        return function

    return register


def command_group(text: str, **settings: Any) -> typer.Typer:
    """Return an empty group of commands; `text` is its help, and without arguments it is shown."""
    app = _app(help=text, no_args_is_help=True, **settings)
    app.callback()(lambda: None)  # without it a group of one command would be that command
    return app


def _app(*, add_completion: bool = False, **settings: Any) -> typer.Typer:
    return typer.Typer(
        add_completion=add_completion, rich_markup_mode="rich", pretty_exceptions_enable=False, **settings
    )


class LazyCommands(TyperGroup):
    """A group whose commands are imported when they are needed, so that each one starts fast.

    Subclasses set `references`: name of a command -> "module:attribute", a function or a `typer.Typer`.
    """

    references: Mapping[str, str] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Imported(self.references)  # type: ignore[assignment]


class _Imported(Mapping[str, Any]):
    """Commands by name; a value is imported when it is read."""

    def __init__(self, references: Mapping[str, str]) -> None:
        self._references = references
        self._cache: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._cache:
            module, _, attribute = self._references[name].partition(":")
            target = getattr(import_module(module), attribute)
            if not isinstance(target, typer.Typer):
                function, target = target, _app()
                command(target)(function)
            self._cache[name] = get_command(target)
            self._cache[name].name = name
        return self._cache[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._references)

    def __len__(self) -> int:
        return len(self._references)
