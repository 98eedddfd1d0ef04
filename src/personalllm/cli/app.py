"""Assemble the commands of `personalllm` and turn errors into messages."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from personalllm import __version__
from personalllm.cli.groups import LazyCommands, command_group
from personalllm.core.errors import PersonalLLMError, UserError

__all__ = ["app", "main"]


class _Commands(LazyCommands):
    references = {
        "data": "personalllm.cli.data:app",
        "models": "personalllm.cli.models:app",
        "rewards": "personalllm.cli.rewards:app",
        "build": "personalllm.cli.build:app",
        "reproduce": "personalllm.cli.reproduce:app",
        "personas": "personalllm.cli.personas:app",
        "people": "personalllm.cli.people:people",
        "evaluate": "personalllm.cli.evaluate:evaluate",
        "presets": "personalllm.cli.presets:presets",
        "sweep": "personalllm.cli.sweep:sweep",
        "transfer": "personalllm.cli.transfer:transfer",
        "analyze": "personalllm.cli.analyze:analyze",
        "report": "personalllm.cli.report:report_command",
        "demo": "personalllm.cli.demo:demo",
        "list": "personalllm.cli.plugins:list_names",
        "check": "personalllm.cli.plugins:check",
    }


app = command_group(
    "Measure how well language models personalise, on simulated users with truly different tastes.",
    name="personalllm",
    cls=_Commands,
    add_completion=True,
)

_SPACE = "Free space there, then run the same command again."
_ACCESS = "Give another path, or change who may read and write it."
_REMEDIES = {errno.ENOSPC: _SPACE, errno.EDQUOT: _SPACE} | dict.fromkeys(
    (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), _ACCESS
)


def _show_version(*, value: bool) -> None:
    if value:
        typer.echo(f"personalllm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line; a user error is printed with its remedy (exit status 2), a run error likewise (1).

    A full disk, or a path that may not be read or written, is a run error.
    """
    try:
        app()
    except PersonalLLMError as error:
        _print_error(error.message, error.remedy, getattr(error, "__notes__", ()))
        sys.exit(2 if isinstance(error, UserError) else 1)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _print_error(f"{where}{error.strerror}.", remedy)
        sys.exit(1)


def _print_error(message: str, remedy: str, notes: Sequence[str] = ()) -> None:
    from rich.console import Console
    from rich.text import Text

    text = Text.assemble(("error: ", "bold red"), message)
    if remedy:
        text.append(f"\n{remedy}", style="cyan")
    for note in notes:
        text.append(f"\n{note}", style="dim")
    Console(stderr=True, soft_wrap=True).print(text)
