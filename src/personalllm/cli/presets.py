"""`personalllm presets`: the named protocols and every value in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from personalllm.cli.options import complete_presets

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.evaluation import Preset

__all__ = ["presets"]


def presets(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Id of a preset, or its name for the newest version.",
            autocompletion=complete_presets,
            show_default="list all",
        ),
    ] = None,
) -> None:
    """List the named protocols, or show every field and method of one."""
    from personalllm.evaluation import get_preset, list_presets
    from personalllm.report.terminal import output_console

    console = output_console()
    if name is not None:
        _show(get_preset(name), console)
        return
    for name in list_presets():
        preset = get_preset(name)
        console.print(f"[bold]{name}[/]  {preset.title}; {len(preset.methods)} methods", highlight=False)
    console.print("Every field of one: personalllm presets NAME", highlight=False)


def _show(preset: Preset, console: Console) -> None:
    """Print a preset, every field of it."""
    from rich.markup import escape

    from personalllm.evaluation import load_track
    from personalllm.evaluation.settings import flatten, shown
    from personalllm.report.terminal import show_rows

    console.print(f"[bold]{preset.id}[/]  {escape(preset.title)}", highlight=False, soft_wrap=True)
    console.print(escape(preset.description), highlight=False)
    console.print(f"Source: {escape(preset.source)}\n", highlight=False, soft_wrap=True)
    fields = [(field, escape(shown(value))) for field, value in flatten(preset.protocol).items()]
    show_rows(console, ("", ""), fields, header=False)
    console.print("\nMethods", highlight=False)
    for method in preset.methods:
        console.print(f"  {escape(method)}", highlight=False, soft_wrap=True)
    llm = " --llm MODEL" if "llm" in load_track(preset.protocol["track"]).needs else ""
    console.print(
        f"\nRun: personalllm evaluate --preset {preset.id} --data BENCHMARK{llm}; change a field with "
        "--set FIELD=VALUE",
        highlight=False,
        soft_wrap=True,
    )
