"""`personalllm`: puts the commands together and turns errors into messages."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from personalllm import __version__
from personalllm.cli import (
    analyze,
    build,
    data,
    demo,
    evaluate,
    models,
    personas,
    plugins,
    presets,
    report,
    reproduce,
    rewards,
    sweep,
    transfer,
)
from personalllm.core.errors import PersonalLLMError, UserError

__all__ = ["app", "main"]

app = typer.Typer(
    name="personalllm",
    help="Measure how well language models personalise, on simulated users with truly different tastes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data", help="Inspect, validate, make and publish benchmark data.")
app.add_typer(models.app, name="models", help="Fetch and verify model files.")
app.add_typer(rewards.app, name="rewards", help="Train and inspect compact reward models.")
app.add_typer(build.app, name="build", help="Make a benchmark from prompts, chat models and reward models.")
app.add_typer(reproduce.app, name="reproduce", help="Run the paper's experiments and set the numbers side by side.")
app.add_typer(personas.app, name="personas", help="Let personas score the responses (persona prompting).")
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="presets")(presets.presets)
app.command(name="sweep")(sweep.sweep)
app.command(name="transfer")(transfer.transfer)
app.command(name="analyze")(analyze.analyze)
app.command(name="report")(report.report_command)
app.command(name="demo")(demo.demo)
app.command(name="list")(plugins.list_names)
app.command(name="check")(plugins.check)


_GO_ON = "Free space there, then run the same command again."
_PLACE = "Give another place, or change who may read and write it."
_DISK = {
    errno.ENOSPC: _GO_ON,
    errno.EDQUOT: _GO_ON,
    errno.EROFS: _PLACE,
    errno.EACCES: _PLACE,
    errno.EPERM: _PLACE,
    errno.ENOTDIR: _PLACE,
    errno.EISDIR: _PLACE,
    errno.EEXIST: _PLACE,
}


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

    So is what the disk says: it is full, or a place may not be read or written.
    """
    try:
        app()
    except PersonalLLMError as error:
        _print_error(error.message, error.remedy, getattr(error, "__notes__", ()))
        sys.exit(2 if isinstance(error, UserError) else 1)
    except OSError as error:
        remedy = _DISK.get(error.errno or 0)
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
