"""`personalllm`: puts the commands together and turns errors into messages."""

from __future__ import annotations

import sys
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
    presets,
    report,
    reproduce,
    rewards,
    sweep,
)
from personalllm.errors import PersonalLLMError, UserError

__all__ = ["app", "main"]

app = typer.Typer(
    name="personalllm",
    help="Measure how well language models personalise, on simulated users with truly different tastes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data", help="Inspect, validate and make benchmark data.")
app.add_typer(models.app, name="models", help="Fetch and verify model files.")
app.add_typer(rewards.app, name="rewards", help="Train and inspect compact reward models.")
app.add_typer(build.app, name="build", help="Make a benchmark from prompts, chat models and reward models.")
app.add_typer(reproduce.app, name="reproduce", help="Run the paper's experiments and set the numbers side by side.")
app.add_typer(personas.app, name="personas", help="Let personas score the responses (persona prompting).")
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="presets")(presets.presets)
app.command(name="sweep")(sweep.sweep)
app.command(name="analyze")(analyze.analyze)
app.command(name="report")(report.report_command)
app.command(name="demo")(demo.demo)


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
    """Run the command line; a user error is printed with its remedy (exit status 2), a run error likewise (1)."""
    try:
        app()
    except PersonalLLMError as error:
        from rich.console import Console
        from rich.text import Text

        text = Text.assemble(("error: ", "bold red"), error.message)
        if error.remedy:
            text.append(f"\n{error.remedy}", style="cyan")
        Console(stderr=True, soft_wrap=True).print(text)
        sys.exit(2 if isinstance(error, UserError) else 1)
